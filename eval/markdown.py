"""Text and tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words of which renderers make links by themselves: addresses with a scheme, mail, and whatever looks like a domain.
LINKED = re.compile(r"://|@|www\.|mailto:|xmpp:|\w\.[^\W\d_]{2}", re.IGNORECASE)


def escaped(text: str) -> str:
    """Any text as one line that breaks no table, and in which nothing is a tag, a link or an image.

    A word of which a renderer might make a link is shown as code: some look for addresses after signs are unescaped.
    """
    return " ".join(_word(word) for word in text.replace("`", "'").split())


def _word(word: str) -> str:
    if LINKED.search(word):
        return "`" + word.replace("|", "\\|") + "`"  # within a table this is a bar, in code too
    for sign in "\\|[]!":
        word = word.replace(sign, f"\\{sign}")
    return word.replace("<", "&lt;")


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
