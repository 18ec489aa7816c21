"""Depth metrics of answers, with 95% intervals that resample images, not points.

Definitions as in Eigen et al. (2014): delta_i is the share of answers whose ratio to the truth, the larger over the
smaller, is below 1.25^i. An answer that could not be parsed, or is zero, negative or infinite, is wrong in delta; the
error metrics are over the valid answers, and ``n_valid`` says how many these are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depthlm.errors import DepthLMError

DELTA = 1.25
METRICS = ("delta1", "delta2", "delta3", "abs_rel", "rmse", "log10", "silog")
Floats = NDArray[np.float64]


def delta(pred: ArrayLike, truth: ArrayLike, threshold: float = DELTA) -> NDArray[np.bool_]:
    """(N,) True where max(pred/truth, truth/pred) < threshold; False for NaN, infinite, zero and negative answers."""
    pred, truth = np.asarray(pred, np.float64), np.asarray(truth, np.float64)
    valid = np.isfinite(pred) & (pred > 0)
    safe = np.where(valid, pred, 1.0)
    return valid & (np.maximum(safe / truth, truth / safe) < threshold)


def score(
    pred: ArrayLike, truth: ArrayLike, groups: Sequence[str], n_boot: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """All metrics of N answers.

    Args:
        pred: (N,) answers, NaN where none could be parsed.
        truth: (N,) exact answers, same unit.
        groups: (N,) the image each answer is about; intervals resample these.
        n_boot: resamples; a fixed ``seed`` makes the intervals reproducible.

    Returns:
        For each of `METRICS` ``{"value", "low", "high"}`` (None where undefined; silog in units of 100 log), and the
        counts ``n``, ``n_valid``, ``n_images``, ``unparsable`` (the share that is NaN).

    Raises:
        DepthLMError: no answer, unequal lengths, or a truth that is not finite and positive.
    """
    pred, truth = np.asarray(pred, np.float64), np.asarray(truth, np.float64)
    if not (len(pred) == len(truth) == len(groups)) or len(pred) == 0:
        raise DepthLMError("score", f"{len(pred)} answers, {len(truth)} truths, {len(groups)} groups", "one of each")
    if not (np.isfinite(truth).all() and (truth > 0).all()):
        raise DepthLMError("score", "a truth is not finite and positive", "freeze the suite again")
    images, group = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sums = np.stack([np.bincount(group, column, len(images)) for column in _per_answer(pred, truth).T])
    point = _from_sums(sums.sum(axis=1, keepdims=True))[:, 0]
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=n_boot)
    resampled = _from_sums(sums @ draws.T)
    out: dict[str, Any] = {}
    for name, value, values in zip(METRICS, point, resampled, strict=True):
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (math.nan, math.nan)
        out[name] = {"value": _number(value), "low": _number(low), "high": _number(high)}
    valid = np.isfinite(pred) & (pred > 0)
    counts = {"n": len(pred), "n_valid": int(valid.sum()), "n_images": len(images)}
    return {**out, **counts, "unparsable": float(np.isnan(pred).mean())}


def _per_answer(pred: Floats, truth: Floats) -> Floats:
    """(N, 10) terms whose sums give every metric: so a resample is a weighted sum per image."""
    valid = np.isfinite(pred) & (pred > 0)
    safe = np.where(valid, pred, truth)
    log = np.log(safe / truth)
    columns = [
        np.ones(len(pred)),
        valid,
        delta(pred, truth),
        delta(pred, truth, DELTA**2),
        delta(pred, truth, DELTA**3),
        valid * np.abs(safe - truth) / truth,
        valid * (safe - truth) ** 2,
        valid * np.abs(log) / math.log(10),
        valid * log,
        valid * log**2,
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _from_sums(sums: Floats) -> Floats:
    """(10, B) sums -> (7, B) metrics; NaN where there is no (valid) answer."""
    n, valid, d1, d2, d3, rel, square, log10, log, log_square = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.maximum(log_square / valid - (log / valid) ** 2, 0.0)
        return np.stack(
            [d1 / n, d2 / n, d3 / n, rel / valid, np.sqrt(square / valid), log10 / valid, 100 * np.sqrt(variance)]
        )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def constant_delta1(truth: ArrayLike, constant: float) -> float:
    """delta1 of answering ``constant`` to everything."""
    truth = np.asarray(truth, np.float64)
    return float(delta(np.full(len(truth), constant), truth).mean())


def best_constant(truth: ArrayLike) -> tuple[float, float]:
    """The constant with the highest delta1, and that delta1: a window of width log 1.25² slid over log truth."""
    logs = np.sort(np.log(np.asarray(truth, np.float64)))
    width = 2 * math.log(DELTA)
    # the open window that begins just below logs[i] holds logs[i] … logs[end - 1]
    end = np.searchsorted(logs, logs + width * (1 - 1e-12), side="left")
    i = int(np.argmax(end - np.arange(len(logs))))
    constant = math.exp((logs[i] + logs[end[i] - 1]) / 2)
    return constant, constant_delta1(truth, constant)
