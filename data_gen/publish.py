"""A suite as a Hugging Face dataset, and back: `depthlm data publish | fetch`.

``questions/`` has a row per question, with its line of questions.jsonl as it stands, from which the content hash is
made again; ``frames/`` the suite's own shards, or ``images/`` its stored images. No image is there twice: each folder
is a configuration of its own, and a question names its frames by id.

What is fetched is data from anywhere: every frame and image is checked against its hash, and nothing is written but
under names that are made here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_gen.dataset_card import dataset_card
from depthlm.errors import DepthLMError
from depthlm.frame import decode_rgb
from depthlm.store import SCHEMA, FrameStore, replace_file
from depthlm.store_index import INDEX_FILE, index_bytes
from depthlm.suite import BYTES_PER_SHARD, FRAMES, Item, Suite, frame_hash, image_name, read_suite

QUESTIONS, IMAGES, CARD = "questions", "images", "README.md"
QUESTIONS_PER_SHARD = 20_000
IMAGES_PER_GROUP = 32
# All that a published folder holds, for the hub: what else lies there is neither uploaded nor fetched.
KEPT = [CARD, "suite.json", *(f"{name}/{name}-*.parquet" for name in (QUESTIONS, FRAMES, IMAGES))]
SHARD = re.compile(rf"({QUESTIONS}|{FRAMES}|{IMAGES})-\d{{6}}\.parquet")
IMAGE_NAME = re.compile(r"images/[0-9a-f]{24}\.png")
REPO_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
NAMED_IN_CARD = re.compile(rf'(depthlm data fetch |load_dataset\("){REPO_NAME.pattern}')

_POINT = pa.struct([("colour", pa.string()), ("x", pa.float64()), ("y", pa.float64())])
_QUESTION_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "kind", "dataset", "question", "answer")),
        ("truth", pa.float64()),
        ("unit", pa.string()),
        ("frame_ids", pa.list_(pa.string())),
        ("points", pa.list_(_POINT)),  # marked pixels of the first frame's own image
        ("images", pa.list_(pa.string())),
        ("row", pa.string()),
    ]
)
_IMAGE_SCHEMA = pa.schema(
    [("path", pa.string()), SCHEMA.field("image")],
    metadata={
        "huggingface": json.dumps(
            {"info": {"features": {"path": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}}}
        )
    },
)


def publish(suite: Suite, out: Path) -> Path:
    """Write a suite as a dataset folder, whole or not at all.

    The skip report's examples are left out of its suite.json: they may name paths of this machine.

    Raises:
        DepthLMError: ``out`` is not empty or can't be written, or a frame or image is not the one that was frozen.
    """
    out = Path(out)
    with _whole(out) as made:
        _check_content(suite)
        _write_questions(made / QUESTIONS, suite)
        if any(item.frame_hashes for item in suite.items):
            _copy_frames(suite.path / FRAMES, made / FRAMES, suite.path.resolve())
        if images := sorted({(name, path) for i in suite.items for name, path in _stored(i)}):
            _write_images(made / IMAGES, images)
        info = {**suite.info, "settings": _without_examples(suite.settings)}
        replace_file(made / "suite.json", (json.dumps(info, indent=1) + "\n").encode())
        replace_file(made / CARD, dataset_card(suite, _licences(made / FRAMES)).encode())
    return out


def _without_examples(settings: dict[str, Any]) -> dict[str, Any]:
    skipped = settings.get("skipped")
    if not isinstance(skipped, dict):
        return {name: value for name, value in settings.items() if name != "skipped"}
    counts = {kind: {**found, "examples": []} for kind, found in skipped.items() if isinstance(found, dict)}
    return {**settings, "skipped": counts}


def upload(out: Path, repo: str, private: bool = False) -> str:
    """Upload a published folder as a dataset of the hub, in one commit; its address.

    What an earlier upload left there of other shards goes away; files that are no suite's stay.

    Raises:
        DepthLMError: no published folder, a wrong name, no right to write there, a public repository where a private
            one was asked for, or a hub that can't be reached.
    """
    from huggingface_hub import HfApi

    out = Path(out)
    if not all((out / name).is_file() for name in (CARD, "suite.json")):
        raise DepthLMError(out, "is no published suite", "write one with `depthlm data publish`")
    _check_name(repo)
    card = NAMED_IN_CARD.sub(rf"\g<1>{repo}", (out / CARD).read_text(encoding="utf-8"))
    replace_file(out / CARD, card.encode())
    api = HfApi(library_name="depthlm")
    with _explained(repo, "write"):
        url = api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
        if private and not api.repo_info(repo, repo_type="dataset").private:
            raise DepthLMError(repo, "is public already", "make it private on the hub, or name another repository")
        api.upload_folder(
            repo_id=repo,
            folder_path=out,
            repo_type="dataset",
            commit_message="A DepthLM suite",
            allow_patterns=KEPT,
            delete_patterns=KEPT[1:],
        )
    return str(url)


def fetch(source: str, out: Path) -> Suite:
    """Make a suite's folder from a published one, whole or not at all.

    Args:
        source: a folder, or ``OWNER/NAME`` of a dataset on the hub, also ``OWNER/NAME@REVISION``.

    Raises:
        DepthLMError: no such source, or one that is not as it was published; ``out`` is not empty; the hub can't be
            reached.
    """
    out = Path(out)
    with _whole(out) as made:
        folder = Path(source)
        if folder.is_dir():
            root = folder.resolve()
        else:
            folder = _download(source)
            root = folder.parents[1].resolve()  # the hub's cache: a snapshot's files are links to its blobs
        _unpack(folder, root, made)
        _check_content(read_suite(made))
    return read_suite(out)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``out`` in the end; nothing is left where something fails."""
    out = out.resolve()
    made = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DepthLMError(out, "is not empty", "name a new folder")
        made.mkdir(parents=True)
        yield made
        made.replace(out)
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error}", "check the path and its permissions") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _stored(item: Item) -> Iterable[tuple[str, Path]]:
    return zip(item.images, item.image_paths, strict=True)


