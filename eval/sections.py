"""What may be compared stands together: a section for each suite, its content hash and its form of labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.published import Published, beside, comparable, dataset_names, differing, experts_only
from eval.result_tables import (
    Members,
    breakdown_tables,
    calibration_table,
    dataset_cells,
    datasets_table,
    dense_tables,
    kind_cells,
    kinds_table,
    metrics_table,
    vsi_table,
)
from eval.results import AS_PUBLISHED, CORRECTED, Result
from eval.tables import KIND_LABELS, Cell, Table, cell_of, plain
from eval.vsi_bench import TASKS

FORM_NOTES = {
    AS_PUBLISHED: "Labels as the published curation made them, right or wrong, to hold against the published rows.",
    CORRECTED: "Labels put right where the published curation differs from the truth.",
}
NO_PUBLISHED = (
    "the published numbers were measured on the labels of the published curation, so they stand beside the form "
    "as-published only."
)


UNSAID = "Of {names} the published labels are known to differ from the truth, and the suite does not say which it has."
NO_TASKS = "the published numbers by task were measured on the labels of the published curation."


@dataclass
class Panel:
    """One bar plot: the main number of each model on one kind of question ("" for several)."""

    title: str
    kind: str
    rows: list[tuple[str, str, Cell]]
    axis: tuple[str, ...] = ("0", "0.5", "1")


@dataclass(frozen=True)
class Run:
    """How one result was measured."""

    label: str
    origin: str
    suite_hash: str
    date: str
    profile: str
    questions_per_s: float | None
    wall_s: float | None
    versions: dict[str, Any]
    marks: Sequence[int]


@dataclass
class Footnotes:
    """Numbered from 1 in the order of their first use; one text has one number, whatever it is about."""

    subjects: dict[str, list[str]] = field(default_factory=dict)

    def number(self, subject: str, text: str) -> int:
        """The number of this footnote, new or known."""
        about = self.subjects.setdefault(text, [])
        if subject not in about:
            about.append(subject)
        return list(self.subjects).index(text) + 1

    @property
    def entries(self) -> list[tuple[str, str]]:
        """What each is about, and its text, in the order of the numbers."""
        return [(", ".join(about), text) for text, about in self.subjects.items()]


@dataclass
class Section:
    """Everything measured on one suite in one form.

    Args:
        form_marks: footnotes of the form itself.
        kinds: question kinds (or VSI-Bench's tasks) by their labels.
        details: more tables of each kind, for those who look closer.
    """

    name: str
    hash: str
    form: str
    count: int
    note: str
    form_marks: Sequence[int]
    kinds: dict[str, str]
    panels: list[Panel]
    tables: list[Table]
    details: list[tuple[str, list[Table]]]
    runs: list[Run]
    footnotes: list[tuple[str, str]]


def build_sections(results: Iterable[Result], published: Published) -> list[Section]:
    """A section per suite (name, form and hash), VSI-Bench last, models by their main number within it."""
    suites: dict[tuple[bool, str, str, str], list[Result]] = {}
    for result in results:
        key = (result.is_vsi, str(result.header["suite"]), result.form, result.header["suite_hash"])
        suites.setdefault(key, []).append(result)
    sections = []
    for key, members in sorted(suites.items()):
        members.sort(key=lambda result: -result.main)
        sections.append(_vsi_section(members) if key[0] else _depth_section(members, published))
    return sections


def _depth_section(results: list[Result], published: Published) -> Section:
    form, names, footnotes = results[0].form, dataset_names(published), Footnotes()
    datasets = _datasets(results)
    unsaid = {} if form else differing(datasets)
    note, form_marks = FORM_NOTES.get(form, ""), []
    if form == CORRECTED:
        form_marks = [footnotes.number("No published rows here", NO_PUBLISHED)]
    elif unsaid:
        note = UNSAID.format(names=", ".join(names.get(name, name) for name in unsaid))
        form_marks = [footnotes.number("No published rows by task here", NO_TASKS)]
    dataset_marks = _dataset_marks(results, names, footnotes)
    for dataset, reason in unsaid.items():
        number = footnotes.number(names.get(dataset, dataset), f"no published numbers beside it: {reason}")
        dataset_marks.setdefault(dataset, []).append(number)
    members = Members(results, _result_marks(results, footnotes), names, dataset_marks)
    return Section(
        str(results[0].header["suite"]),
        results[0].header["suite_hash"],
        form,
        int(results[0].header["n"]),
        note,
        form_marks,
        {kind: KIND_LABELS.get(kind, kind) for kind in members.kinds},
        depth_panels(members),
        _main_tables(members, comparable(published, form, datasets)),
        _details(members),
        _runs(members),
        footnotes.entries,
    )


def _main_tables(members: Members, published: Published) -> list[Table]:
    tasks = beside(published["tasks"], {KIND_LABELS.get(kind, kind) for kind in members.kinds})
    by_dataset = "distance" if "distance" in members.kinds else ""
    measured = {name for one in dataset_cells(members, by_dataset) for name in one}
    # Published δ1 by dataset is of distance questions; beside other questions it would say nothing.
    datasets = beside([*published["datasets"], *experts_only(published)], measured) if by_dataset else []
    tables = [datasets_table(members, by_dataset, datasets), metrics_table(members), *_calibration(members)]
    tables += [*breakdown_tables(members), *dense_tables(members)]
    if members.kinds != ["distance"]:  # of distance alone the table by dataset says more
        tables.insert(0, kinds_table(members, tasks))
    return tables


def _details(members: Members) -> list[tuple[str, list[Table]]]:
    """Of suites with several kinds: each kind's own metrics, and its datasets where the main table has not them."""
    made = []
    for kind in members.kinds if len(members.kinds) > 1 else ():
        tables = [metrics_table(members, kind), *_calibration(members, kind)]
        if kind != "distance" and any(dataset_cells(members, kind)):
            tables.append(datasets_table(members, kind))
        made.append((kind, tables))
    return made


def _calibration(members: Members, kind: str = "") -> list[Table]:
    table = calibration_table(members, kind)
    return [table] if table else []


def depth_panels(members: Members) -> list[Panel]:
    """Bars of delta1: all questions, then each kind where there are several."""
    every = [(result, cell_of(result.rows[0]["delta1"])) for result in members.results]
    panels = [Panel("All questions", members.kind_of_all(), _bars(every))]
    cells = kind_cells(members)
    for kind in members.kinds if len(members.kinds) > 1 else ():
        of_kind = [(result, one.get(kind)) for result, one in zip(members.results, cells, strict=True)]
        panels.append(Panel(KIND_LABELS.get(kind, kind), kind, _bars(of_kind)))
    return panels


def _bars(found: Iterable[tuple[Result, Cell | None]]) -> list[tuple[str, str, Cell]]:
    return [(result.label, result.origin, cell) for result, cell in found if cell]


def _vsi_section(results: list[Result]) -> Section:
    footnotes = Footnotes()
    members = Members(results, _result_marks(results, footnotes))
    every = [(result, cell_of(result.rows[0]["score"], percent=True)) for result in results]
    return Section(
        str(results[0].header["suite"]),
        results[0].header["suite_hash"],
        results[0].form,
        int(results[0].header["n"]),
        "Scored by VSI-Bench's protocol, which is no δ1; intervals resample scenes.",
        [],
        {task: task for task in TASKS if any(task in result.by("task") for result in results)},
        [Panel("Mean of the tasks, percent", "", _bars(every), ("0", "50", "100"))],
        [vsi_table(members)],
        [],
        _runs(members),
        footnotes.entries,
    )


def _datasets(results: list[Result]) -> list[str]:
    """The datasets that were asked about, each once."""
    named = {"dataset": "key", "kind,dataset": "dataset"}
    return list(dict.fromkeys(row[named[row["by"]]] for one in results for row in one.rows if row["by"] in named))


def _dataset_marks(results: list[Result], names: dict[str, str], footnotes: Footnotes) -> dict[str, list[int]]:
    """Footnotes of the datasets whose labels differ between the forms."""
    marks: dict[str, list[int]] = {}
    for result in results:
        for dataset, reason in (result.header.get("footnotes") or {}).items():
            number = footnotes.number(names.get(plain(dataset), dataset), str(reason))
            found = marks.setdefault(plain(dataset), [])
            if number not in found:
                found.append(number)
    return marks


def _result_marks(results: list[Result], footnotes: Footnotes) -> list[list[int]]:
    return [[footnotes.number(result.label, note) for note in _notes(result)] for result in results]


def _notes(result: Result) -> list[str]:
    """What a reader has to know of a result: how it was asked, and whether it is whole."""
    missing, n = result.rows[0].get("missing"), result.rows[0].get("n")
    unanswered = [f"{missing} of {n} questions have no answer, and count as wrong"] if missing else []
    return [*map(str, result.header.get("notes") or []), *unanswered]


def _runs(members: Members) -> list[Run]:
    runs = []
    for result, marks in zip(members.results, members.marks, strict=True):
        header = result.header
        runs.append(
            Run(
                result.label,
                result.origin,
                header["suite_hash"],
                str(header.get("date") or "")[:10],
                str(header.get("profile") or ""),
                header.get("questions_per_s"),
                header.get("wall_s"),
                header.get("versions") or {},
                marks,
            )
        )
    return runs
