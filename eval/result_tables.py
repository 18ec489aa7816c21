"""Results as tables: by question kind, by dataset, all metrics, break-downs, VSI-Bench's tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from depthlm.spread import LEVELS
from eval.results import Result
from eval.tables import KIND_LABELS, Cell, Column, Row, Table, cell_of, columns_of, mark_best, plain, with_average
from eval.vsi_bench import TASKS

METRICS = {
    "delta1": "δ1 ↑",
    "delta2": "δ2 ↑",
    "delta3": "δ3 ↑",
    "abs_rel": "AbsRel ↓",
    "rmse": "RMSE ↓",
    "log10": "log10 ↓",
    "silog": "SIlog ↓",
}
AVERAGE_NOTE = "Average: plain mean of the row's columns."
PUBLISHED_NOTE = " † published: measured on other images; averages only where they are over the same columns."
BREAKDOWNS = {"depth_range": "By depth range", "region": "By region", "fov": "By field of view"}
WIDTH = "Width of 90% ↓"
CALIBRATION_NOTE = (
    "Share of the truths inside the answers' central 50%, 80% and 90% intervals: as much as they promise, where the "
    "model knows how sure it is; k samples can't promise more than (k - 1)/(k + 1). Width: the 90% interval over the "
    "truth, median. n: answers with an interval."
)
COUNTS = ("unparsable", "missing", "n")


@dataclass(frozen=True)
class Members:
    """The results on one suite, best first, and what their tables need to know.

    Args:
        marks: of each result the numbers of its footnotes.
        names: how the papers write a dataset's name, by its plain form.
        dataset_marks: numbers of footnotes by the plain form of a dataset's name.
    """

    results: list[Result]
    marks: Sequence[Sequence[int]]
    names: Mapping[str, str] = field(default_factory=dict)
    dataset_marks: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def rows(self, cells: Sequence[dict[str, Cell]]) -> list[Row]:
        """A row of each result that has a cell."""
        return [
            Row(result.label, result.origin, one, _detail(result), marks=mark)
            for result, one, mark in zip(self.results, cells, self.marks, strict=True)
            if one
        ]

    @property
    def kinds(self) -> list[str]:
        """Question kinds of all results, known ones first in the papers' order."""
        found = {kind for result in self.results for kind in result.by("kind")}
        return [kind for kind in KIND_LABELS if kind in found] + sorted(found - KIND_LABELS.keys())

    def kind_of_all(self) -> str:
        """The kind of "all questions": the only one, or "" where there are several."""
        return self.kinds[0] if len(self.kinds) == 1 else ""


def _detail(result: Result) -> str:
    return " · ".join([result.header["suite_hash"][:12], *filter(None, [str(result.header.get("date") or "")[:10]])])


def kind_cells(members: Members) -> list[dict[str, Cell]]:
    """delta1 by question kind of each result, and the average."""
    return [
        with_average(
            {kind: cell for kind in members.kinds if (cell := cell_of(result.by("kind").get(kind, {}).get("delta1")))}
        )
        for result in members.results
    ]


def kinds_table(members: Members, published: Sequence[Row] = ()) -> Table:
    """delta1 by question kind."""
    labelled = [{KIND_LABELS.get(kind, kind): cell for kind, cell in one.items()} for one in kind_cells(members)]
    kinds = {KIND_LABELS.get(kind, kind): kind for kind in (*members.kinds, *KIND_LABELS)}
    names = columns_of(
        [KIND_LABELS.get(kind, kind) for kind in members.kinds], *labelled, *[row.cells for row in published]
    )
    note = f"δ1 with its 95% interval (images resampled). {AVERAGE_NOTE}{PUBLISHED_NOTE if published else ''}"
    columns = [Column(name, kinds.get(name, "")) for name in names]
    return mark_best(Table("By question kind", note, columns, [*members.rows(labelled), *published]))


def dataset_cells(members: Members, kind: str) -> list[dict[str, Cell]]:
    """delta1 by dataset of each result, of one kind of question or ("") of all; names as the papers write them."""
    made = []
    for result in members.results:
        rows = result.by("kind,dataset" if kind else "dataset").values()
        cells: dict[str, Cell] = {}
        for row in rows:
            name = row["dataset"] if kind else row["key"]
            if (not kind or row["kind"] == kind) and (cell := cell_of(row.get("delta1"))):
                known = members.names.get(plain(name), name)
                cells[name if known in cells else known] = cell
        made.append(with_average(cells))
    return made


def datasets_table(members: Members, kind: str, published: Sequence[Row] = ()) -> Table:
    """delta1 by dataset, of one kind of question or ("") of all."""
    cells = dataset_cells(members, kind)
    names = columns_of(*cells, *[row.cells for row in published])
    marks = {name: members.dataset_marks.get(plain(name), ()) for name in names}
    what = f"{KIND_LABELS.get(kind, kind).lower()} questions" if kind else "all questions"
    note = f"δ1 of {what}. {AVERAGE_NOTE}{PUBLISHED_NOTE if published else ''}"
    columns = [Column(name, marks=marks[name]) for name in names]
    title = "By dataset" if kind in ("", "distance") else f"By dataset: {KIND_LABELS.get(kind, kind)}"
    return mark_best(Table(title, note, columns, [*members.rows(cells), *published], kind or members.kind_of_all()))


