"""The papers' rows in ``published.csv``: read, and chosen for standing beside ours."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from eval.results import AS_PUBLISHED, CORRECTED
from eval.tables import AVERAGE, KIND_LABELS, Cell, Column, Row, Table, columns_of, plain

PATH = Path(__file__).resolve().parent / "published.csv"
TITLES = {
    "datasets": "δ1 per dataset, vision-language models",
    "tasks": "δ1 per task",
    "experts": "δ1 against expert depth networks",
}

# Datasets whose published labels are not the truth, as the papers write their names, and how they differ: as the
# project's recipes say it (``data_gen/suites``).
DEPTHS = "its published labels are depths z that are called distances"
FOUR_FIFTHS = "its published labels are 0.8 of the truth, depth being divided by 10000 where the dataset says 8000"
DIFFERING = {"DDAD": DEPTHS, "NuScenes": DEPTHS, "sunRGBD": FOUR_FIFTHS, "iBims1": DEPTHS, "NYUv2": FOUR_FIFTHS}

Published = dict[str, list[Row]]


def read_published(path: Path = PATH) -> Published:
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


def dataset_names(published: Published) -> dict[str, str]:
    """How the papers write a dataset's name, by its plain form."""
    rows = [*published["datasets"], *experts_only(published)]
    return {plain(name): name for row in rows for name in row.cells if name != AVERAGE}


def experts_only(published: Published) -> list[Row]:
    """Rows of the experts' table that the table of datasets has not, without their relative column."""
    known = {row.model for row in published["datasets"]}
    return [
        replace(row, cells={name: cell for name, cell in row.cells.items() if not name.startswith("vs ")})
        for row in published["experts"]
        if row.model not in known
    ]


def differing(datasets: Iterable[str]) -> dict[str, str]:
    """How the published labels differ from the truth, by the plain form of those datasets where they do."""
    reasons = {plain(name): reason for name, reason in DIFFERING.items()}
    return {plain(name): reasons[plain(name)] for name in datasets if plain(name) in reasons}


def comparable(published: Published, form: str, datasets: Iterable[str]) -> Published:
    """The published rows that a suite about ``datasets`` can be compared with.

    All of them in the form as-published, none in the form corrected. A suite without forms does not say which labels it
    has: no columns of datasets whose published labels differ, and no tasks where it asks about one of these.
    """
    if form == AS_PUBLISHED:
        return published
    if form == CORRECTED:
        return {name: [] for name in published}
    wrong = {AVERAGE, *map(plain, DIFFERING)}
    kept = {
        name: [replace(row, cells={n: c for n, c in row.cells.items() if not {n, plain(n)} & wrong}) for row in rows]
        for name, rows in published.items()
    }
    return {**kept, "tasks": [] if differing(datasets) else published["tasks"]}


def beside(rows: Iterable[Row], measured: set[str]) -> list[Row]:
    """The rows as they may stand beside ours: none where no column is shared, and an average over other columns than
    ours is no average of the table."""
    kept = list(rows)
    if not any(row.cells.keys() & (measured - {AVERAGE}) for row in kept):
        return []
    if {name for row in kept for name in row.cells} - {AVERAGE} == measured - {AVERAGE}:
        return kept
    return [replace(row, cells={n: c for n, c in row.cells.items() if n != AVERAGE}) for row in kept]


def published_tables(published: Published) -> list[Table]:
    """The tables of the paper by themselves, as printed."""
    kinds = {label: kind for kind, label in KIND_LABELS.items()}
    tables = []
    for name, title in TITLES.items():
        columns = [
            Column(column, kinds.get(column, "") if name == "tasks" else None)
            for column in columns_of(*[row.cells for row in published[name]])
        ]
        tables.append(Table(title, "", columns, published[name], None if name == "tasks" else "distance"))
    return tables


def sources(published: Published) -> list[str]:
    """What the rows are cited from."""
    return sorted({row.source for rows in published.values() for row in rows})
