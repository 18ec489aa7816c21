"""Predicted against true, per kind; the loss of a training run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from depthlm.errors import DepthLMError
from depthlm.metrics import DELTA
from eval.jsonl import read_lines

MODEL, TRUE, BAND = "#0b6e5f", "#1d2421", "#cfe3dc"


def scatter_plot(predictions: Path, out: Path, title: str = "") -> Path:
    """Draw predictions.jsonl as one log-log panel per kind, the delta1 band (a factor of 1.25) shaded.

    Answers without a positive number have no place in it; each panel says how many there are.
    """
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in read_lines(predictions):
        kinds.setdefault(str(row["kind"]), []).append(row)
    columns = min(3, len(kinds))
    lines = math.ceil(len(kinds) / columns)
    figure = Figure(figsize=(4.2 * columns, 4.1 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (kind, rows) in zip(axes, kinds.items(), strict=False):
        _scatter_panel(axis, kind, rows)
    for axis in axes[len(kinds) :]:
        axis.set_axis_off()
    figure.suptitle(title or "Predicted against true")
    return _save(figure, out)


def _scatter_panel(axis: Axes, kind: str, rows: list[dict[str, Any]]) -> None:
    pairs = [(r["truth"], r["value"]) for r in rows if r["value"] is not None and r["value"] > 0 and r["truth"] > 0]
    truth, value = np.array(pairs, np.float64).reshape(-1, 2).T
    right = np.maximum(truth / value, value / truth) < DELTA
    both = np.concatenate([truth, value]) if len(pairs) else np.array([1.0, 10.0])
    # A single absurd answer must not squeeze the rest: the axes show what lies near the truths, the rest at the rim.
    low, high = (truth.min() / 2.5, truth.max() * 2.5) if len(pairs) else (both.min(), both.max())
    line = np.array([low, high])
    axis.fill_between(line, line / DELTA, line * DELTA, color=BAND, linewidth=0, label="δ1: within a factor of 1.25")
    axis.plot(line, line, color=TRUE, linewidth=0.8)
    shown = np.clip(value, low, high)
    axis.scatter(truth[right], shown[right], s=12, color=MODEL, alpha=0.65, linewidths=0)
    axis.scatter(
        truth[~right], shown[~right], s=14, facecolors="none", edgecolors="#b4452f", alpha=0.75, linewidths=0.9
    )
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    for ruler in (axis.xaxis, axis.yaxis):
        ruler.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ruler.set_major_formatter("{x:g}")
        ruler.set_minor_locator(NullLocator())
    unit = rows[0]["unit"]
    axis.set(xlabel=f"true, {unit}", ylabel=f"predicted, {unit}")
    lost = len(rows) - len(pairs)
    axis.set_title(
        f"{kind.replace('_', ' ')}: δ1 {right.sum() / len(rows):.3f}, n {len(rows)}"
        + (f" ({lost} no number)" if lost else ""),
        fontsize=10,
    )
    axis.grid(True, which="major", color="#e4e6e0", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="upper left", fontsize=8, frameon=False)


def loss_plot(trainer_state: Path, out: Path) -> Path:
    """Draw the loss (and evaluation loss) over steps from a trainer's ``trainer_state.json``.

    Raises:
        DepthLMError: the file can't be read or logs no loss.
    """
    try:
        history = json.loads(trainer_state.read_text(encoding="utf-8"))["log_history"]
        curves = {
            key: [(row["step"], row[key]) for row in history if key in row and "step" in row]
            for key in ("loss", "eval_loss")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DepthLMError(trainer_state, f"is no trainer state: {error}", "name trainer_state.json") from error
    if not curves["loss"]:
        raise DepthLMError(trainer_state, "logs no loss", "train with logging_steps of at least 1")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for (key, points), colour in zip(curves.items(), (MODEL, "#b98a2f"), strict=True):
        if points:
            steps, values = np.array(points, np.float64).T
            axis.plot(steps, values, color=colour, linewidth=1.6, marker="." if len(steps) < 40 else "", label=key)
    axis.set(xlabel="step", ylabel="loss per answer token", title="Training")
    axis.set_ylim(bottom=0)
    axis.grid(True, color="#e4e6e0", linewidth=0.6)
    axis.legend(frameon=False)
    return _save(figure, out)


def _save(figure: Figure, out: Path) -> Path:
    """Write a PNG; the Agg canvas needs no display and leaves matplotlib's global state alone."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_png(str(out))
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error.strerror}", "check --out and its permissions") from error
    return out
