"""Results -> leaderboard.md, leaderboard.csv and leaderboard.html, beside the published tables.

    python eval/leaderboard.py results/*/result.jsonl --out runs/leaderboard

Results of one suite (name and content hash) make one section; numbers of different suites never share a column with
each other. Published rows come from ``published.csv``, marked with their source: they were measured on other images.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from depthlm.errors import DepthLMError
from eval.tables import Result, Row, Section, Table, build_sections, published_tables, read_published, read_result


def to_markdown(sections: list[Section], reference: list[Table]) -> str:
    """The leaderboard as Markdown."""
    lines = ["# Metric depth leaderboard", ""]
    for section in sections:
        lines += [f"## {_md(section.name)} · {section.count} questions · `{_md(section.hash)}`", ""]
        for table in section.tables:
            lines += [f"### {table.title}", "", table.note, "", *_md_table(table), ""]
    lines += ["## As published", ""]
    for table in reference:
        lines += [f"### {table.title}", "", *_md_table(table), ""]
    sources = sorted({row.source for table in reference for row in table.rows})
    lines += ["† published numbers, measured on other images: " + "; ".join(sources) + ".", ""]
    return "\n".join(lines)


def _md(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("`", "'").replace("<", "&lt;").split())


def _md_table(table: Table) -> list[str]:
    lines = ["| Model | " + " | ".join(map(_md, table.columns)) + " |", "|---|" + "--:|" * len(table.columns)]
    for row in table.rows:
        cells = []
        for column in table.columns:
            cell = row.cells.get(column)
            text = "–" if cell is None else cell.shown
            if cell and table.best.get(column) == cell.value and row.origin == "model":
                text = f"**{text}**"
            cells.append(text + (f" ({cell.interval})" if cell and cell.interval else ""))
        mark = {"published": " †", "baseline": " (baseline)"}.get(row.origin, "")
        lines.append(f"| {_md(row.model)}{mark} | " + " | ".join(cells) + " |")
    return lines


def to_csv(results: list[Result], published: dict[str, list[Row]]) -> str:
    """Every number in long form, one a line: measured ones with interval and suite, published ones with source."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("origin", "suite", "suite_hash", "model", "by", "key", "metric", "value", "low", "high", "n", "source")
    writer.writerow(head)
    for result in results:
        header = result.header
        for row in result.rows:
            for name, metric in row.items():
                if isinstance(metric, dict) and metric.get("value") is not None:
                    where = [result.origin, header["suite"], header["suite_hash"], header["label"]]
                    numbers = [metric["value"], metric.get("low"), metric.get("high"), row["n"]]
                    writer.writerow([*where, row["by"], row["key"], name, *numbers, ""])
    for name, rows in published.items():
        for line in rows:
            for column, cell in line.cells.items():
                fields = [
                    "published",
                    name,
                    "",
                    line.model,
                    name,
                    column,
                    "delta1",
                    cell.shown,
                    "",
                    "",
                    "",
                    line.source,
                ]
                writer.writerow(fields)
    return out.getvalue()


def to_html(sections: list[Section], reference: list[Table]) -> str:
    """The leaderboard as one page that needs nothing else: styles, script and plots are inside."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    sources = sorted({row.source for table in reference for row in table.rows})
    template = environment.get_template("leaderboard.html")
    return template.render(sections=sections, reference=reference, sources=sources)


def write_leaderboard(paths: Sequence[Path], out: Path) -> list[Path]:
    """Read results and write the three forms into ``out``; returns their paths.

    Raises:
        DepthLMError: no result given, one that can't be read, or ``out`` can't be written.
    """
    unique = list(dict.fromkeys(path.resolve() for path in paths))
    if not unique:
        raise DepthLMError("results", "none given", "name result.jsonl files as `depthlm eval run` writes them")
    results = [read_result(path) for path in unique]
    published = read_published()
    sections, reference = build_sections(results, published), published_tables(published)
    files = {
        "leaderboard.md": to_markdown(sections, reference),
        "leaderboard.csv": to_csv(results, published),
        "leaderboard.html": to_html(sections, reference),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            temporary = out / f"{name}.tmp"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(out / name)
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error.strerror}", "check --out and its permissions") from error
    return [out / name for name in files]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="result.jsonl files")
    parser.add_argument("--out", type=Path, default=Path("leaderboard"), help="folder to write (default: leaderboard)")
    args = parser.parse_args(argv)
    try:
        for path in write_leaderboard(args.results, args.out):
            print(path)
    except DepthLMError as error:
        print(f"leaderboard: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
