"""Depth metrics of answers, with 95% intervals that resample images, not points; a paired test of two models.

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
# How many numbers of resamples are held at once: 40 MB.
DRAWN_AT_ONCE = 5_000_000


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
    _check("score", [pred], truth, groups)
    images, group = _images(groups)
    sums = np.stack([np.bincount(group, column, len(images)) for column in _per_answer(pred, truth).T])
    point = _from_sums(sums.sum(axis=1, keepdims=True))[:, 0]
    rng = np.random.default_rng(seed)
    shares, step = np.full(len(images), 1 / len(images)), max(1, DRAWN_AT_ONCE // len(images))
    drawn = [
        sums @ rng.multinomial(len(images), shares, size=min(step, n_boot - done)).T for done in range(0, n_boot, step)
    ]
    resampled = _from_sums(np.concatenate(drawn, axis=1))
    out: dict[str, Any] = {}
    for name, value, values in zip(METRICS, point, resampled, strict=True):
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (math.nan, math.nan)
        out[name] = {"value": _number(value), "low": _number(low), "high": _number(high)}
    valid = np.isfinite(pred) & (pred > 0)
    counts = {"n": len(pred), "n_valid": int(valid.sum()), "n_images": len(images)}
    return {**out, **counts, "unparsable": float(np.isnan(pred).mean())}


def _check(where: str, answers: Sequence[Floats], truth: Floats, groups: Sequence[str]) -> None:
    for pred in answers:
        if not (len(pred) == len(truth) == len(groups)) or len(pred) == 0:
            raise DepthLMError(where, f"{len(pred)} answers, {len(truth)} truths, {len(groups)} groups", "one of each")
    if not (np.isfinite(truth).all() and (truth > 0).all()):
        raise DepthLMError(where, "a truth is not finite and positive", "freeze the suite again")


def _images(groups: Sequence[str]) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """The images' names, and of each answer the index of its image."""
    return np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)


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


def paired_delta1(
    a: ArrayLike, b: ArrayLike, truth: ArrayLike, groups: Sequence[str], n_boot: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """delta1 of two models on the same N questions: who is better, by how much, and whether chance would do it too.

    The interval of the difference is the paired bootstrap's: images are resampled, each with all its questions and both
    models' answers to them. The p-value is two-sided and by the bootstrap of the null hypothesis that the models might
    as well have changed places: images are resampled likewise, and in each draw of an image the two are swapped with
    probability 1/2. It is (1 + count) / (1 + n_boot) over the resamples whose difference is as large as the one found,
    or larger, in either direction. So it is never 0, and 1 where the models are right about the same questions.

    Of few images (about 20 or fewer) the interval is too narrow, as every percentile interval is, and may leave out 0
    while p is above 0.05: go by p, which keeps to its level there.

    Args:
        a, b: (N,) answers of the models, NaN where none could be parsed.
        truth: (N,) exact answers, same unit.
        groups: (N,) the image each question is about.
        n_boot: resamples; a fixed ``seed`` makes the outcome reproducible. The order of the questions has no influence.

    Returns:
        ``a``, ``b``: delta1 of each; ``difference``: a - b as ``{"value", "low", "high"}``; ``p``; how many questions
        ``both``, ``only_a``, ``only_b`` and ``neither`` got right; ``abs_rel_change``: median of A's absolute relative
        error minus B's over the ``n_valid`` questions where both gave a valid answer, negative where A is nearer, None
        without such; ``n``, ``n_images``.

    Raises:
        DepthLMError: no answer, unequal lengths, or a truth that is not finite and positive.
    """
    a, b, truth = (np.asarray(values, np.float64) for values in (a, b, truth))
    _check("paired_delta1", [a, b], truth, groups)
    right_a, right_b = delta(a, truth), delta(b, truth)
    images, group = _images(groups)
    per_image = np.stack([np.bincount(group, right_a.astype(np.float64) - right_b), np.bincount(group)], axis=1)
    value, low, high, p = _paired(per_image, n_boot, seed)
    valid = np.isfinite(a) & (a > 0) & np.isfinite(b) & (b > 0)
    change = (np.abs(a - truth) - np.abs(b - truth))[valid] / truth[valid]
    return {
        "n": len(truth),
        "n_images": len(images),
        "a": float(right_a.mean()),
        "b": float(right_b.mean()),
        "difference": {"value": value, "low": low, "high": high},
        "p": p,
        "both": int((right_a & right_b).sum()),
        "only_a": int((right_a & ~right_b).sum()),
        "only_b": int((~right_a & right_b).sum()),
        "neither": int((~right_a & ~right_b).sum()),
        "n_valid": int(valid.sum()),
        "abs_rel_change": float(np.median(change)) if valid.any() else None,
    }


def _paired(per_image: Floats, n_boot: int, seed: int) -> tuple[float, float, float, float]:
    """(G, 2) sums of each image, what A has right more than B and its questions -> difference, interval, p-value."""
    rng = np.random.default_rng(seed)
    total = len(per_image)
    # Images with the same sums are drawn together: a handful of sorts instead of thousands of images.
    sorts, counts = np.unique(per_image, axis=0, return_counts=True)

    def differences(sorts: Floats, shares: Floats) -> Floats:
        more, questions = sorts.T @ rng.multinomial(total, shares, size=n_boot).T
        return more / questions

    more, questions = per_image.sum(axis=0)
    value = more / questions
    low, high = np.percentile(differences(sorts, counts / total), (2.5, 97.5))
    mirrored = np.concatenate([sorts, sorts * (-1, 1)])
    null = differences(mirrored, np.concatenate([counts, counts]) / (2 * total))
    p = (1 + int((np.abs(null) >= abs(value)).sum())) / (1 + n_boot)
    return float(value), float(low), float(high), p


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many they are (Holm, 1979), in their order: with those below 0.05 called real, the
    chance that any of them is not stays below 5%, however the tests depend on one another."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected.tolist()


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
