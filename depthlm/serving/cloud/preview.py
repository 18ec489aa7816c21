"""One picture of a photo's depth: the photo, the depth map with its scale, the points seen from two other places."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from depthlm.camera import Floats
from depthlm.serving.cloud.result import Cloud, Points

PAPER, INK, SOFT, LINES, SPACE = "#fbfaf7", "#1d2421", "#5d6863", "#3d4a52", "#1b2227"
# Unknown pixels of the depth map.
UNKNOWN = "#d9dbd4"
MAP = "turbo_r"
# More points than this add nothing to a picture of this size.
MOST_POINTS = 100_000
# How much wider a picture may become for the camera to be seen in it.
MOST_FOR_CAMERA = 1.6
# Outliers beyond these percentiles of z are not looked at when a viewpoint is chosen.
LOW, HIGH = 2, 98


@dataclass(frozen=True)
class Viewpoint:
    """A place from which points are looked at: turned about their middle from the camera's, degrees."""

    title: str
    yaw: float
    pitch: float


VIEWPOINTS = (Viewpoint("from the left", -32, 14), Viewpoint("from above on the right", 24, 48))


def preview(cloud: Cloud) -> bytes:
    """A PNG of about 1600 px width."""
    z = cloud.depth_map()
    size = 12.8, 0.9 + 2 * 6.0 / _aspect(cloud)
    figure = Figure(figsize=size, dpi=125, facecolor=PAPER, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.02, hspace=0.02)
    axes = figure.subplots(2, 2).ravel()
    _photo(axes[0], cloud)
    _depth(axes[1], cloud, z)
    stride = max(1, math.ceil(math.sqrt(np.count_nonzero(z) / MOST_POINTS)))
    y, x = (found * stride for found in np.nonzero(z[::stride, ::stride]))
    points = cloud.photo.camera.back_project(np.stack([x, y], 1), z[y, x])
    for axis, viewpoint in zip(axes[2:], VIEWPOINTS, strict=True):
        _seen_from(axis, cloud, (points, cloud.photo.pixels[y, x]), stride, viewpoint)
    figure.suptitle(_headline(cloud), color=INK, fontsize=12)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _aspect(cloud: Cloud) -> float:
    """Width by height of each panel: the photo's, unless it is very long."""
    return min(max(cloud.photo.camera.width / cloud.photo.camera.height, 0.7), 2.2)


def _headline(cloud: Cloud) -> str:
    known = int((cloud.grid_z()[0] > 0).sum())
    filled = known - int(cloud.grid_z()[1].sum())
    parts = [cloud.model, f"{len(cloud.answers)} points asked of {cloud.grid.columns} x {cloud.grid.rows}"]
    parts += [f"{filled} filled in"] if filled else []
    parts += [f"{len(cloud.unknown)} unknown"] if cloud.unknown else []
    return "  ·  ".join(filter(None, parts))


def _photo(axis: Axes, cloud: Cloud) -> None:
    camera = cloud.photo.camera
    known = {"given": "", "exif": ", by EXIF", "estimated": ", estimated", "assumed": ", assumed"}
    title = f"{camera.width} x {camera.height} px, {camera.fov_deg[0]:.0f}°{known[cloud.photo.camera_from]}"
    _image_axis(axis, title)
    axis.imshow(cloud.photo.pixels)


def _depth(axis: Axes, cloud: Cloud, z: NDArray[np.float32]) -> None:
    _image_axis(axis, "depth z; dots: points asked")
    axis.set_facecolor(UNKNOWN)
    known = z[z > 0]
    if not known.size:
        axis.imshow(np.full((*z.shape, 3), 217, np.uint8))
        axis.text(0.5, 0.5, "no depth is known", transform=axis.transAxes, ha="center", color=SOFT)
        return
    low, high = (float(v) for v in np.percentile(known, (LOW, HIGH)))
    norm = LogNorm(low, max(high, low * 1.2))
    shown = axis.imshow(np.ma.masked_equal(z, 0), cmap=MAP, norm=norm, interpolation="nearest")
    found = ~np.isnan(cloud.z)
    size = float(np.clip(6000 / max(found.sum(), 1), 2, 12))
    dots = {"edgecolors": "white", "linewidths": 0.5 if size > 4 else 0.25}
    axis.scatter(*cloud.xy[found].T, s=size, c=cloud.z[found], cmap=MAP, norm=norm, **dots)
    axis.set(xlim=(-0.5, z.shape[1] - 0.5), ylim=(z.shape[0] - 0.5, -0.5))
    bar = axis.figure.colorbar(shown, cax=axis.inset_axes((1.02, 0, 0.03, 1)), extend="both")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=_ticks(norm.vmax / norm.vmin)))
    bar.ax.yaxis.set_major_formatter("{x:g} m")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9)


def _ticks(ratio: float) -> tuple[float, ...]:
    """Of each decade, as many as leave a handful on the scale."""
    if ratio > 12:
        return 1, 2, 5
    return (1, 1.5, 2, 3, 4, 5, 6, 8) if ratio > 3 else (*np.arange(1, 3, 0.25), *np.arange(3, 10, 0.5))


