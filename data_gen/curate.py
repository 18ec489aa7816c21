"""Reader -> frame store: in parallel, resumable after a kill at any moment, skipped frames counted by reason.

The reader's keys are cut into groups of equal length and each group becomes one shard. ``frames-000007.json`` holds
what group 7 skipped and dropped and is written before ``frames-000007.parquet`` appears, both by rename: whatever is
there is whole, so a second run only makes the groups that are missing, and comes to the same files as an undisturbed
one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_gen.engines import RUNNERS, Engine
from data_gen.readers import Reader
from depthlm.errors import DepthLMError, SkipReport
from depthlm.store import SCHEMA, replace_file, write_shard
from depthlm.store_index import INDEX_FILE, index_bytes

logger = logging.getLogger(__name__)

STORE_VERSION = 1


def curate(
    reader: Reader,
    out: Path,
    workers: int = 1,
    frames_per_shard: int = 64,
    limit: int | None = None,
    engine: Engine = "processes",
) -> SkipReport:
    """Read all frames (or the first ``limit`` keys) into the store folder ``out``; what is there already is kept.

    Every image is decoded once, so that a stored frame is known to be whole. ``out/report.json`` holds the counts.

    Args:
        reader: where the frames come from.
        out: the store's folder, made if need be.
        workers: processes; 1 reads in this one. With Ray, tasks under way at once.
        frames_per_shard: keys in one shard.
        limit: take only so many keys, None for all.
        engine: "processes" of this machine, or the tasks of a "ray" cluster whose machines all see ``out`` and the
            source under the same paths.

    Raises:
        DepthLMError: an unknown engine, a bad argument, two equal keys, no key at all, every frame skipped, ``out``
            unwritable, in use, holding other things, or begun from another reader, source or option; workers that die
            again and again.
    """
    for name, value in (("workers", workers), ("frames_per_shard", frames_per_shard), ("limit", limit)):
        if value is not None and value < 1:
            raise DepthLMError(name, f"must be at least 1, got {value}")
    if engine not in RUNNERS:
        raise DepthLMError("engine", f"{engine!r} is not known", f"one of {', '.join(RUNNERS)}")
    try:
        keys = list(reader.keys())[:limit]
    except (DepthLMError, MemoryError):
        raise
    except Exception as error:
        raise DepthLMError(
            f"reader {reader.name}", f"can't list the frames: {error!r}", "check the dataset's files", "not understood"
        ) from error
    if not keys:
        raise DepthLMError(f"reader {reader.name}", "found no frame", "check the source", "no frames")
    if len(set(keys)) < len(keys):
        raise DepthLMError(f"reader {reader.name}", "gives some key twice", "correct the reader", "double key")
    with _locked(out):
        _begin(reader, keys, out, frames_per_shard)
        groups = {i // frames_per_shard: keys[i : i + frames_per_shard] for i in range(0, len(keys), frames_per_shard)}
        results = {number: done for number in groups if (done := _finished(out, number)) is not None}
        _make_missing(reader, out, groups, results, workers, engine)
        return _finish(reader, out, [results[number] for number in groups])


def _make_missing(
    reader: Reader,
    out: Path,
    groups: dict[int, Sequence[str]],
    results: dict[int, dict[str, Any]],
    workers: int,
    engine: Engine,
) -> None:
    """Make the groups that have no result yet, with a progress bar; adds theirs to ``results``."""
    total = sum(len(keys) for keys in groups.values())
    done = sum(result["keys"] for result in results.values())
    missing = {number: (out, number, keys) for number, keys in groups.items() if number not in results}
    run = RUNNERS["here" if engine == "processes" and (workers == 1 or len(missing) < 2) else engine]
    with tqdm(total=total, initial=done, desc=f"curate {reader.name}", unit="frame", smoothing=0.1) as bar:
        for number, result in run(reader, make_group, missing, workers):
            results[number] = result
            bar.set_postfix(skipped=sum(r["keys"] - r["frames"] for r in results.values()), refresh=False)
            bar.update(result["keys"])


def make_group(reader: Reader, out: Path, number: int, keys: Sequence[str]) -> dict[str, Any]:
    """Read one group, write its report and then its shard; returns the report. Safe to be done twice."""
    frames, skipped, dropped, noted = [], SkipReport(), Counter[str](), Counter[str]()
    for key in keys:
        try:
            frame = reader.read(key)
            frame.pixels()
            frames.append(frame)
            dropped.update(frame.dropped)
            noted.update(frame.noted)
        except MemoryError:
            raise
        except Exception as error:  # a reader of data from anywhere: no frame may cost the others
            text = str(error)
            skipped.count(_kind(error), text if key in text else f"{key}: {text}")
    result = {
        "keys": len(keys),
        "frames": len(frames),
        "skipped": skipped.to_dict(),
        "dropped_labels": dict(dropped.most_common()),
        "noted": dict(noted.most_common()),
    }
    replace_file(_report_path(out, number), _json(result))
    if frames:
        write_shard(_shard_path(out, number), frames)
    return result


def _kind(error: Exception) -> str:
    if isinstance(error, DepthLMError):
        return error.kind
    return "unreadable file" if isinstance(error, OSError) else f"not understood ({type(error).__name__})"


def _finished(out: Path, number: int) -> dict[str, Any] | None:
    """The report of a group that is whole, else None."""
    path = _report_path(out, number)
    if not path.is_file():
        return None
    result = json.loads(path.read_bytes())
    return result if result["frames"] == 0 or _shard_path(out, number).is_file() else None


def _begin(reader: Reader, keys: Sequence[str], out: Path, frames_per_shard: int) -> None:
    """Write ``store.json`` or check that the one there asks for the same; clear what a killed run left half-written."""
    wanted = {
        "format": "depthlm-frames",
        "version": STORE_VERSION,
        "reader": reader.name,
        "settings": json.loads(json.dumps(reader.settings())),
        "frames_per_shard": frames_per_shard,
        "keys": len(keys),
        "keys_sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
    }
    path = out / "store.json"
    if path.is_file():
        _check_same(path, wanted)
    else:
        strangers = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        if strangers:
            raise DepthLMError(
                out, f"is no frame store and not empty (it holds {strangers[0]})", "choose another --out", "not empty"
            )
        replace_file(path, _json(wanted))
    for leftover in out.glob(".*.tmp-*"):
        leftover.unlink(missing_ok=True)


def _check_same(path: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_bytes())
        found, wanted = ({**d, **d["settings"]} for d in (found, wanted))
    except (ValueError, TypeError, KeyError) as error:
        raise DepthLMError(path, f"is damaged: {error}", "delete the store and run again", "damaged store") from error
    differing = [
        f"{k} {found.get(k)!r} → {wanted.get(k)!r}"
        for k in sorted({*found, *wanted} - {"settings"})
        if found.get(k) != wanted.get(k)
    ]
    if differing:
        raise DepthLMError(
            path,
            f"the store was begun with other settings: {'; '.join(differing)}",
            "choose another --out, or delete this store",
            "other settings",
        )


def _finish(reader: Reader, out: Path, results: Sequence[dict[str, Any]]) -> SkipReport:
    report, dropped, noted = SkipReport(), Counter[str](), Counter[str]()
    for result in results:
        report.merge(result["skipped"])
        dropped.update(result["dropped_labels"])
        noted.update(result.get("noted", {}))
    for what, count in noted.items():
        logger.warning("%s: %d of the frames: %s", out, count, what)
    frames = sum(result["frames"] for result in results)
    total = {
        "reader": reader.name,
        "keys": sum(result["keys"] for result in results),
        "frames": frames,
        "skipped": report.to_dict(),
        "dropped_labels": dict(dropped.most_common()),
        "noted": dict(noted.most_common()),
    }
    if frames:
        replace_file(out / INDEX_FILE, index_bytes(out, SCHEMA.names))
    replace_file(out / "report.json", _json(total))
    if frames == 0:
        raise DepthLMError(
            out, f"no frame was usable: {report}", "mend the source, delete this folder and run again", "empty store"
        )
    return report


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make the folder and hold it for this process; the lock goes with the process, however that ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error.strerror}", "choose another --out", "unwritable") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DepthLMError(
                out, "another process is writing this store", "wait for it to end", "store in use"
            ) from error
        except OSError:
            pass  # some network file systems have no locks; there the user sees to it
        yield


def _shard_path(out: Path, number: int) -> Path:
    return out / f"frames-{number:06d}.parquet"


def _report_path(out: Path, number: int) -> Path:
    return out / f"frames-{number:06d}.json"


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
