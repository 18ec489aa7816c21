"""Pictures by which a person judges a frame store: labels drawn on the photographs, and histograms."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import NDArray
from tqdm import tqdm

from depthlm.errors import DepthLMError, SkipReport
from depthlm.frame import Frame
from depthlm.store import FrameStore

MAX_STATISTICS = 2000  # frames that the histograms look at
MAX_DOTS = 400  # labels drawn on one frame
COLOURS = "turbo_r"  # red is near


@dataclass(frozen=True)
class Statistics:
    """Numbers of a store's frames: z (N,) metres, their place (N, 2) in the image as 0..1, per frame fov and labels."""

    z: NDArray[np.float32]
    place: NDArray[np.float32]
    fov_deg: NDArray[np.float64]
    labels: NDArray[np.int64]
    frames_of: int


def inspect_store(path: Path, out: Path, count: int = 20) -> tuple[list[Path], str]:
    """Write ``contact_sheet.png`` and ``statistics.png`` of a store into the folder ``out``.

    Args:
        path: frame store.
        out: folder, made if need be.
        count: frames on the sheet, spread evenly over the store.

    Returns:
        The files written, and a summary in words: numbers, ranges and what curation skipped.

    Raises:
        DepthLMError: an absent, empty or damaged store, or ``out`` can't be written.
    """
    store = FrameStore(path)
    statistics = measure(store)
    frames = [store[i] for i in _spread(len(store), count)]
    low, high = np.percentile(statistics.z, [1, 99])
    norm = LogNorm(max(low, 1e-3), max(high, low * 1.1))
    files = [out / "contact_sheet.png", out / "statistics.png"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        draw_sheet(frames, norm).savefig(files[0], dpi=100)
        draw_statistics(statistics, path.name).savefig(files[1], dpi=100)
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error.strerror}", "choose another --out", "unwritable") from error
    return files, summary(store, statistics)


def measure(store: FrameStore) -> Statistics:
    """Numbers of up to ``MAX_STATISTICS`` frames, spread evenly, with a progress bar."""
    z, place, fov, labels = [], [], [], []
    for index in tqdm(_spread(len(store), MAX_STATISTICS), desc="inspect", unit="frame"):
        frame = store[index]
        xy, depths = frame.labels
        labels.append(len(depths))
        fov.append(frame.camera.fov_deg[0])
        few = _spread(len(depths), 1000)
        z.append(depths[few])
        place.append((xy[few] + 0.5) / (frame.camera.width, frame.camera.height))
    return Statistics(np.concatenate(z), np.concatenate(place), np.array(fov), np.array(labels), len(store))


def summary(store: FrameStore, statistics: Statistics) -> str:
    """A few lines: how much there is, its ranges, and the skip report where curation left one."""
    z, fov = np.percentile(statistics.z, [1, 50, 99]), statistics.fov_deg
    lines = [
        f"{len(store)} frames of {len(store.scenes)} scenes, {statistics.labels.mean():.0f} labels each on average",
        f"z: 1% below {z[0]:.2f} m, median {z[1]:.2f} m, 99% below {z[2]:.2f} m",
        f"horizontal field of view: {fov.min():.1f}° to {fov.max():.1f}°, median {np.median(fov):.1f}°",
    ]
    if len(statistics.labels) < len(store):
        lines.append(f"(measured on {len(statistics.labels)} frames, spread evenly)")
    report = store.path / "report.json"
    if report.is_file():
        skipped = SkipReport()
        skipped.merge(json.loads(report.read_bytes())["skipped"])
        lines.append(f"curation: {skipped}")
    return "\n".join(lines)


def draw_sheet(frames: Sequence[Frame], norm: LogNorm) -> Figure:
    """Frames in a grid, each label a dot coloured by log z; where there is a dense map it stands below its frame."""
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
            shown = np.ma.masked_less_equal(frame.depth, 0)
            axes[row * 2 + 1, column].imshow(shown, norm=norm, cmap=COLOURS, interpolation="nearest")
    bar = figure.add_axes((0.3, bottom * 0.6, 0.4, bottom * 0.18))
    _metres(
        figure.colorbar(ScalarMappable(norm, COLOURS), cax=bar, orientation="horizontal").ax, "z, metres (log scale)"
    )
    return figure


def _draw_frame(ax: Axes, frame: Frame, norm: LogNorm) -> None:
    xy, z = frame.labels
    few = _spread(len(z), MAX_DOTS)
    ax.imshow(frame.pixels())
    size = 14 if len(few) <= 150 else 6
    ax.scatter(*xy[few].T, s=size, c=z[few], norm=norm, cmap=COLOURS, edgecolors="white", linewidths=0.35)
    w, h = frame.camera.width, frame.camera.height
    ax.set_xlim(-0.5, w - 0.5)
    ax.set_ylim(h - 0.5, -0.5)
    name = frame.id if len(frame.id) <= 24 else f"…{frame.id[-23:]}"
    ax.set_title(f"{name}  {w}×{h}  {frame.camera.fov_deg[0]:.0f}°  {z.min():.1f}–{z.max():.1f} m", fontsize=7.5, pad=3)


def draw_statistics(statistics: Statistics, name: str) -> Figure:
    """Histograms of z, horizontal field of view and labels per frame, and where in the image labels lie."""
    figure = Figure((13, 7), layout="constrained")
    figure.suptitle(f"{name}: {statistics.frames_of} frames, statistics of {len(statistics.labels)}")
    (a, b), (c, d) = figure.subplots(2, 2)
    z = statistics.z
    a.hist(z, bins=np.geomspace(z.min() * 0.95, z.max() * 1.05, 60))
    a.set_xscale("log")
    _metres(a, "z, metres (log scale)")
    a.set(ylabel="labels", title="Depth of the labels")
    b.hist(statistics.fov_deg, bins=np.arange(0, 181, 5))
    b.set(xlabel="degrees", ylabel="frames", title="Horizontal field of view")
    c.hist(statistics.labels, bins=30)
    c.set(xlabel="labels in a frame", ylabel="frames", title="Labels per frame")
    hist, _, _ = np.histogram2d(statistics.place[:, 1], statistics.place[:, 0], bins=(18, 24), range=((0, 1), (0, 1)))
    shown = d.imshow(hist, extent=(0, 1, 1, 0), aspect="auto", cmap="viridis")
    figure.colorbar(shown, ax=d, label="labels")
    d.set(xlabel="x / width", ylabel="y / height", title="Where in the image the labels lie")
    return figure


def _metres(ax: Axes, label: str) -> None:
    """Plain numbers at 1, 2 and 5 times the powers of ten on a logarithmic x axis."""
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    ax.set_xlabel(label)


def _spread(length: int, count: int) -> NDArray[np.int64]:
    """Up to ``count`` indices, spread evenly over ``range(length)``."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))
