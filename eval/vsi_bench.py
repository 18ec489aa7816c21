"""VSI-Bench's own scores: mean relative accuracy of numbers, accuracy of choices, and the columns of its tables.

Source: Yang et al., "Thinking in Space" (VSI-Bench), section 3.3; what counts as an answer is its evaluation's rule:
the first word, without a full stop. Table 11 of Metric Anything has the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from depthlm.suite import Item

# Relative errors below each of 1 - these count: the higher, the closer.
CONFIDENCES = np.linspace(0.5, 0.95, 10)
# A table's columns, and the question types of each.
TASKS: dict[str, tuple[str, ...]] = {
    "Obj. Count": ("object_counting",),
    "Abs. Dist.": ("object_abs_distance",),
    "Obj. Size": ("object_size_estimation",),
    "Room Size": ("room_size_estimation",),
    "Rel. Dist.": ("object_rel_distance",),
    "Rel. Dir.": ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard"),
    "Route Plan": ("route_planning",),
    "Appr. Order": ("obj_appearance_order",),
}
RESAMPLES = 1000


def mean_relative_accuracy(answer: float, truth: float) -> float:
    """Share of ten thresholds below which the relative error lies; 0 for no number."""
    if not math.isfinite(answer) or truth == 0:
        return 0.0
    return float((abs(answer - truth) / abs(truth) <= 1 - CONFIDENCES + 1e-12).mean())


def first_word(text: str) -> str:
    """What VSI-Bench's evaluation takes for the answer."""
    words = text.split()
    return words[0].rstrip(".").strip() if words else ""


def points_of(item: Item, text: str | None) -> tuple[float, bool]:
    """Score of one answer between 0 and 1, and whether it could be read."""
    word = first_word(text or "")
    if item.unit == "choice":
        return float(word.lower() == item.answer.lower()), len(word) == 1 and word.isalpha()
    try:
        return mean_relative_accuracy(float(word), item.truth), True
    except ValueError:
        return 0.0, False


def prediction_rows(items: Sequence[Item], texts: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A row for each question: what was answered, what was read of it, and its score."""
    for item in items:
        text = texts.get(item.id)
        fields = {"id": item.id, "kind": item.kind, "dataset": item.dataset, "truth": item.answer, "text": text}
        yield {**fields, "read": first_word(text or ""), "score": points_of(item, text)[0]}


def score_rows(items: Sequence[Item], texts: dict[str, str]) -> list[dict[str, Any]]:
    """One row for all questions (the mean over the tasks, as VSI-Bench reports), then one for each task.

    A task of several question types is their mean. Each row has ``score`` as ``{"value", "low", "high"}``; intervals
    resample scenes.
    """
    points = {item.id: points_of(item, texts.get(item.id)) for item in items}
    tasks: dict[str, list[list[Item]]] = {}
    for task, kinds in TASKS.items():
        parts = [[item for item in items if item.kind == kind] for kind in kinds]
        if any(parts):
            tasks[task] = [part for part in parts if part]
    rows = [
        _row("task", task, [(1 / len(parts), part) for part in parts], points, texts) for task, parts in tasks.items()
    ]
    every = [(1 / len(tasks) / len(parts), part) for parts in tasks.values() for part in parts]
    return [_row("all", "all", every, points, texts), *rows]


def _row(
    by: str,
    key: str,
    parts: Sequence[tuple[float, Sequence[Item]]],
    points: dict[str, tuple[float, bool]],
    texts: dict[str, str],
) -> dict[str, Any]:
    """A row of the weighted mean over ``parts``."""
    every = [item for _, part in parts for item in part]
    scenes = {scene: i for i, scene in enumerate(sorted({_scene(item) for item in every}))}
    draws = np.random.default_rng(0).multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), size=RESAMPLES)
    value, resampled = 0.0, np.zeros(RESAMPLES)
    for weight, part in parts:
        found = np.array([points[item.id][0] for item in part])
        scene = np.array([scenes[_scene(item)] for item in part])
        sums, counts = np.bincount(scene, found, len(scenes)), np.bincount(scene, minlength=len(scenes))
        with np.errstate(invalid="ignore"):  # a resample may have no scene of this part
            resampled += weight * (draws @ sums) / (draws @ counts)
        value += weight * float(found.mean())
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (value, value)
    missing = sum(item.id not in texts for item in every)
    unread = sum(item.id in texts and not points[item.id][1] for item in every)
    score = {"value": value, "low": float(low), "high": float(high)}
    return {"by": by, "key": key, "n": len(every), "score": score, "missing": missing, "unparsable": unread}


def _scene(item: Item) -> str:
    return f"{item.dataset}/{item.frame_ids[0]}"


def table(results: Iterable[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """Markdown in the columns of VSI-Bench's tables, in percent.

    Args:
        results: of each model its label and its `score_rows`.
    """
    heads = ["model", "Avg.", *TASKS]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for label, rows in results:
        found = {row["key"]: row["score"]["value"] for row in rows}
        cells = [f"{100 * found[key]:.1f}" if key in found else "–" for key in ("all", *TASKS)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
