"""What a person looks at before training on a frame store: pictures, histograms and counts, dataset by dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.colors import LogNorm
from numpy.typing import NDArray
from tqdm import tqdm

from data_gen.contact_sheet import Statistics, draw_sheet, draw_statistics
from data_gen.inspection_page import Section, page
from depthlm.errors import DepthLMError, SkipReport
from depthlm.store import FrameStore, replace_file

MAX_STATISTICS = 2000  # frames of a dataset whose labels are looked at
MAX_LABELS = 1000  # labels of one frame that the histograms count
PLAIN = ("dataset", "scene", "split", "width", "fx", "cx", "pose", "distortion")


@dataclass(frozen=True, eq=False)
class Part:
    """The frames of one dataset in one store: their numbers, and columns of numbers alone (no image is read)."""

    store: FrameStore
    indices: NDArray[np.int64]
    scenes: list[str]
    splits: list[str]
    fov_deg: NDArray[np.float64]
    places: NDArray[np.float64]  # camera centres, metres; NaN without a pose
    distorted: int


def inspect_stores(paths: Sequence[Path], out: Path, count: int = 20) -> tuple[list[Path], str]:
    """Write ``index.html``, which needs nothing else, and its pictures into the folder ``out``.

    Of each dataset: ``DATASET_frames.png``, photographs with labels and edges of depth, and ``DATASET_statistics.png``.

    Args:
        paths: frame stores.
        out: folder, made if need be.
        count: frames of each dataset that are drawn, spread evenly over it.

    Returns:
        The files written, and a summary in words.

    Raises:
        DepthLMError: an absent, empty or damaged store, or ``out`` can't be written.
    """
    stores = [FrameStore(path) for path in paths]
    parts: dict[str, list[Part]] = {}
    for store in stores:
        for dataset, part in _parts(store).items():
            parts.setdefault(dataset, []).append(part)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error.strerror}", "choose another --out", "unwritable") from error
    files, sections = [], []
    for number, (dataset, found) in enumerate(sorted(parts.items()), 1):
        statistics = measure(found, dataset)
        low, high = np.percentile(statistics.z, [1, 99])
        norm = LogNorm(max(low, 1e-3), max(high, low * 1.1))
        frames = [store[i] for store, i in _spread_over(found, count)]
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", dataset)
        stem = plain if plain == dataset else f"{number}{plain}"  # two names may become one
        names = [f"{stem}_frames.png", f"{stem}_statistics.png"]
        pictures = [draw_sheet(frames, norm), draw_statistics(statistics, dataset)]
        for name, picture in zip(names, pictures, strict=True):
            replace_file(out / name, picture)
            files.append(out / name)
        sections.append(Section(dataset, facts(found, statistics), pictures))
    reports = {store.path.name: curation(store.path) for store in stores}
    replace_file(out / "index.html", page(sections, reports).encode())
    return [out / "index.html", *files], _in_words(sections, reports)


def _parts(store: FrameStore) -> dict[str, Part]:
    """The store's frames by dataset, from its columns of numbers."""
    tables = [pq.read_table(store.path / shard.name, columns=list(PLAIN)) for shard in store.index.shards]
    table = pa.concat_tables(tables)
    width, fx, cx = (table[name].to_numpy() for name in ("width", "fx", "cx"))
    fov = np.degrees(np.arctan((cx + 0.5) / fx) + np.arctan((width - 0.5 - cx) / fx))
    posed = pc.is_valid(table["pose"]).to_numpy()
    places = np.full((len(table), 3), np.nan)
    poses = table["pose"].drop_null().combine_chunks()
    places[posed] = np.asarray(poses.flatten()).reshape(-1, 4, 4)[:, :3, 3] if posed.any() else 0
    distorted = pc.fill_null(pc.list_value_length(table["distortion"]), 0).to_numpy() > 0
    names = np.array(table["dataset"].to_pylist(), object)
    found = {}
    for dataset in dict.fromkeys(names):
        rows = np.flatnonzero(names == dataset)
        scenes, splits = (table[name].take(rows).to_pylist() for name in ("scene", "split"))
        found[str(dataset)] = Part(store, rows, scenes, splits, fov[rows], places[rows], int(distorted[rows].sum()))
    return found