def metrics_table(members: Members, kind: str = "") -> Table:
    """Every metric, of one kind of question or ("") of all."""
    cells = []
    for result in members.results:
        row = result.by("kind").get(kind, {}) if kind else result.rows[0]
        one = {label: cell for key, label in METRICS.items() if (cell := cell_of(row.get(key)))}
        one |= {name: Cell(float(row[name]), text=str(row[name])) for name in COUNTS if name in row}
        cells.append(one)
    found = columns_of(*cells)
    known = [*METRICS.values(), *COUNTS]
    columns = [Column(name, better={"↑": "high", "↓": "low"}.get(name[-1], "")) for name in known if name in found]
    title = f"All metrics: {KIND_LABELS.get(kind, kind)}" if kind else "All metrics, all questions"
    note = "Zero, negative, unparsable and missing answers count as wrong in δ; the other metrics leave them out."
    return mark_best(Table(title, note, columns, members.rows(cells), kind or members.kind_of_all(), shares=False))


def calibration_table(members: Members, kind: str = "") -> Table | None:
    """What the answers' intervals are worth, of one kind of question or ("") of all; None where no answer has one."""
    cells = []
    for result in members.results:
        row = result.by("kind").get(kind, {}) if kind else result.rows[0]
        cells.append(calibration_cells(row.get("calibration") or {}))
    columns = [Column(name, better="low" if name == WIDTH else "") for name in columns_of(*cells)]
    if not columns:
        return None
    title = f"Calibration: {KIND_LABELS.get(kind, kind)}" if kind else "Calibration"
    kind = kind or members.kind_of_all()
    return mark_best(Table(title, CALIBRATION_NOTE, columns, members.rows(cells), kind, shares=False))


def calibration_cells(found: Mapping[str, Any]) -> dict[str, Cell]:
    """A row's ``calibration``: shares of truths inside the intervals, their width, and of how many answers."""
    if not found:
        return {}
    cells = {f"in {level:.0%}": Cell(found[str(level)]) for level in LEVELS}
    return cells | {WIDTH: Cell(found["width"]), "n": Cell(found["n"], text=str(found["n"]))}


def breakdown_tables(members: Members) -> list[Table]:
    """delta1 by depth range, region and field of view, where the results have such rows."""
    tables = []
    for by, title in BREAKDOWNS.items():
        cells = [
            {key: cell for key, row in result.by(by).items() if (cell := cell_of(row.get("delta1")))}
            for result in members.results
        ]
        if any(cells):
            kinds = {
                row.get("kind", members.kind_of_all()) for result in members.results for row in result.by(by).values()
            }
            columns = [Column(name) for name in columns_of(*cells)]
            kind = kinds.pop() if len(kinds) == 1 else ""
            note = "δ1 with its 95% interval."
            tables.append(mark_best(Table(title, note, columns, members.rows(cells), kind, compact=True)))
    return tables


DENSE_METRICS = {
    "abs_rel": "AbsRel ↓",
    "rmse": "RMSE ↓",
    "mae": "MAE ↓",
    "log10": "log10 ↓",
    "silog": "SIlog ↓",
    "delta1": "δ1 ↑",
    "delta2": "δ2 ↑",
    "delta3": "δ3 ↑",
    "boundary_f1": "Boundary F1 ↑",
    "fov_error": "FoV error, ° ↓",
}


def dense_tables(members: Members) -> list[Table]:
    """Metrics of whole depth maps, where results have them."""
    cells = []
    for result in members.results:
        row = result.by("dense").get("all", {})
        one = {label: cell for key, label in DENSE_METRICS.items() if (cell := cell_of(row.get(key)))}
        cells.append(one | ({"images": Cell(float(row["n_images"]), text=str(row["n_images"]))} if row else {}))
    if not any(cells):
        return []
    found = columns_of(*cells)
    columns = [
        Column(name, better={"↑": "high", "↓": "low"}.get(name[-1], ""))
        for name in (*DENSE_METRICS.values(), "images")
        if name in found
    ]
    note = "Of all measured pixels of an image, then the mean over images; intervals resample images."
    return [mark_best(Table("Whole depth maps", note, columns, members.rows(cells), shares=False))]


def vsi_table(members: Members) -> Table:
    """VSI-Bench's columns, in percent."""
    cells = []
    for result in members.results:
        rows = {"Avg.": result.rows[0], **result.by("task")}
        cells.append({name: cell for name, row in rows.items() if (cell := cell_of(row["score"], percent=True))})
    columns = [Column(name, "" if name == "Avg." else name) for name in columns_of(["Avg."], TASKS)]
    note = "Percent: mean relative accuracy of numbers, accuracy of choices; Avg. is the mean of the tasks."
    return mark_best(Table("VSI-Bench by task", note, columns, members.rows(cells)))
