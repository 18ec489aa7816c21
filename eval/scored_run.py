"""A run as `depthlm eval run` leaves it: its result.jsonl and, beside it, the prediction of each question."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlm.errors import DepthLMError
from depthlm.shown import Shown
from depthlm.suite import Item, Suite
from depthlm.suite_view import SuiteView
from eval.jsonl import read_lines
from eval.results import Result, read_result

RESULT, PREDICTIONS = "result.jsonl", "predictions.jsonl"


@dataclass(frozen=True)
class ScoredRun:
    """A result with the rows of predictions.jsonl by question id, in the suite's order."""

    path: Path
    result: Result
    predictions: dict[str, dict[str, Any]]

    def values(self, ids: list[str]) -> NDArray[np.float64]:
        """The answers to these questions, NaN where there is none."""
        found = [self.predictions[name]["value"] for name in ids]
        return np.array([math.nan if value is None else value for value in found], np.float64)

    def items(self, suite: Suite) -> list[Item]:
        """The suite's questions that were asked.

        Raises:
            DepthLMError: it is another suite.
        """
        asked = str(self.result.header["suite_hash"])
        # a run of a part of the suite has the suite's own hash and, behind a dash, which part
        if asked.partition("-")[0] != suite.hash:
            reason = f"answers {self.result.header['suite']} ({asked}), not {suite.name} ({suite.hash})"
            raise DepthLMError(self.path, reason, "name the suite that was asked")
        return [item for item in suite.items if item.id in self.predictions]

    def view(self, suite: Suite) -> SuiteView:
        """Shows the questions by the profile that this run asked them by."""
        return SuiteView(suite, self.result.header.get("profile"))

    def shown(self, view: SuiteView, item: Item) -> Shown:
        """A question as the model saw it, alone; without images where it never saw it, for the profile has no place
        for its marker.

        Raises:
            DepthLMError: an answered question can't be shown: a frame or image is missing or damaged.
        """
        try:
            return view.show(item)
        except DepthLMError:
            if self.predictions[item.id]["text"] is not None:
                raise
            return Shown([], [item.question])


def read_run(path: Path) -> ScoredRun:
    """Read a run's folder; one of its two files stands for it.

    Raises:
        DepthLMError: a file is missing or damaged, the two don't belong together, or it is a run of VSI-Bench, whose
            answers are choices and counts.
    """
    mend = f"name a run's folder, as `depthlm eval run` makes it, or its {RESULT}"
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name not in (RESULT, PREDICTIONS):
        raise DepthLMError(path, f"is neither a folder nor a {RESULT}", mend)
    if not (folder / RESULT).is_file():
        raise DepthLMError(folder, f"holds no {RESULT}", mend)
    result = read_result(folder / RESULT)
    if result.is_vsi:
        raise DepthLMError(path, "is a run of VSI-Bench and has no δ1", "see `depthlm eval vsi-bench`")
    rows = read_lines(folder / PREDICTIONS)
    try:
        for row in rows:
            _check(row)
    except (KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DepthLMError(folder / PREDICTIONS, f"is no list of predictions: {reason}", _SCORE_AGAIN) from error
    found = {row["id"]: row for row in rows}
    if len(found) < len(rows) or len(found) != result.header["n"]:
        reason = f"predicts {len(found)} questions in {len(rows)} lines, its result has {result.header['n']}"
        raise DepthLMError(folder / PREDICTIONS, reason, _SCORE_AGAIN)
    return ScoredRun(folder, result, found)


_SCORE_AGAIN = "make it again with `depthlm eval score`"


def _check(row: dict[str, Any]) -> None:
    for name in ("id", "kind", "dataset", "group", "unit"):
        if not isinstance(row[name], str):
            raise TypeError(f"{name} is {row[name]!r}")
    if not isinstance(row["truth"], int | float) or not isinstance(row["value"], int | float | None):
        raise TypeError(f"truth or value of {row['id']} is no number")
    _ = row["text"], row["reason"]