def _check_content(suite: Suite) -> None:
    """Every frame and image of a suite is there and the one that was frozen, and there are no others.

    Raises:
        DepthLMError: naming the first that is not.
    """
    names = {name for item in suite.items for name in item.images}
    for name in tqdm(sorted(names), desc="check images", unit="image", disable=not names):
        if name != image_name(decode_rgb((suite.path / name).read_bytes(), f"{suite.path}/{name}")):
            raise DepthLMError(suite.path, f"{name} is not the one that was frozen", "freeze or fetch it again")
    found = {f"{IMAGES}/{path.name}" for path in (suite.path / IMAGES).glob("*")}
    if found - names:
        reason = f"no question is about {sorted(found - names)[0]}"
        raise DepthLMError(suite.path, reason, "freeze or fetch it again")
    hashes: dict[str, str] = {}
    for item in suite.items:
        if item.images:
            continue
        for frame_id, digest in zip(item.frame_ids, item.frame_hashes, strict=True):
            if hashes.setdefault(frame_id, digest) != digest:
                raise DepthLMError(suite.path, f"has two hashes of frame {frame_id}", "freeze or fetch it again")
    if hashes:
        _check_frames(FrameStore(suite.path / FRAMES), hashes)


def _check_frames(store: FrameStore, hashes: dict[str, str]) -> None:
    if missing := sorted(set(hashes) - set(store.ids)):
        raise DepthLMError(store.path, f"has no frame {missing[0]}", "freeze or fetch the suite again")
    for row in tqdm(range(len(store)), desc="check frames", unit="frame"):
        try:
            frame = store[row]
            good = hashes.get(frame.id) == frame_hash(frame)
        except (TypeError, ValueError, AttributeError, pa.ArrowException) as error:  # what a changed file may lead to
            raise DepthLMError(store.path, f"row {row} is no frame: {error}", "fetch the suite again") from error
        if not good:
            reason = f"frame {frame.id} is not one that was frozen"
            raise DepthLMError(store.path, reason, "freeze or fetch the suite again")


def _write_questions(folder: Path, suite: Suite) -> None:
    folder.mkdir()
    plain = [name for name in _QUESTION_SCHEMA.names if name not in ("points", "row")]
    with (suite.path / "questions.jsonl").open(encoding="utf-8", newline="\n") as file:
        for shard, start in enumerate(range(0, len(suite.items), QUESTIONS_PER_SHARD)):
            rows = [
                {
                    **{name: getattr(item, name) for name in plain},
                    "points": [_pixel(point, item) for point in item.points],
                    "row": file.readline().rstrip("\n"),
                }
                for item in suite.items[start : start + QUESTIONS_PER_SHARD]
            ]
            table = pa.Table.from_pylist(rows, schema=_QUESTION_SCHEMA)
            pq.write_table(table, folder / f"{QUESTIONS}-{shard:06d}.parquet", compression="ZSTD")


def _pixel(point: dict[str, Any], item: Item) -> dict[str, Any]:
    try:
        x, y = map(float, point["source_xy"])
        return {"colour": str(point["colour"]), "x": x, "y": y}
    except (KeyError, TypeError, ValueError) as error:
        raise DepthLMError(f"question {item.id}", f"has no point of this form: {point}", "freeze it again") from error


def _write_images(folder: Path, images: list[tuple[str, Path]]) -> None:
    folder.mkdir()
    part: list[dict[str, Any]] = []
    size = shard = 0
    for number, (name, path) in enumerate(images, 1):
        part.append({"path": name, "image": {"bytes": path.read_bytes(), "path": None}})
        size += len(part[-1]["image"]["bytes"])
        if size >= BYTES_PER_SHARD or number == len(images):
            table = pa.Table.from_pylist(part, schema=_IMAGE_SCHEMA)
            target = folder / f"{IMAGES}-{shard:06d}.parquet"
            pq.write_table(table, target, compression="NONE", row_group_size=IMAGES_PER_GROUP)
            part, size, shard = [], 0, shard + 1