def _image_axis(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10, color=SOFT)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _seen_from(axis: Axes, cloud: Cloud, cloud_points: Points, stride: int, viewpoint: Viewpoint) -> None:
    """Draw points in perspective, the farthest first, over a floor with a metric grid."""
    points, colours = cloud_points
    step = _floor_step(points)
    _image_axis(axis, f"{viewpoint.title}; floor grid {step:g} m")
    axis.set_facecolor(SPACE)
    axis.set_aspect("equal")
    if not len(points):
        axis.text(0.5, 0.5, "no points", transform=axis.transAxes, ha="center", color="white")
        return
    near = points[:, 2] <= np.percentile(points[:, 2], HIGH) * 1.05
    points, colours = points[near], colours[near]
    turn, middle = _turned(viewpoint), np.array([0.0, 0.0, float(np.median(points[:, 2]))])
    # far enough that all of it is before the eye, and the camera not too near to it
    away = max(1.25 * float(np.linalg.norm(points - middle, axis=1).max()), 1.4 * float(middle[2]))

    def seen(where: Floats) -> tuple[Floats, Floats]:
        """(n, 2) right and down in perspective, and (n,) the depth from the eye."""
        out = (where - middle) @ turn.T
        depth = out[:, 2] + away
        return out[:, :2] / depth[:, None], depth

    (flat, depth), (pyramid, _) = seen(points), seen(_pyramid(cloud, points).reshape(-1, 3))
    extent = _frame(axis, flat, pyramid, _aspect(cloud))
    ends, far = seen(_floor(points, step).reshape(-1, 3))
    # a line that comes too near to the eye would run across the picture
    fine = (far > 0.1 * away).reshape(-1, 2).all(axis=1)
    axis.add_collection(LineCollection(list(ends.reshape(-1, 2, 2)[fine]), colors=LINES, linewidths=0.7, zorder=1))
    axis.add_collection(LineCollection(list(pyramid.reshape(-1, 2, 2)), colors="white", linewidths=1.0, zorder=3))
    order = np.argsort(-depth)
    sizes = _sizes(axis, cloud, points[:, 2] * stride / depth, extent)[order]
    axis.scatter(*flat[order].T, s=sizes, c=colours[order] / 255, marker="s", linewidths=0, zorder=2)


def _turned(viewpoint: Viewpoint) -> Floats:
    """Rotation from the camera's axes to the eye's: about the vertical, then tilted down."""
    yaw, pitch = math.radians(viewpoint.yaw), math.radians(viewpoint.pitch)
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return about_x @ about_y


def _frame(axis: Axes, flat: Floats, camera: Floats, aspect: float) -> float:
    """Centre the picture on the points, and on the camera where that costs little; return its width."""
    low, high = np.percentile(flat, 0.5, axis=0), np.percentile(flat, 99.5, axis=0)
    with_camera = np.minimum(low, camera.min(axis=0)), np.maximum(high, camera.max(axis=0))
    if _half(*with_camera, aspect) < MOST_FOR_CAMERA * _half(low, high, aspect):
        low, high = with_camera
    middle, half = (low + high) / 2, 1.08 * _half(low, high, aspect)
    axis.set(xlim=(middle[0] - half * aspect, middle[0] + half * aspect), ylim=(middle[1] + half, middle[1] - half))
    return 2 * half * aspect


def _half(low: Floats, high: Floats, aspect: float) -> float:
    """Half the height of the picture that holds a box."""
    return max(float(np.max((high - low) / (aspect, 1))), 1e-6) / 2


def _sizes(axis: Axes, cloud: Cloud, pixels: Floats, extent: float) -> NDArray[np.float64]:
    """Areas in points² with which neighbours just touch; ``pixels``: of the photo, each by z over depth."""
    width_pt = axis.get_position().width * axis.figure.get_figwidth() * 72
    return np.clip(1.5 * pixels / cloud.photo.camera.fx / extent * width_pt, 0.8, 8) ** 2


def _floor_step(points: Floats) -> float:
    """Metres between the floor's lines: about ten of them."""
    if not len(points):
        return 1.0
    across = float(np.ptp(points[:, 2]) + np.ptp(points[:, 0])) / 2
    return min((0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100), key=lambda step: abs(math.log(max(across, 1e-3) / step / 9)))


def _floor(points: Floats, step: float) -> Floats:
    """(n, 2, 3) a horizontal grid under the points, from the camera on."""
    y = float(np.percentile(points[:, 1], 99.5))
    left, right = math.floor(points[:, 0].min() / step), math.ceil(points[:, 0].max() / step)
    near, far = 0, math.ceil(points[:, 2].max() / step)
    lines = [[(i * step, y, near * step), (i * step, y, far * step)] for i in range(left, right + 1)]
    lines += [[(left * step, y, k * step), (right * step, y, k * step)] for k in range(near, far + 1)]
    return np.array(lines, np.float64)


def _pyramid(cloud: Cloud, points: Floats) -> Floats:
    """(8, 2, 3) the camera: its centre and the image at a short distance before it."""
    camera = cloud.photo.camera
    reach = 0.08 * float(np.median(points[:, 2]))
    x, y = camera.width - 0.5, camera.height - 0.5
    corners = camera.back_project([(-0.5, -0.5), (x, -0.5), (x, y), (-0.5, y)], np.full(4, reach))
    sides = [(corners[i], corners[(i + 1) % 4]) for i in range(4)]
    return np.array([*sides, *((np.zeros(3), corner) for corner in corners)], np.float64)
