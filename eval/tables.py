"""Results and published numbers in the form of a leaderboard: sections, tables, bar plots."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthlm.errors import DepthLMError
from eval.jsonl import read_lines

HERE = Path(__file__).resolve().parent
# Our question kinds and the columns of the published table of tasks, in its order.
KIND_LABELS = {
    "distance": "Distance",
    "axis_distance": "Principal axis distance",
    "speed": "Speed",
    "travel_time": "Time",
    "two_point": "Two point distance",
    "camera_motion": "Pose",
}
METRICS = {
    "delta1": "δ1 ↑",
    "delta2": "δ2 ↑",
    "delta3": "δ3 ↑",
    "abs_rel": "AbsRel ↓",
    "rmse": "RMSE ↓",
    "log10": "log10 ↓",
    "silog": "SIlog ↓",
}
AVERAGE = "Average"


@dataclass(frozen=True)
class Cell:
    """A number of a table with its 95% interval where it has one; ``text`` overrides how it is shown."""

    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""

    @property
    def shown(self) -> str:
        return self.text or f"{self.value:.3f}"

    @property
    def interval(self) -> str:
        return "" if self.low is None or self.high is None else f"{self.low:.3f}–{self.high:.3f}"


@dataclass
class Row:
    """A model's line: ``origin`` is "model", "baseline" or "published" (then with its ``source``)."""

    model: str
    origin: str
    cells: dict[str, Cell]
    group: str = ""
    source: str = ""


@dataclass
class Table:
    """Rows under columns; ``note`` says what the numbers are."""

    title: str
    note: str
    columns: list[str]
    rows: list[Row]
    best: dict[str, float] = field(default_factory=dict)


@dataclass
class Panel:
    """One bar plot: delta1 of each measured model on one kind of question."""

    title: str
    rows: list[tuple[str, str, Cell]]


@dataclass
class Section:
    """Everything measured on one suite."""

    name: str
    hash: str
    count: int
    panels: list[Panel]
    tables: list[Table]
    runs: list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """One result.jsonl: its header and its rows."""

    header: dict[str, Any]
    rows: list[dict[str, Any]]

    def by(self, by: str) -> dict[str, dict[str, Any]]:
        """The rows of one grouping by their keys."""
        return {row["key"]: row for row in self.rows if row["by"] == by}

    @property
    def origin(self) -> str:
        return "baseline" if self.header.get("baseline") else "model"

    @property
    def delta1(self) -> float:
        return float(self.by("all")["all"]["delta1"]["value"] or 0.0)


def read_result(path: Path) -> Result:
    """Read one result.

    Raises:
        DepthLMError: it can't be read, or is no result.
    """
    header, *rows = read_lines(path)
    result = Result(header, rows)
    try:
        if header["type"] != "result" or not isinstance(header["suite_hash"], str):
            raise KeyError("type")
        _ = result.delta1, header["label"], header["suite"], header["n"]
    except (KeyError, TypeError, ValueError) as error:
        mend = "name result.jsonl files as `depthlm eval run` writes them; of VSI-Bench: depthlm eval vsi-bench"
        raise DepthLMError(path, f"is no result of a suite: {error} is missing or wrong", mend) from error
    return result


