"""Pictures by which a person judges frames: labels and edges of depth drawn on the photographs, and histograms."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import NDArray

from depthlm.frame import Frame

MAX_DOTS, DOTS_ON_EDGES = 400, 60  # labels drawn on one frame; fewer where its edges of depth are drawn
COLOURS = "turbo_r"  # red is near
EDGE = (1.0, 0.0, 1.0)  # magenta: rare in photographs, and not among the colours of z near or far
JUMP = 1.1
SHOWN_PX = 340  # width of one frame on the sheet
DRAWN_PX = 2 * SHOWN_PX  # images wider than this are shrunk before they are drawn: matplotlib keeps them all
MIN_TIMES = 8  # a histogram of fewer values says nothing


@dataclass(frozen=True, eq=False)
class Statistics:
    """Numbers of a dataset's frames.

    Args:
        z: (N,) metres, and place: (N, 2) in the image as 0..1, of some labels.
        labels: per frame that was looked at, how many.
        fov_deg: per frame, horizontal, degrees.
        motion_m: per neighbouring pair of a scene's frames, metres between the cameras.
    """

    z: NDArray[np.float32]
    place: NDArray[np.float32]
    labels: NDArray[np.int64]
    fov_deg: NDArray[np.float64]
    motion_m: NDArray[np.float64]


def draw_sheet(frames: Sequence[Frame], norm: LogNorm) -> bytes:
    """A PNG of frames in a grid: labels as dots coloured by log z; a dense map stands below, its edges on the frame."""
    dense = any(frame.depth is not None for frame in frames)
    columns = min(len(frames), 5)
    rows = math.ceil(len(frames) / columns)
    height = rows * (5.0 if dense else 2.75) + 1.0
    figure = Figure((columns * 3.4 + 0.2, height))
    bottom = 0.85 / height
    grid = figure.add_gridspec(
        rows * (1 + dense),
        columns,
        left=0.01,
        right=0.99,
        bottom=bottom,
        top=1 - 0.3 / height,
        wspace=0.03,
        hspace=0.14,
    )
    axes = grid.subplots(squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        _draw_frame(axes[row * (1 + dense), column], frame, norm)
        if frame.depth is not None:
            shown = np.ma.masked_less_equal(_thinned(frame.depth), 0)
            axes[row * 2 + 1, column].imshow(shown, norm=norm, cmap=COLOURS, interpolation="nearest")
    bar = figure.add_axes((0.3, bottom * 0.6, 0.4, bottom * 0.18))
    _metres(
        figure.colorbar(ScalarMappable(norm, COLOURS), cax=bar, orientation="horizontal").ax, "z, metres (log scale)"
    )
    return _png(figure)


def depth_edges(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(H, W) True at the near side of jumps of more than 10 %, also across the gaps that sensors leave at edges.

    Lines are as wide as can be seen on the sheet.
    """
    reach, width = 2 * (depth.shape[1] // 100) + 1, max(1, round(depth.shape[1] / SHOWN_PX))
    farthest = cv2.dilate(depth, np.ones((reach, reach), np.uint8))
    around = np.ones((3, 3), np.uint8)
    border = (cv2.erode(depth, around) == 0) | (cv2.dilate(depth, around) > depth * JUMP)
    edges = (depth > 0) & (farthest > depth * JUMP) & border
    return cv2.dilate(edges.astype(np.uint8), np.ones((width, width), np.uint8)).astype(bool)


def _draw_frame(ax: Axes, frame: Frame, norm: LogNorm) -> None:
    xy, z = frame.labels
    w, h = frame.camera.width, frame.camera.height
    pixels, extent = frame.pixels(), (-0.5, w - 0.5, h - 0.5, -0.5)
    if w > DRAWN_PX:
        pixels = cv2.resize(pixels, (DRAWN_PX, round(h * DRAWN_PX / w)), interpolation=cv2.INTER_AREA)
    ax.imshow(pixels, extent=extent)
    if frame.depth is not None:
        edges = depth_edges(_thinned(frame.depth))
        drawn = np.zeros((*edges.shape, 4), np.float32)
        drawn[edges] = (*EDGE, 1)
        ax.imshow(drawn, extent=extent, interpolation="nearest")
    few = np.unique(
        np.linspace(0, len(z) - 1, min(len(z), MAX_DOTS if frame.depth is None else DOTS_ON_EDGES)).round()
    ).astype(int)
    size = 14 if len(few) <= 150 else 6
    ax.scatter(*xy[few].T, s=size, c=z[few], norm=norm, cmap=COLOURS, edgecolors="white", linewidths=0.35)
    ax.set_xlim(-0.5, w - 0.5)
    ax.set_ylim(h - 0.5, -0.5)
    name = frame.id if len(frame.id) <= 24 else f"…{frame.id[-23:]}"
    ax.set_title(f"{name}  {w}×{h}  {frame.camera.fov_deg[0]:.0f}°  {z.min():.1f}–{z.max():.1f} m", fontsize=7.5, pad=3)


def _thinned(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every n-th pixel of a map that is wider than what is drawn; a mean would invent depths at edges."""
    step = max(1, depth.shape[1] // DRAWN_PX)
    return depth[::step, ::step]


def draw_statistics(statistics: Statistics, name: str) -> bytes:
    """A PNG of histograms of z, field of view, camera motion and labels a frame, and where in the image labels lie."""
    figure = Figure((16, 7.5), layout="constrained")
    figure.suptitle(name)
    grid = figure.add_gridspec(2, 3)
    z = statistics.z
    ax = figure.add_subplot(grid[0, 0])
    ax.hist(z, bins=np.geomspace(z.min() * 0.95, z.max() * 1.05, 60))
    ax.set_xscale("log")
    _metres(ax, "z, metres (log scale)")
    ax.set(ylabel="labels", title="Depth of the labels")
    ax = figure.add_subplot(grid[0, 1])
    ax.hist(statistics.fov_deg, bins=np.arange(0, 181, 5))
    ax.set(xlabel="degrees", ylabel="frames", title="Horizontal field of view")
    _motion(figure.add_subplot(grid[0, 2]), statistics.motion_m)
    ax = figure.add_subplot(grid[1, 0])
    ax.hist(statistics.labels, bins=30)
    ax.set(xlabel="labels in a frame", ylabel="frames", title="Labels per frame")
    ax = figure.add_subplot(grid[1, 1:])
    hist, _, _ = np.histogram2d(statistics.place[:, 1], statistics.place[:, 0], bins=(24, 48), range=((0, 1), (0, 1)))
    shown = ax.imshow(hist, extent=(0, 1, 1, 0), aspect="auto", cmap="viridis")
    figure.colorbar(shown, ax=ax, label="labels")
    ax.set(xlabel="x / width", ylabel="y / height", title="Where in the image the labels lie")
    return _png(figure)


def _motion(ax: Axes, motion: NDArray[np.float64]) -> None:
    ax.set(title="Camera motion between neighbouring frames of a scene")
    moved = motion[motion > 1e-3]
    if len(moved) < MIN_TIMES:
        words = "no two poses in a scene" if not len(motion) else f"{len(motion)} pairs, {len(moved)} of them moved"
        ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes)
        ax.set_xticks([])
        ax.set_yticks([])
        return
    ax.hist(moved, bins=np.geomspace(moved.min() * 0.95, moved.max() * 1.05, 60))
    ax.set_xscale("log")
    still = f"; {len(motion) - len(moved)} pairs did not move" if len(moved) < len(motion) else ""
    _metres(ax, f"metres (log scale){still}")
    ax.set(ylabel="pairs of frames")


def _metres(ax: Axes, label: str) -> None:
    """Plain numbers at 1, 2 and 5 times the powers of ten on a logarithmic x axis."""
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    ax.set_xlabel(label)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    return buffer.getvalue()
