"""One exception type for bad input, and the tally of what was skipped."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

# How many examples of each reason a report keeps: enough to look into, small enough to print.
EXAMPLES_PER_REASON = 5
# What may be a file's path or an address: whatever has a slash, to the end of a quotation that it stands in.
_ENDS = r"\s'\"()\[\]<>,;"
_PATH = re.compile(
    rf"""(?<!\w)(['"])[^'"]*[/\\][^'"]*\1|(?<![^{_ENDS}])(?!m/s\b)[^{_ENDS}]*[/\\][^{_ENDS}]*(?<![.:])"""
)


class DepthLMError(Exception):
    """Bad input, said once and clearly.

    Args:
        where: the file, row or argument at fault.
        reason: what is wrong with it, with the value that was found.
        mend: what the user can do about it.
        kind: a short stable label by which skipped frames are counted, e.g. ``"bad intrinsics"``.
    """

    def __init__(self, where: str | Path, reason: str, mend: str = "", kind: str = "bad input") -> None:
        self.where, self.reason, self.mend, self.kind = str(where), reason, mend, kind
        super().__init__(where, reason, mend, kind)

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f" ({self.mend})" if self.mend else "")


def public_message(error: DepthLMError) -> str:
    """An error as strangers may read it: without the paths and addresses of this machine."""
    where = "" if "/" in error.where or "\\" in error.where else f"{error.where}: "
    return where + _PATH.sub("…", error.reason + (f"; {error.mend}" if error.mend else ""))


class SkipReport:
    """Counts of skipped frames or points by reason, with a few examples of each; nothing is skipped silently."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, error: DepthLMError) -> None:
        """Count one skipped item under ``error.kind``."""
        self.count(error.kind, str(error))

    def count(self, kind: str, example: str, n: int = 1) -> None:
        """Count ``n`` skipped items under ``kind``."""
        self.counts[kind] += n
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(example)

    def merge(self, other: dict[str, Any]) -> None:
        """Add another report's ``to_dict()``."""
        for kind, entry in other.items():
            self.counts[kind] += entry["count"]
            examples = self.examples.setdefault(kind, [])
            examples += entry["examples"][: EXAMPLES_PER_REASON - len(examples)]

    @property
    def total(self) -> int:
        """Number of skipped items."""
        return self.counts.total()

    def to_dict(self) -> dict[str, Any]:
        """``{kind: {"count": n, "examples": [...]}}``, JSON-ready, most frequent first."""
        return {kind: {"count": n, "examples": self.examples[kind]} for kind, n in self.counts.most_common()}

    def __str__(self) -> str:
        if not self.counts:
            return "nothing skipped"
        lines = [f"{self.total} skipped:"]
        for kind, n in self.counts.most_common():
            lines.append(f"  {n} × {kind}, e.g. {self.examples[kind][0]}")
        return "\n".join(lines)