def _shards(folder: Path, name: str, root: Path) -> list[Path]:
    """The shards of one kind that lie within ``root``, in order.

    Raises:
        DepthLMError: one of them is a link to somewhere else.
    """
    found = sorted(path for path in (folder / name).glob(f"{name}-*.parquet") if SHARD.fullmatch(path.name))
    for path in found:
        _inside(path, root)
    return found


def _inside(path: Path, root: Path) -> Path:
    if not path.resolve().is_relative_to(root):
        raise DepthLMError(path, "is a link to outside the folder", "fetch it from where it was published")
    return path


def _copy_frames(source: Path, target: Path, root: Path) -> None:
    """Copy shards of frames."""
    target.mkdir()
    for number, path in enumerate(_shards(source.parent, source.name, root)):
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise DepthLMError(path, f"shard can't be read: {error}", "fetch the suite again") from error
        if not schema.equals(SCHEMA):
            raise DepthLMError(path, "is no shard of frames", "fetch the suite again")
        shutil.copyfile(path, target / f"{FRAMES}-{number:06d}.parquet")


def _licences(frames: Path) -> dict[str, int]:
    """The frames' licence notes, and of how many frames each."""
    counts: dict[str, int] = {}
    for path in sorted(frames.glob("*.parquet")):
        for note in pq.read_table(path, columns=["licence"])["licence"].to_pylist():
            counts[note or ""] = counts.get(note or "", 0) + 1
    return counts


def _unpack(folder: Path, root: Path, made: Path) -> None:
    """A published folder -> the files of a suite, not yet checked."""
    shards = _shards(folder, QUESTIONS, root)
    if not shards or not (folder / "suite.json").is_file():
        raise DepthLMError(folder, "is no published suite", "give what `depthlm data publish` wrote")
    shutil.copyfile(_inside(folder / "suite.json", root), made / "suite.json")
    with (made / "questions.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for path in shards:
            file.writelines(f"{line}\n" for line in _lines(path))
    if _shards(folder, FRAMES, root):
        _copy_frames(folder / FRAMES, made / FRAMES, root)
        replace_file(made / FRAMES / INDEX_FILE, index_bytes(made / FRAMES, SCHEMA.names))
    for path in _shards(folder, IMAGES, root):
        _unpack_images(path, made)


def _unpack_images(path: Path, made: Path) -> None:
    (made / IMAGES).mkdir(exist_ok=True)
    with _readable(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(IMAGES_PER_GROUP, columns=["path", "image"]):
            for row in batch.to_pylist():
                name, data = row["path"], (row["image"] or {}).get("bytes")
                if not isinstance(data, bytes) or not IMAGE_NAME.fullmatch(str(name)):  # it becomes a path
                    raise DepthLMError(path, f"holds {str(name)[:80]!r}, which is no image", "fetch it again")
                (made / str(name)).write_bytes(data)


def _lines(path: Path) -> list[str]:
    """The lines of questions.jsonl that a shard of questions holds."""
    with _readable(path):
        lines = pq.read_table(path, columns=["row"])["row"].to_pylist()
    if not all(isinstance(line, str) for line in lines):
        raise DepthLMError(path, "has questions without their row", "fetch it again")
    return lines


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, KeyError, AttributeError) as error:
        raise DepthLMError(path, f"can't be read: {error}", "fetch it again") from error


def _check_name(repo: str) -> None:
    if not REPO_NAME.fullmatch(repo):
        raise DepthLMError(repo, "is neither a folder nor OWNER/NAME", "name a dataset of the hub, e.g. me/suite")


def _download(source: str) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = source.partition("@")
    _check_name(repo)
    with _explained(repo, "read"):
        folder = snapshot_download(repo, repo_type="dataset", revision=revision or None, allow_patterns=KEPT)
    return Path(folder)


@contextmanager
def _explained(repo: str, right: str) -> Iterator[None]:
    """What can go wrong between here and the hub, in words."""
    from httpx import HTTPError
    from huggingface_hub import errors

    token = f"log in with `hf auth login`, or set HF_TOKEN to a token with the right to {right} there"
    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise DepthLMError(repo, "needs a token", token) from error
    except errors.RevisionNotFoundError as error:
        raise DepthLMError(repo, "has no such revision", "see its page for branches and tags") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            reason = f"is not there, or there is no right to {right} it (HTTP {status})"
            raise DepthLMError(repo, reason, token) from error
        raise DepthLMError(repo, f"the hub answers with HTTP {status}", "try again later") from error
    except errors.HFValidationError as error:
        raise DepthLMError(repo, f"is no name: {error}", "OWNER/NAME") from error
    except (HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        mend = "check the network, HF_ENDPOINT, and that HF_HUB_OFFLINE is not set"
        raise DepthLMError(repo, f"the hub can't be reached: {str(error).partition('. ')[0]}", mend) from error
