"""answers.jsonl + suite -> parsed numbers -> metrics: result.jsonl and, per question, predictions.jsonl.

``result.jsonl`` opens with a header (model, suite and its hash, versions, date, times) and holds one row for all
questions, each kind, each dataset, each kind within each dataset, and each range of depth, region of the image and
range of the field of view::

    {"by": "kind", "key": "distance", "n": 120, "missing": 0, …, "delta1": {"value": 0.81, "low": 0.74, "high": 0.88}}

Where the spread of the answers was asked for, the rows of all questions and of each kind say what it is worth: the
share of the truths that the central intervals of each level hold (what it promises, if the model knows how sure it is),
of how many answers, and the median width of the 90% interval over the truth::

    {"calibration": {"0.5": 0.46, "0.8": 0.79, "0.9": 0.88, "n": 120, "width": 0.62}}
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
from depthlm.spread import LEVELS, estimate
from depthlm.suite import VSI_BENCH, Item, Suite, group_of
from eval import vsi_bench
from eval.answer_file import Answers
from eval.breakdowns import BREAKDOWNS, places
from eval.jsonl import read_lines, write_lines
from eval.results import DENSE

FORMAT_VERSION = 1
# Metrics with a unit: no sense where metres and seconds meet.
UNIT_METRICS = ("rmse",)
WIDEST = str(LEVELS[-1])


@dataclass(frozen=True)
class Prediction:
    """One answer, parsed.

    Args:
        truth, value: in ``unit``; ``value`` is None when nothing was answered or no number was found.
        text: the answer as given; None when there is none.
        reason: why ``value`` is None.
        group: the image; intervals resample these.
        bounds: where the answer's spread was asked for, the ends of its central interval by level, "0.5", "0.8" and
            "0.9"; ``value`` is then the median.
        depth_range, region, fov: where the question belongs in the break-downs; None where that is not known.
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
    bounds: dict[str, list[float]] | None = None
    depth_range: str | None = None
    region: str | None = None
    fov: str | None = None
    latency_s: float | None = None


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
    value, reason, bounds = None, f"not answered: {answers.errors.get(item.id, 'not asked')}", None
    if text is not None:
        parsed = parse_answer(text, item.unit)
        value, reason = parsed.value, parsed.reason
    found = estimate(answers.spreads.get(item.id, ()), item.unit)
    if found is not None:
        value, reason = found.median, None
        bounds = {str(level): list(ends) for level, ends in found.bounds.items()}
    return Prediction(
        item.id,
        item.kind,
        item.dataset,
        item.unit,
        item.truth,
        value,
        text,
        reason,
        group_of(item),
        bounds,
        *places(item),
        answers.latencies.get(item.id),
    )


def score_rows(found: list[Prediction], n_boot: int = 1000) -> list[dict[str, Any]]:
    """Metrics of all predictions and of each group that the module names."""
    rows = [_row("all", "all", found, n_boot)]
    rows += _rows("kind", found, lambda p: {"kind": p.kind}, n_boot)
    rows += _rows("dataset", found, lambda p: {"dataset": p.dataset}, n_boot)
    rows += _rows("kind,dataset", found, lambda p: {"kind": p.kind, "dataset": p.dataset}, n_boot)
    for name, names in BREAKDOWNS.items():
        known = [p for p in found if getattr(p, name) is not None]
        known.sort(key=lambda p, name=name, names=names: names.index(getattr(p, name)))
        rows += _rows(name, known, lambda p, name=name: {name: getattr(p, name)}, n_boot)
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
    row = {"by": by, "key": key, **fields, "units": units, **metrics, "missing": missing, "unparsable": unreadable}
    return row | (_calibration(part) if by in ("all", "kind") else {})


def _calibration(part: list[Prediction]) -> dict[str, Any]:
    """How often intervals hold the truth, and how wide they are; nothing where there are none."""
    known = [(p.truth, p.bounds) for p in part if p.bounds]
    if not known:
        return {}
    found: dict[str, float] = {}
    for level in map(str, LEVELS):
        found[level] = float(np.mean([bounds[level][0] <= truth <= bounds[level][1] for truth, bounds in known]))
    widths = [(bounds[WIDEST][1] - bounds[WIDEST][0]) / truth for truth, bounds in known]
    return {"calibration": {**found, "n": len(known), "width": float(np.median(widths))}}


def result_header(suite: Suite, answers: Answers) -> dict[str, Any]:
    """First line of a result: whose it is, of what, made how, at which speed."""
    header = answers.header
    answered = sum(item.id in answers.texts for item in suite.items)
    return {
        "type": "result",
        "format": FORMAT_VERSION,
        "label": header.get("label") or header["model"],
        "model": header["model"],
        "suite": suite.name,
        "suite_hash": suite.hash,
        "n": len(suite.items),
        "answered": answered,
        "missing": len(suite.items) - answered,
        "wall_s": round(answers.wall_s, 3),
        "questions_per_s": round(answered / answers.wall_s, 3) if answers.wall_s > 0 else None,
        "date": header.get("date"),
        "profile": header.get("profile"),
        "per_conversation": header.get("per_conversation", 1),
        "engine": header.get("engine"),
        "notes": header.get("notes", []),
        "origin": header.get("origin", "model"),
        "form": suite.settings.get("form"),
        "footnotes": suite.settings.get("footnotes", {}),
        "versions": header.get("versions", {}),
        "settings": header.get("settings", {}),
        "fingerprint": header.get("fingerprint"),
    }


def write_result(suite: Suite, answers: Answers, out: Path, n_boot: int = 1000) -> dict[str, Any]:
    """Score and write ``out/result.jsonl`` and ``out/predictions.jsonl``; returns the row of all questions.

    Rows of whole depth maps, which are made of other files, stay where the same suite's and model's result has them.

    Raises:
        DepthLMError: the answers are to another suite, or ``out`` can't be written.
    """
    if suite.settings.get("protocol") == VSI_BENCH:
        check_same(suite, answers)
        rows = vsi_bench.score_rows(suite.items, answers.texts)
        write_lines(out / "predictions.jsonl", vsi_bench.prediction_rows(suite.items, answers.texts))
    else:
        found = predictions(suite, answers)
        rows = score_rows(found, n_boot)
        write_lines(out / "predictions.jsonl", (asdict(p) for p in found))
    header = result_header(suite, answers)
    write_lines(out / "result.jsonl", [header, *rows, *_kept_rows(out / "result.jsonl", header)])
    return rows[0]


def _kept_rows(path: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of whole depth maps that a result already has."""
    try:
        before, *rows = read_lines(path)
    except DepthLMError:  # none yet, or a damaged one: it is written anew
        return []
    same = all(before.get(name) == header[name] for name in ("suite_hash", "model"))
    return [row for row in rows if str(row.get("by", "")).startswith(DENSE)] if same else []
