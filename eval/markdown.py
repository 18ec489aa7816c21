"""Text and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def escaped(text: str) -> str:
    """Any text as one line that breaks no table, and in which nothing is a tag, a link or an image."""
    for sign in "\\|[]!":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("`", "'").replace("<", "&lt;").split())


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table that reads well as plain text too: the first column to the left, the others to the right."""
    widths = [max(3, *(len(row[i]) for row in [heads, *rows])) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
    return [line(heads), line(rule), *map(line, rows)]
