"""The parts of a leaderboard's table: cells, rows, columns, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Our question kinds and the columns of the published table of tasks, in its order.
KIND_LABELS = {
    "distance": "Distance",
    "axis_distance": "Principal axis distance",
    "speed": "Speed",
    "travel_time": "Time",
    "two_point": "Two point distance",
    "camera_motion": "Pose",
}
AVERAGE = "Average"


@dataclass(frozen=True)
class Cell:
    """A number of a table with its 95% interval where it has one; ``text`` overrides how it is shown."""

    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    percent: bool = False

    @property
    def shown(self) -> str:
        return self.text or self._number(self.value)

    @property
    def interval(self) -> str:
        return "" if self.low is None or self.high is None else f"{self._number(self.low)}–{self._number(self.high)}"

    def _number(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}"


@dataclass
class Row:
    """A model's line.

    Args:
        origin: "model", "expert" or "baseline" for ours, "published" for a paper's.
        detail: what stands under the name: suite hash and date of ours, the group of a published row.
        source: what a published row is cited from.
        marks: numbers of its footnotes.
    """

    model: str
    origin: str
    cells: dict[str, Cell]
    detail: str = ""
    source: str = ""
    marks: Sequence[int] = ()


@dataclass
class Column:
    """A column.

    Args:
        kind: question kind the numbers are about, "" for several; None where the table as a whole has one.
        better: "high", "low", or "" for numbers that are neither.
        best: the best number of our models; baselines know too much or too little to count.
        marks: numbers of its footnotes.
    """

    name: str
    kind: str | None = None
    better: str = "high"
    best: float | None = None
    marks: Sequence[int] = ()


@dataclass
class Table:
    """Rows under columns.

    Args:
        note: what the numbers are.
        kind: question kind of all its numbers, "" for several; None where the columns have kinds of their own.
        shares: whether all numbers lie between 0 and 1, so that intervals can be drawn on one scale.
        compact: whether the page shows little more than the numbers.
    """

    title: str
    note: str
    columns: list[Column]
    rows: list[Row]
    kind: str | None = None
    shares: bool = True
    compact: bool = False


def plain(name: str) -> str:
    """A dataset's name without case and signs; "ScanNet++" is no "ScanNet"."""
    return "".join(c for c in name.lower().replace("+", "p") if c.isalnum())


def cell_of(metric: Mapping[str, Any] | None, percent: bool = False) -> Cell | None:
    """A metric as a result has it, as a cell; None where it has no value."""
    if not metric or metric.get("value") is None:
        return None
    return Cell(metric["value"], metric.get("low"), metric.get("high"), percent=percent)


def columns_of(*groups: Iterable[str]) -> list[str]:
    """The names of all groups, each once, in order; the average last."""
    names = dict.fromkeys(name for group in groups for name in group)
    return [name for name in names if name != AVERAGE] + ([AVERAGE] if AVERAGE in names else [])


def with_average(cells: dict[str, Cell]) -> dict[str, Cell]:
    """Adds the plain mean of the columns, as the published tables do."""
    if len(cells) > 1:
        cells = {**cells, AVERAGE: Cell(sum(cell.value for cell in cells.values()) / len(cells))}
    return cells


def mark_best(table: Table) -> Table:
    """Notes the best number of each column among ours that are no baselines, where there are two to compare."""
    for column in table.columns:
        cells = [row.cells.get(column.name) for row in table.rows if row.origin in ("model", "expert")]
        values = [cell.value for cell in cells if cell]
        if len(values) > 1 and column.better:
            column.best = min(values) if column.better == "low" else max(values)
    return table
