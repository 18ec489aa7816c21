"""Two models on one suite: δ1 of each, their difference with its 95% interval and p-value, in total and by group.

The statistics are `depthlm.metrics.paired_delta1`'s: questions are paired, images resampled. Beside the total there may
be thirty groups, of which one or two look significant by chance alone; so each group has, beside its own p-value, one
that is corrected for how many groups there are (Holm's, for it holds whatever the groups have in common, and they
overlap: each question is in up to five). The total is one test, planned by whoever calls this: it is not corrected.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthlm.errors import DepthLMError
from depthlm.metrics import holm, paired_delta1
from eval.breakdowns import BREAKDOWNS
from eval.markdown import aligned, escaped
from eval.result_tables import CALIBRATION_NOTE, calibration_cells
from eval.scored_run import ScoredRun, read_run
from eval.tables import KIND_LABELS, columns_of
from eval.text_file import write_text

RESAMPLES = 10_000
TITLES = {
    "kind": "By question kind",
    "dataset": "By dataset",
    "depth_range": "By depth range",
    "region": "By image region",
    "fov": "By field of view",
}
HEADS = (
    *("Questions", "Images", "δ1 A", "δ1 B", "A − B", "95% interval", "p", "p (Holm)"),
    *("Both", "Only A", "Only B", "Neither", "Δ AbsRel"),
)
NOTE = """\
A − B is the difference of δ1, the share of answers within a factor of 1.25 of the truth; positive: A is better. Images
are resampled {n_boot} times, with all their questions and both models' answers. p is two-sided; p (Holm) is corrected
for the {count} groups below; of few images, go by p rather than by the interval. Both, Only A, Only B, Neither:
questions by who was right. Δ AbsRel: median change of the absolute relative error, A's minus B's, where both gave a
valid answer; negative: A is nearer.
"""


def compare(first: Path, second: Path, n_boot: int = RESAMPLES) -> dict[str, Any]:
    """Compare two runs, named by their folders or their result.jsonl.

    Returns:
        ``suite``, ``suite_hash``, ``n_boot``; ``a`` and ``b`` with their ``label``, ``model``, ``profile`` and
        ``calibration`` (by kind, and "all"; empty where answers have no intervals); ``rows``: all questions first, then
        each group, ``by``, ``key``, what `paired_delta1` returns, and of groups ``p_holm``. A group of all questions is
        left out: it is the total.

    Raises:
        DepthLMError: a run can't be read, or they answer other suites.
    """
    a, b = read_run(first), read_run(second)
    _check_same(a, b)
    rows = list(a.predictions.values())
    total = {"by": "all", "key": "all", **_paired(a, b, rows, n_boot)}
    groups = [
        {"by": by, "key": key, **_paired(a, b, part, n_boot)}
        for by in TITLES
        for key, part in _groups(rows, by)
        if len(part) < len(rows)
    ]
    for group, p in zip(groups, holm([group["p"] for group in groups]), strict=True):
        group["p_holm"] = p
    header = a.result.header
    named = {"suite": header["suite"], "suite_hash": header["suite_hash"], "n_boot": n_boot}
    return {**named, "a": _described(a), "b": _described(b), "rows": [total, *groups]}


def _check_same(a: ScoredRun, b: ScoredRun) -> None:
    one, other = (f"{run.result.header['suite']} ({run.result.header['suite_hash']})" for run in (a, b))
    if a.result.header["suite_hash"] != b.result.header["suite_hash"]:
        mend = "compare runs of one suite, asked in whole or with the same --limit"
        raise DepthLMError(b.path, f"answers the suite {other}, {a.path} the suite {one}", mend)
    truths = [{name: row["truth"] for name, row in run.predictions.items()} for run in (a, b)]
    if truths[0] != truths[1]:
        mend = "make both again with `depthlm eval score`"
        raise DepthLMError(b.path, f"and {a.path} have other questions or truths, though both answer {one}", mend)


def _groups(rows: Sequence[dict[str, Any]], by: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of each group, ranges in their order; those whose group is not known are in none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get(by) is not None:
            found.setdefault(row[by], []).append(row)
    order = BREAKDOWNS.get(by, tuple(found))
    return sorted(found.items(), key=lambda entry: order.index(entry[0]))


def _paired(a: ScoredRun, b: ScoredRun, rows: Sequence[dict[str, Any]], n_boot: int) -> dict[str, Any]:
    ids = [row["id"] for row in rows]
    truth = np.array([row["truth"] for row in rows], np.float64)
    return paired_delta1(a.values(ids), b.values(ids), truth, [row["group"] for row in rows], n_boot)


def _described(run: ScoredRun) -> dict[str, Any]:
    rows = run.result.rows
    calibration = {row["key"]: row["calibration"] for row in rows if "calibration" in row}
    header = run.result.header
    fields = {name: header.get(name) for name in ("label", "model", "profile")}
    return {**fields, "calibration": calibration}


def to_markdown(report: dict[str, Any]) -> str:
    """What `compare` returns as Markdown that reads well in a terminal too."""
    a, b, rows = report["a"], report["b"], report["rows"]
    lines = [f"# A: {escaped(str(a['label']))} · B: {escaped(str(b['label']))}", ""]
    lines += [f"Suite {escaped(str(report['suite']))}, `{report['suite_hash']}`.", ""]
    lines += [*_table(rows[:1]), "", NOTE.format(n_boot=report["n_boot"], count=len(rows) - 1).rstrip()]
    for by, title in TITLES.items():
        if found := [row for row in rows if row["by"] == by]:
            lines += ["", f"## {title}", "", *_table(found)]
    if a["calibration"] or b["calibration"]:
        lines += ["", "## Calibration", "", *_calibration(a, b), "", textwrap.fill(CALIBRATION_NOTE, 120)]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    heads = [head for head in HEADS if head != "p (Holm)" or "p_holm" in rows[0]]
    return aligned(["", *heads], [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    difference, change = row["difference"], row["abs_rel_change"]
    return [
        escaped(_name(row["by"], row["key"])),
        str(row["n"]),
        str(row["n_images"]),
        f"{row['a']:.3f}",
        f"{row['b']:.3f}",
        f"{difference['value']:+.3f}",
        f"{difference['low']:+.3f} to {difference['high']:+.3f}",
        *[_p(row[name]) for name in ("p", "p_holm") if name in row],
        *[str(row[name]) for name in ("both", "only_a", "only_b", "neither")],
        "–" if change is None else f"{change:+.3f}",
    ]


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _name(by: str, key: str) -> str:
    return {"all": "All questions", "kind": KIND_LABELS.get(key, key)}.get(by, key)


def _calibration(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    rows = []
    for key in dict.fromkeys([*a["calibration"], *b["calibration"]]):
        for letter, run in (("A", a), ("B", b)):
            if key in run["calibration"]:
                name = _name("all" if key == "all" else "kind", key)
                rows.append((f"{escaped(name)}, {letter}", calibration_cells(run["calibration"][key])))
    heads = columns_of(*[cells for _, cells in rows])
    return aligned(["", *heads], [[name, *[cells[head].shown for head in heads]] for name, cells in rows])


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write a comparison, as JSON or Markdown by the file's ending.

    Raises:
        DepthLMError: another ending, or it can't be written.
    """
    if out.suffix not in (".md", ".json"):
        raise DepthLMError("--out", f"{out} ends in neither .md nor .json", "name a file that does")
    text = to_markdown(report) if out.suffix == ".md" else json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    write_text(out, text)
