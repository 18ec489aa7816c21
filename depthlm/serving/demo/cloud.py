"""A point cloud in the forms that the web page shows and offers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlm.errors import DepthLMError


@dataclass(frozen=True)
class CloudFiles:
    """A point cloud's files.

    Args:
        shown: GLB for the page.
        files: to be taken home.
        told: how many points there are, what was left out, and what has to be known of them.
        extent: diagonal of the box round the points, m.
    """

    shown: Path
    files: list[Path]
    told: list[str]
    extent: float


def room_for(cloud: Any) -> int:
    """Bytes that its files take at most, roughly: the depth map, and some hundred per point."""
    camera = cloud.photo.camera
    return 4 * camera.width * camera.height + 400 * cloud.grid.columns * cloud.grid.rows


def write_files(cloud: Any, out: Path) -> CloudFiles:
    """Write a `depthlm.serving.cloud.ask.Cloud` in the forms that the page offers."""
    from depthlm.point_cloud import write_glb, write_ply

    points, colours = cloud.points()
    if not len(points):
        raise DepthLMError("point cloud", f"no point has an answer: {cloud.skipped}", kind="no answer")
    ply, glb, depth, shown = (out / name for name in ("cloud.ply", "cloud.glb", "depth.npy", "shown.glb"))
    write_ply(ply, points, colours)
    write_glb(glb, points, colours)
    depth_map = cloud.depth_map()
    np.save(depth, depth_map)
    write_solid(shown, points, colours, cloud.photo.camera.width / cloud.grid.columns / cloud.photo.camera.fx)
    near, far = np.percentile(cloud.distance[np.isfinite(cloud.distance)], [5, 95])
    told = f"{len(points)} points, {near:.1f} to {far:.1f} m away, in {cloud.seconds:.0f} s."
    if cloud.skipped.total:
        told += " Left out: " + ", ".join(f"{n} × {kind}" for kind, n in cloud.skipped.counts.items()) + "."
    texts = [told, *cloud.warnings]
    if (known := np.count_nonzero(depth_map) / depth_map.size) < 0.5:
        texts.append(f"The depth map knows {known:.0%} of the pixels; more points in a row fill it.")
    return CloudFiles(shown, [ply, glb, depth], texts, float(np.linalg.norm(np.ptp(points, axis=0))))


def write_solid(path: Path, points: NDArray[np.float64], colours: NDArray[np.uint8], spacing: float) -> None:
    """A GLB in which each point is a small square that faces the camera: viewers draw bare points one pixel wide.

    Args:
        points: (n, 3) m, OpenCV's axes.
        colours: (n, 3) RGB.
        spacing: between neighbours, as seen from the camera: width over distance.
    """
    import trimesh

    from depthlm.point_cloud import linear_rgb

    half = 0.46 * spacing * points[:, 2]
    corners = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float64)
    vertices = (points[:, None] + corners * half[:, None, None]).reshape(-1, 3) * (1, -1, -1)
    faces = 4 * np.arange(len(points))[:, None, None] + np.array([(2, 1, 0), (3, 2, 0)])
    mesh = trimesh.Trimesh(vertices, faces.reshape(-1, 3), process=False)
    mesh.visual.vertex_colors = np.repeat(linear_rgb(colours), 4, axis=0)
    path.write_bytes(trimesh.Scene(mesh).export(file_type="glb", tree_postprocessor=_unlit))


def _unlit(tree: dict[str, Any]) -> None:
    """The photo's own colours, from both sides: no lamp of the viewer's shines on them."""
    tree["extensionsUsed"] = ["KHR_materials_unlit"]
    tree["materials"] = [{"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}]
    tree["meshes"][0]["primitives"][0]["material"] = 0
