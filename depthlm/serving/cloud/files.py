"""A cloud's files: depth maps, point clouds, a picture, and what has to be known of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from depthlm.errors import DepthLMError
from depthlm.point_cloud import write_bytes, write_depth_npy, write_depth_png, write_glb, write_ply
from depthlm.serving.cloud.preview import preview
from depthlm.serving.cloud.result import Cloud

LOG_NAME = "points.jsonl"


def write_cloud(cloud: Cloud, out: Path, dense: bool = False) -> list[Path]:
    """Write a cloud into a folder, over what an earlier call wrote.

    - ``depth.npy``: (H, W) float32 z in metres at the photo's resolution, 0 unknown; ``depth.png``: the same in
      16 bits, see `depthlm.point_cloud.write_depth_png`.
    - ``grid.npz``: ``z`` (rows, columns) float32 metres, ``asked`` (rows, columns) whether it was asked and not filled
      in, ``xy`` (rows, columns, 2) px of the photo.
    - ``cloud.ply``, ``cloud.glb``: the grid's known points in the photo's colours; ``dense.ply``, ``dense.glb``: a
      point for each known pixel.
    - ``preview.png``; ``cloud.json``: camera, units, counts, and every unknown point with its reason.

    Raises:
        DepthLMError: no point is known, or the folder can't be written.
    """
    points = cloud.points()
    if not len(points[0]):
        raise DepthLMError("point cloud", f"no point has a depth; {cloud.skipped}", "see the answers in points.jsonl")
    z, made = cloud.depth_map(), []
    made.append(write_depth_npy(out / "depth.npy", z))
    unit = write_depth_png(out / "depth.png", z)
    made += [out / "depth.png", _write_grid(cloud, out / "grid.npz")]
    for name, found in (("cloud", points), *([("dense", cloud.dense_points())] if dense else [])):
        made += [write_ply(out / f"{name}.ply", *found), write_glb(out / f"{name}.glb", *found)]
    made.append(write_bytes(out / "preview.png", preview(cloud)))
    told = json.dumps(summary(cloud) | {"depth_unit_m": unit}, indent=1, ensure_ascii=False) + "\n"
    return [*made, write_bytes(out / "cloud.json", told.encode())]


def summary(cloud: Cloud) -> dict[str, Any]:
    """What has to be known of a cloud's numbers, JSON-ready."""
    camera, (z, asked) = cloud.photo.camera, cloud.grid_z()
    names = ("width", "height", "fx", "fy", "cx", "cy")
    return {
        "model": cloud.model,
        "grid": [cloud.grid.columns, cloud.grid.rows],
        "asked": len(cloud.answers),
        "known": int(asked.sum()),
        "filled_in": int((z > 0).sum() - asked.sum()),
        "points_per_s": round(cloud.asked / cloud.seconds, 2) if cloud.asked and cloud.seconds else None,
        "camera": {name: getattr(camera, name) for name in names}
        | {"distortion": list(camera.distortion), "known_from": cloud.photo.camera_from},
        "axes": {"ply": "OpenCV: x right, y down, z forward", "glb": "glTF: x right, y up, z backward"},
        "warnings": list(cloud.warnings),
        "unknown": cloud.unknown,
    }


def _write_grid(cloud: Cloud, path: Path) -> Path:
    z, asked = cloud.grid_z()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, z=z, asked=asked, xy=cloud.grid.xy)
    return write_bytes(path, buffer.getvalue())