def read_published(path: Path = HERE / "published.csv") -> dict[str, list[Row]]:
    """Published rows by table (``datasets``, ``experts``, ``tasks``), in the order of the paper."""
    tables: dict[str, dict[str, Row]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            rows = tables.setdefault(line["table"], {})
            row = rows.setdefault(line["model"], Row(line["model"], "published", {}, line["group"], line["source"]))
            text = line["value"]
            value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
            row.cells[line["column"]] = Cell(value, text=text)
    return {name: list(rows.values()) for name, rows in tables.items()}


def _cell(metric: dict[str, Any] | None) -> Cell | None:
    if not metric or metric.get("value") is None:
        return None
    return Cell(metric["value"], metric.get("low"), metric.get("high"))


def _with_average(cells: dict[str, Cell]) -> dict[str, Cell]:
    """Adds the plain mean of the columns, as the published tables do."""
    if len(cells) > 1:
        cells = {**cells, AVERAGE: Cell(sum(cell.value for cell in cells.values()) / len(cells))}
    return cells


def _columns(*groups: Iterable[str]) -> list[str]:
    """The names of all groups, each once, in order; the average last."""
    names = dict.fromkeys(name for group in groups for name in group)
    return [name for name in names if name != AVERAGE] + ([AVERAGE] if AVERAGE in names else [])


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _measured(results: list[Result], cells: Sequence[dict[str, Cell]]) -> list[Row]:
    return [
        Row(str(result.header["label"]), result.origin, one) for result, one in zip(results, cells, strict=True) if one
    ]


def _best(table: Table) -> Table:
    """Notes the best measured model of each column; baselines know too much or too little to count."""
    for column in table.columns:
        values = [row.cells[column].value for row in table.rows if row.origin == "model" and column in row.cells]
        if len(values) > 1 and not column.startswith(("n", "missing", "unparsable")):
            table.best[column] = min(values) if column.endswith("↓") else max(values)
    return table


def kinds_table(results: list[Result], published: list[Row]) -> Table:
    """delta1 by question kind, with the published table of tasks below."""
    cells = [
        _with_average(
            {KIND_LABELS.get(k, k): cell for k, row in result.by("kind").items() if (cell := _cell(row["delta1"]))}
        )
        for result in results
    ]
    order = [label for label in KIND_LABELS.values() if any(label in one for one in cells)]
    columns = _columns(order, *cells, *[row.cells for row in published])
    note = "δ1 with its 95% interval (images resampled). Average: plain mean of the row's columns."
    return _best(Table("By question kind", note, columns, [*_measured(results, cells), *published]))


def datasets_table(results: list[Result], published: list[Row]) -> Table:
    """delta1 of distance questions by dataset (as published), or of all questions where none asks for distance."""
    distance = any("distance" in result.by("kind") for result in results)
    labels = {_plain(name): name for row in published for name in row.cells}
    cells = []
    for result in results:
        rows = result.by("kind,dataset").values() if distance else result.by("dataset").values()
        of_kind = [row for row in rows if not distance or row["kind"] == "distance"]
        named = {labels.get(_plain(row["dataset"]), row["dataset"]): _cell(row["delta1"]) for row in of_kind}
        cells.append(_with_average({name: cell for name, cell in named.items() if cell}))
    columns = _columns(*cells, *[row.cells for row in published])
    note = f"δ1 of {'distance' if distance else 'all'} questions. Average: plain mean of the row's columns."
    return _best(Table("By dataset", note, columns, [*_measured(results, cells), *published]))


def metrics_table(results: list[Result]) -> Table:
    """Every metric over all questions."""
    cells = []
    for result in results:
        row = result.by("all")["all"]
        one = {label: cell for key, label in METRICS.items() if (cell := _cell(row.get(key)))}
        for count in ("unparsable", "missing", "n"):
            one[count] = Cell(float(row[count]), text=str(row[count]))
        cells.append(one)
    note = "Zero, negative, unparsable and missing answers count as wrong in δ; the other metrics leave them out."
    columns = _columns([label for label in METRICS.values() if any(label in one for one in cells)], *cells)
    return _best(Table("All metrics, all questions", note, columns, _measured(results, cells)))


def panels(results: list[Result]) -> list[Panel]:
    """Bars of delta1: all questions, then each kind where there are several."""
    wanted = [("all", "all", "All questions")]
    kinds = [kind for kind in KIND_LABELS if any(kind in result.by("kind") for result in results)]
    kinds += sorted({kind for result in results for kind in result.by("kind")} - set(kinds))
    if len(kinds) > 1:
        wanted += [("kind", kind, KIND_LABELS.get(kind, kind)) for kind in kinds]
    made = []
    for by, key, title in wanted:
        rows = [
            (str(result.header["label"]), result.origin, cell)
            for result in results
            if (cell := _cell(result.by(by).get(key, {}).get("delta1")))
        ]
        made.append(Panel(title, rows))
    return made


def build_sections(results: list[Result], published: dict[str, list[Row]]) -> list[Section]:
    """A section per suite (name and hash), models by delta1 within it."""
    suites: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        suites.setdefault((str(result.header["suite"]), result.header["suite_hash"]), []).append(result)
    sections = []
    for (name, digest), members in sorted(suites.items()):
        members.sort(key=lambda result: -result.delta1)
        tables = [
            kinds_table(members, published["tasks"]),
            datasets_table(members, [*published["datasets"], *_experts_only(published)]),
            metrics_table(members),
        ]
        runs = [result.header for result in members]
        sections.append(Section(name, digest, int(members[0].header["n"]), panels(members), tables, runs))
    return sections


def _experts_only(published: dict[str, list[Row]]) -> list[Row]:
    """Rows of the experts' table that the table of datasets has not, without their relative column."""
    known = {row.model for row in published["datasets"]}
    return [
        Row(row.model, row.origin, {k: c for k, c in row.cells.items() if "vs" not in k}, row.group, row.source)
        for row in published["experts"]
        if row.model not in known
    ]


def published_tables(published: dict[str, list[Row]]) -> list[Table]:
    """The tables of the paper by themselves, as printed."""
    titles = {
        "datasets": "δ1 per dataset, vision-language models",
        "tasks": "δ1 per task",
        "experts": "δ1 against expert depth networks",
    }
    return [
        Table(title, "", _columns(*[row.cells for row in published[name]]), published[name])
        for name, title in titles.items()
    ]
