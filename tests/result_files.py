"""result.jsonl files as `depthlm eval run` writes them, with numbers a test can foresee."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.vsi_bench import TASKS


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05)}


def write(path: Path, label: str, suite: str, digest: str, rows: list[dict[str, Any]], fields: dict[str, Any]) -> Path:
    header = {"type": "result", "label": label, "model": label, "baseline": False, "suite": suite}
    header |= {"suite_hash": digest, "n": 80, "wall_s": 12.5, "questions_per_s": 6.4, "date": "2026-01-02T03:04:05"}
    header |= {"versions": {"python": "3.11", "vllm": "0.31.0"}, **fields}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in [header, *rows]), encoding="utf-8")
    return path


def result(
    path: Path,
    label: str,
    delta1: float,
    suite: str = "rooms",
    digest: str = "abc",
    more: list[dict[str, Any]] | None = None,
    **fields: Any,
) -> Path:
    """A result of two kinds on two datasets; ``fields`` are the header's, ``more`` are more rows."""
    rows = [
        result_row("all", "all", delta1),
        result_row("kind", "distance", delta1 + 0.02, kind="distance"),
        result_row("kind", "travel_time", delta1 - 0.02, kind="travel_time"),
        result_row("kind,dataset", "distance/nyu_v2", delta1 + 0.03, kind="distance", dataset="nyu_v2"),
        result_row("kind,dataset", "distance/cellar", delta1 + 0.01, kind="distance", dataset="cellar"),
        result_row("kind,dataset", "travel_time/cellar", 0.999, kind="travel_time", dataset="cellar"),
    ]
    return write(path, label, suite, digest, [*rows, *(more or [])], fields)


def result_row(by: str, key: str, value: float, **fields: Any) -> dict[str, Any]:
    counts = {"n": 40, "n_images": 20, "unparsable": 1, "missing": 0}
    return {"by": by, "key": key, **counts, **fields, "delta1": interval(value), "abs_rel": interval(1 - value)}


def vsi_result(path: Path, label: str, score: float, suite: str = "vsi", digest: str = "fff", **fields: Any) -> Path:
    """A result of VSI-Bench; its tasks score a little above one another, and the last one is missing."""
    rows = [{"by": "all", "key": "all", "n": 80, "score": interval(score), "missing": 0, "unparsable": 0}]
    for i, task in enumerate(list(TASKS)[:-1]):
        rows.append({"by": "task", "key": task, "n": 10, "score": interval(score + i / 100), "missing": 0})
    return write(path, label, suite, digest, rows, fields)
