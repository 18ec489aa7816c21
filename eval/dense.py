"""Whole predicted depth maps against measured ones: rows of result.jsonl, for suites frozen with their dense depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from depthlm.depth_metrics import aggregate, boundary_f1, depth_metrics, fov_error
from depthlm.suite import Item, Suite
from depthlm.suite_view import SuiteView
from eval.depth_maps import MapFolder, at_size
from eval.engines.depth_map import one_per_frame, read_focals
from eval.jsonl import read_lines, write_lines
from eval.results import DENSE


def dense_rows(suite: Suite, maps: MapFolder) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics of all maps and of each dataset's, as rows of a result; and of each image.

    Each metric is of one image's known pixels, then the mean over images; intervals resample images.

    Raises:
        DepthLMError: a map is missing, damaged, or of another shape than its image.
    """
    view, focals = SuiteView(suite), read_focals(maps.path)
    images: list[tuple[Item, dict[str, Any]]] = []
    for item in tqdm(one_per_frame(suite), desc="whole maps", unit="image"):
        found = _of_image(view, item, maps, focals.get(item.frame_ids[0]))
        if found is not None:
            images.append((item, found))
    if not images:
        return [], []
    rows = [{"by": DENSE, "key": "all", **aggregate([found for _, found in images])}]
    for dataset in dict.fromkeys(item.dataset for item, _ in images):
        part = [found for item, found in images if item.dataset == dataset]
        rows.append({"by": f"{DENSE},dataset", "key": dataset, "dataset": dataset, **aggregate(part)})
    return rows, [{"dataset": item.dataset, "frame": item.frame_ids[0], **found} for item, found in images]


def _of_image(view: SuiteView, item: Item, maps: MapFolder, focal: float | None) -> dict[str, Any] | None:
    frame = view.frames(item)[0]
    if frame.depth is None:
        return None
    camera = frame.camera
    predicted = at_size(maps.read(item.frame_ids[0]), camera.width, camera.height)
    found = {**depth_metrics(predicted, frame.depth), "boundary_f1": boundary_f1(predicted, frame.depth)}
    if focal is not None:
        found["fov_error"] = fov_error(replace(camera, fx=focal, fy=focal, distortion=()), camera)
    return found


def add_dense(suite: Suite, maps: MapFolder, folder: Path) -> int:
    """Add the rows of whole maps to a run's result.jsonl, and write dense.jsonl with a row per image; how many images.

    Raises:
        DepthLMError: see `dense_rows`.
    """
    rows, images = dense_rows(suite, maps)
    if images:
        write_lines(folder / "dense.jsonl", images)
        kept = [row for row in read_lines(folder / "result.jsonl") if not str(row.get("by", "")).startswith(DENSE)]
        write_lines(folder / "result.jsonl", [*kept, *rows])
    return len(images)
