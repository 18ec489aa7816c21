"""answers.jsonl + suite -> parsed numbers -> metrics: result.jsonl and, per question, predictions.jsonl.

``result.jsonl`` opens with a header (model, suite and its hash, versions, date, times) and holds one row for all
questions, each kind, each dataset and each kind within each dataset::

    {"by": "kind", "key": "distance", "n": 120, "missing": 0, …, "delta1": {"value": 0.81, "low": 0.74, "high": 0.88}}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depthlm.answers import parse_answer
from depthlm.errors import DepthLMError
from depthlm.metrics import score
from depthlm.suite import Item, Suite
from eval import vsi_bench
from eval.answer_file import Answers
from eval.jsonl import write_lines

FORMAT_VERSION = 1
# Metrics with a unit: no sense where metres and seconds meet.
UNIT_METRICS = ("rmse",)


@dataclass(frozen=True)
class Prediction:
    """One answer, parsed.

    Args:
        truth, value: in ``unit``; ``value`` is None when nothing was answered or no number was found.
        text: the answer as given; None when there is none.
        reason: why ``value`` is None.
        group: the image; intervals resample these.
    """

    id: str
    kind: str
    dataset: str
    unit: str
    truth: float
    value: float | None
    text: str | None
    reason: str | None
    group: str


def predictions(suite: Suite, answers: Answers) -> list[Prediction]:
    """Parse the answer to every question of the suite, in its order.

    Raises:
        DepthLMError: the answers are to another suite.
    """
    check_same(suite, answers)
    return [_predict(item, answers) for item in suite.items]


def check_same(suite: Suite, answers: Answers) -> None:
    """Refuse answers to another suite.

    Raises:
        DepthLMError: they are.
    """
    if answers.header.get("suite_hash") != suite.hash:
        raise DepthLMError(
            suite.path,
            f"has hash {suite.hash}, the answers are to {answers.header.get('suite_hash')}",
            "score them against the suite they were asked from",
        )


def _predict(item: Item, answers: Answers) -> Prediction:
    text = answers.texts.get(item.id)
    value, reason = None, f"not answered: {answers.errors.get(item.id, 'not asked')}"
    if text is not None:
        parsed = parse_answer(text, item.unit)
        value, reason = parsed.value, parsed.reason
    group = item.frame_ids[0] if item.frame_ids else item.images[0]
    return Prediction(
        item.id, item.kind, item.dataset, item.unit, item.truth, value, text, reason, f"{item.dataset}/{group}"
    )


def score_rows(found: list[Prediction], n_boot: int = 1000) -> list[dict[str, Any]]:
    """Metrics of all predictions, of each kind, each dataset and each kind within each dataset."""
    rows = [_row("all", "all", found, n_boot)]
    rows += _rows("kind", found, lambda p: {"kind": p.kind}, n_boot)
    rows += _rows("dataset", found, lambda p: {"dataset": p.dataset}, n_boot)
    rows += _rows("kind,dataset", found, lambda p: {"kind": p.kind, "dataset": p.dataset}, n_boot)
    return rows


def _rows(
    by: str, found: list[Prediction], fields: Callable[[Prediction], dict[str, str]], n_boot: int
) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], list[Prediction]] = {}
    for prediction in found:
        groups.setdefault(tuple(fields(prediction).values()), []).append(prediction)
    return [_row(by, "/".join(key), part, n_boot, **fields(part[0])) for key, part in groups.items()]


def _row(by: str, key: str, part: list[Prediction], n_boot: int, **fields: str) -> dict[str, Any]:
    """One row; a missing answer is wrong like an unparsable one, but counted apart."""
    pred = np.array([math.nan if p.value is None else p.value for p in part], np.float64)
    truth = np.array([p.truth for p in part], np.float64)
    metrics = score(pred, truth, [p.group for p in part], n_boot=n_boot)
    units = sorted({p.unit for p in part})
    if len(units) > 1:
        metrics = {name: value for name, value in metrics.items() if name not in UNIT_METRICS}
    missing = sum(p.text is None for p in part)
    unreadable = sum(p.value is None and p.text is not None for p in part)
    return {"by": by, "key": key, **fields, "units": units, **metrics, "missing": missing, "unparsable": unreadable}


def result_header(suite: Suite, answers: Answers) -> dict[str, Any]:
    """First line of a result: whose it is, of what, made how, at which speed."""
    header = answers.header
    answered = sum(item.id in answers.texts for item in suite.items)
    return {
        "type": "result",
        "format": FORMAT_VERSION,
        "label": header.get("label") or header["model"],
        "model": header["model"],
        "baseline": bool(header.get("baseline")),
        "suite": suite.name,
        "suite_hash": suite.hash,
        "n": len(suite.items),
        "answered": answered,
        "missing": len(suite.items) - answered,
        "wall_s": round(answers.wall_s, 3),
        "questions_per_s": round(answered / answers.wall_s, 3) if answers.wall_s > 0 else None,
        "date": header.get("date"),
        "versions": header.get("versions", {}),
        "settings": header.get("settings", {}),
        "fingerprint": header.get("fingerprint"),
    }


def write_result(suite: Suite, answers: Answers, out: Path, n_boot: int = 1000) -> dict[str, Any]:
    """Score and write ``out/result.jsonl`` and ``out/predictions.jsonl``; returns the row of all questions.

    Raises:
        DepthLMError: the answers are to another suite, or ``out`` can't be written.
    """
    if suite.info.get("settings", {}).get("protocol") == vsi_bench.PROTOCOL:
        check_same(suite, answers)
        rows = vsi_bench.score_rows(suite.items, answers.texts)
        write_lines(out / "predictions.jsonl", vsi_bench.prediction_rows(suite.items, answers.texts))
    else:
        found = predictions(suite, answers)
        rows = score_rows(found, n_boot)
        write_lines(out / "predictions.jsonl", (asdict(p) for p in found))
    write_lines(out / "result.jsonl", [result_header(suite, answers), *rows])
    return rows[0]
