"""Sections -> Markdown, CSV and one HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from eval.markdown import escaped
from eval.pages import render
from eval.published import Published, published_tables, sources
from eval.results import Result
from eval.sections import Run, Section
from eval.tables import KIND_LABELS, Table

CSV_HEAD = (
    *("origin", "suite", "form", "suite_hash", "date", "model", "by", "key", "metric"),
    *("value", "low", "high", "n", "source"),
)


def to_markdown(sections: list[Section], published: Published) -> str:
    """The leaderboard as Markdown; tables of single kinds beyond the main ones are in the CSV and on the page."""
    lines = ["# Metric depth leaderboard", ""]
    for section in sections:
        head = [
            escaped(section.name),
            *filter(None, [section.form]),
            f"{section.count} questions",
            f"`{escaped(section.hash)}`",
        ]
        lines += ["## " + " · ".join(head), ""]
        if section.note:
            lines += [section.note + _md_marks(section.form_marks), ""]
        for table in section.tables:
            lines += [f"### {escaped(table.title)}", "", table.note, "", *_md_table(table), ""]
        lines += ["### How these were measured", "", *_md_runs(section.runs), ""]
        for number, (subject, text) in enumerate(section.footnotes, 1):
            lines += [f"<sup>{number}</sup> {escaped(subject)}: {escaped(text)}", ""]
    lines += ["## As published", ""]
    for table in published_tables(published):
        lines += [f"### {table.title}", "", *_md_table(table), ""]
    lines += ["† published numbers, measured on other images: " + "; ".join(sources(published)) + ".", ""]
    return "\n".join(lines)


def _md_marks(marks: Sequence[int]) -> str:
    return f" <sup>{', '.join(map(str, marks))}</sup>" if marks else ""


def _md_table(table: Table) -> list[str]:
    heads = [escaped(column.name) + _md_marks(column.marks) for column in table.columns]
    lines = ["| Model | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    for row in table.rows:
        cells = []
        for column in table.columns:
            cell = row.cells.get(column.name)
            text = "–" if cell is None else cell.shown
            if cell and column.best == cell.value and row.origin in ("model", "expert"):
                text = f"**{text}**"
            cells.append(text + (f" ({cell.interval})" if cell and cell.interval else ""))
        mark = {"published": " †", "baseline": " (baseline)", "expert": " (expert)"}.get(row.origin, "")
        lines.append(f"| {escaped(row.model)}{mark}{_md_marks(row.marks)} | " + " | ".join(cells) + " |")
    return lines


def _md_runs(runs: list[Run]) -> list[str]:
    lines = ["| Model | Suite hash | Date | Asked by profile | Questions/s |", "|---|---|---|---|--:|"]
    for run in runs:
        speed = "–" if run.questions_per_s is None else f"{run.questions_per_s:.1f}"
        cells = [
            escaped(run.label),
            f"`{escaped(run.suite_hash)}`",
            run.date or "–",
            escaped(run.profile) or "–",
            speed,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def to_csv(results: Iterable[Result], published: Published) -> str:
    """Every number in long form, one a line: measured ones with interval and suite, published ones with source."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_HEAD, restval="", lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerows(_measured_lines(result))
    for name, rows in published.items():
        for row in rows:
            fields = {"origin": row.origin, "suite": name, "model": row.model, "by": name, "source": row.source}
            for column, cell in row.cells.items():
                writer.writerow({**fields, "key": column, "metric": "delta1", "value": cell.shown})
    return out.getvalue()


def _measured_lines(result: Result) -> Iterator[dict[str, Any]]:
    header = result.header
    of_result = {"origin": result.origin, "suite": header["suite"], "form": result.form, "model": result.label}
    of_result |= {"suite_hash": header["suite_hash"], "date": header.get("date")}
    for row in result.rows:
        fields = {**of_result, "by": row["by"], "key": row["key"], "n": row.get("n")}
        for name, metric in row.items():
            if not isinstance(metric, dict):
                continue
            if "value" not in metric:  # shares by level
                metrics = {f"{name} {level}": {"value": share} for level, share in metric.items()}
            else:
                metrics = {name: metric}
            for one, numbers in metrics.items():
                if numbers["value"] is not None:
                    yield {**fields, "metric": one, **{key: numbers.get(key) for key in ("value", "low", "high")}}


def to_html(sections: list[Section], published: Published) -> str:
    """The leaderboard as one page that needs nothing else: styles, script and plots are inside."""
    kinds = dict(KIND_LABELS)
    for section in sections:
        kinds |= section.kinds
    asked = {kind for section in sections for kind in section.kinds}
    return render(
        "leaderboard.html",
        sections=sections,
        reference=published_tables(published),
        sources=sources(published),
        kinds={kind: label for kind, label in kinds.items() if kind in asked or kind in KIND_LABELS},
        origins=sorted({run.origin for section in sections for run in section.runs}),
    )