def measure(parts: Sequence[Part], dataset: str) -> Statistics:
    """Numbers of a dataset: of all frames what needs no image; of up to ``MAX_STATISTICS``, spread evenly, labels."""
    z, place, labels = [], [], []
    chosen = _spread_over(parts, MAX_STATISTICS)
    for store, index in tqdm(chosen, desc=f"inspect {dataset}", unit="frame"):
        frame = store[index]
        xy, depths = frame.labels
        labels.append(len(depths))
        few = spread(len(depths), MAX_LABELS)
        z.append(depths[few])
        place.append((xy[few] + 0.5) / (frame.camera.width, frame.camera.height))
    return Statistics(
        z=np.concatenate(z),
        place=np.concatenate(place),
        labels=np.array(labels),
        fov_deg=np.concatenate([part.fov_deg for part in parts]),
        motion_m=np.concatenate([_motion(part) for part in parts]),
    )


def _motion(part: Part) -> NDArray[np.float64]:
    """Metres that the camera moved between neighbouring frames of a scene, where both have a pose."""
    same = np.array([a == b for a, b in zip(part.scenes[:-1], part.scenes[1:], strict=True)], bool)
    moved = np.linalg.norm(np.diff(part.places, axis=0), axis=1)[same]
    return moved[np.isfinite(moved)]


def facts(parts: Sequence[Part], statistics: Statistics) -> dict[str, str]:
    """A dataset in numbers, name -> words."""
    frames = sum(len(part.indices) for part in parts)
    scenes = len({(part.store.path, scene) for part in parts for scene in part.scenes})
    splits = sorted({split for part in parts for split in part.splits})
    posed = sum(int(np.isfinite(part.places[:, 0]).sum()) for part in parts)
    distorted = sum(part.distorted for part in parts)
    z, fov, motion = statistics.z, statistics.fov_deg, statistics.motion_m
    low, median, high = np.percentile(z, [1, 50, 99])
    moved = (
        f"median {np.median(motion):.2f} m between neighbouring frames" if len(motion) else "no two poses in a scene"
    )
    return {
        "frames": f"{frames} of {scenes} scenes, split {', '.join(splits)}",
        "stores": ", ".join(part.store.path.name for part in parts),
        "labels": f"{statistics.labels.mean():.0f} a frame (looked at in {len(statistics.labels)} frames)",
        "z": f"1% below {low:.2f} m, median {median:.2f} m, 99% below {high:.2f} m",
        "horizontal field of view": f"{fov.min():.1f}° to {fov.max():.1f}°, median {np.median(fov):.1f}°",
        "poses": f"{posed / frames:.0%} of the frames; {moved}",
        "lens distortion": f"{distorted / frames:.0%} of the frames",
    }


def curation(store: Path) -> dict[str, Any]:
    """What curation left out, from the store's ``report.json``; empty where there is none."""
    path = store / "report.json"
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_bytes())
        skipped = {kind: (entry["count"], list(entry["examples"])) for kind, entry in report["skipped"].items()}
        return {"keys": report["keys"], "skipped": skipped, "dropped": dict(report.get("dropped_labels", {}))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DepthLMError(path, f"is damaged: {error!r}", "curate again", "damaged store") from error


def spread(length: int, count: int) -> NDArray[np.int64]:
    """Up to ``count`` numbers, spread evenly over ``range(length)``."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))


def _spread_over(parts: Sequence[Part], count: int) -> list[tuple[FrameStore, int]]:
    frames = [(part.store, int(i)) for part in parts for i in part.indices]
    return [frames[i] for i in spread(len(frames), count)]


def _in_words(sections: Sequence[Section], reports: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section in sections:
        lines.append(f"{section.name}:")
        lines += [f"  {name}: {text}" for name, text in section.facts.items() if name != "stores"]
    for name, report in reports.items():
        if not report:
            continue
        skipped = SkipReport()
        skipped.merge({kind: {"count": n, "examples": some} for kind, (n, some) in report["skipped"].items()})
        lines.append(f"curation of {name}: {skipped}")
        if report["dropped"]:
            lines.append("  labels dropped: " + ", ".join(f"{n} {kind}" for kind, n in report["dropped"].items()))
    return "\n".join(lines)
