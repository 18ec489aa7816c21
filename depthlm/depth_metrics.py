"""Metrics of whole depth maps, of their boundaries and of estimated cameras, and their means over images.

Sources: Metric Anything, appendix "Evaluation Metrics" (depth, boundary and camera metrics, equation 7), and for what
its boundary F1 leaves open the evaluation code that came with Depth Pro, by which the published numbers were made.
Maps are z along the principal axis, metres, (H, W); a pixel whose truth is not finite and positive is unknown and not
looked at. Nothing is clipped to a range of depths: where a benchmark does so, its range is the caller's ``mask``.

As in `depthlm.metrics`, a predicted pixel that is NaN, infinite, zero or negative is wrong in delta and left out of the
error metrics; ``n_valid`` says over how many these are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.metrics import DELTA, delta

DELTAS = ("delta1", "delta2", "delta3")
ERRORS = ("abs_rel", "rmse", "mae", "log10", "silog", "log_bias")
DEPTH_METRICS = (*DELTAS, *ERRORS)
# Depth ratios of neighbours from which on there is a contour (Depth Pro: t from 5 to 25 percent); each threshold's F1
# counts by the threshold itself, so that the strong edges count most.
CONTOUR_RATIOS = np.linspace(1.05, 1.25, 10)
# Two images of one scene show the same of it when their sides' ratios differ by no more than this share.
SAME_ASPECT = 0.01
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Over = Literal["images", "pixels"]


def same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two (width, height), px, have the same aspect within ``SAME_ASPECT``: one may be the other resized."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= SAME_ASPECT


def is_depth(values: ArrayLike) -> Bools:
    """True where a value is a depth: finite and positive."""
    values = np.asarray(values)
    return np.isfinite(values) & (values > 0)


def depth_metrics(pred: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> dict[str, Any]:
    """Metrics of one image over its known pixels.

    Args:
        pred: (H, W) predicted z, metres.
        truth: (H, W) measured z, metres; not finite or not positive where unknown.
        mask: (H, W) bool, the pixels that count; None: all known ones.

    Returns:
        ``delta1`` to ``delta3`` over the ``n`` known pixels; over the ``n_valid`` of them that were predicted
        ``abs_rel``, ``rmse`` and ``mae`` in metres, ``log10``, ``silog`` (100 times the standard deviation of
        ln(pred/truth), as in `depthlm.metrics`) and ``log_bias`` (the mean of ln(pred/truth), the scale that silog
        forgives). None where there is no pixel to go by.

    Raises:
        DepthLMError: the maps are not (H, W) of one size.
    """
    pred, truth, known = _checked(pred, truth, mask)
    pred, truth = pred[known], truth[known]
    valid = is_depth(pred)
    out: dict[str, Any] = dict.fromkeys(DEPTH_METRICS)
    if len(truth):
        out |= {name: float(delta(pred, truth, DELTA**i).mean()) for i, name in enumerate(DELTAS, 1)}
    if valid.any():
        out |= _errors(pred[valid], truth[valid])
    return {**out, "n": len(truth), "n_valid": int(valid.sum())}


def _errors(pred: Floats, truth: Floats) -> dict[str, float]:
    """``ERRORS`` of N > 0 positive pairs."""
    error, log = np.abs(pred - truth), np.log(pred / truth)
    return {
        "abs_rel": float((error / truth).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(error.mean()),
        "log10": float(np.abs(log).mean() / math.log(10)),
        "silog": float(100 * log.std()),
        "log_bias": float(log.mean()),
    }


def _checked(pred: ArrayLike, truth: ArrayLike, mask: ArrayLike | None) -> tuple[Floats, Floats, Bools]:
    """Both maps as float64, and which pixels are known."""
    pred, truth = np.asarray(pred, np.float64), np.asarray(truth, np.float64)
    if pred.ndim != 2 or pred.shape != truth.shape:
        raise DepthLMError(
            "depth metrics",
            f"the predicted map has shape {pred.shape}, the true one {truth.shape}",
            "both must be (H, W); bring the prediction to the truth's size first",
            "depth size differs",
        )
    known = is_depth(truth)
    if mask is None:
        return pred, truth, known
    mask = np.asarray(mask)
    if mask.shape != truth.shape or mask.dtype != bool:
        raise DepthLMError(
            "depth metrics", f"the mask is {mask.dtype} of shape {mask.shape}", f"give bool of shape {truth.shape}"
        )
    return pred, truth, known & mask


def boundary_f1(
    pred: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None, *, pooled: bool = False
) -> float | None:
    """How well the occluding contours of a predicted map lie on the true ones, 0 to 1; no scale of ``pred`` changes it.

    There is a contour from a pixel i to its neighbour j (right, left, below, above: a step belongs to the one direction
    in which depth grows) where z_j / z_i > 1 + t/100. Precision is the share of the predicted contours that are in the
    truth, in the same place and direction; recall the share of the true ones that were predicted; F1(t) is their
    harmonic mean. The result is the mean of F1(t) over the ten ``CONTOUR_RATIOS``, each weighted by its ratio.

    A pair of neighbours counts when both are known in the truth. A predicted pixel that is no depth makes no contour,
    so what lies there is missed.

    Departures from Depth Pro's code, which only maps with few contours can notice: a direction in which neither map has
    any contour is left out of the means over directions, and a threshold at which the truth has none out of the mean
    over thresholds, where that code counts a zero; so a perfect map always scores 1, and which images have a score
    depends on the truth alone.

    Args:
        pred, truth: (H, W) z, metres.
        mask: (H, W) bool, the pixels that count; None: all known ones.
        pooled: False: precision and recall are means over the four directions, as in Depth Pro's code and hence in the
            published tables; True: the sums over all pairs that equation 7's P and R are printed with.

    Returns:
        None where the truth has no contour.

    Raises:
        DepthLMError: the maps are not (H, W) of one size.
    """
    pred, truth, known = _checked(pred, truth, mask)
    levels = _contour_levels(truth, known)
    found = _contour_levels(pred, known & is_depth(pred))
    in_truth, in_pred = _at_least(levels), _at_least(found)
    in_both = _at_least([np.minimum(a, b) for a, b in zip(found, levels, strict=True)])
    defined = in_truth.sum(axis=0) > 0
    if not defined.any():
        return None
    if pooled:
        in_truth, in_pred, in_both = (counts.sum(axis=0, keepdims=True) for counts in (in_truth, in_pred, in_both))
    f1 = _f1(in_both, in_pred, in_truth)
    return float(np.average(f1[defined], weights=CONTOUR_RATIOS[defined]))


def _contour_levels(depth: Floats, known: Bools) -> list[NDArray[np.int64]]:
    """Per direction (right, left, below, above) and pair of neighbours, flat: how many of ``CONTOUR_RATIOS`` its depth
    ratio exceeds; 0 where one of the two is not known."""
    depth = np.where(known, depth, 1.0)
    pairs = [(np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])]
    levels = []
    for first, second in pairs:
        both = known[first] & known[second]
        for near, far in ((first, second), (second, first)):
            ratio = np.where(both, depth[far] / depth[near], 0.0).ravel()
            level = np.zeros(len(ratio), np.int64)
            edge = ratio > CONTOUR_RATIOS[0]  # most pairs are none
            level[edge] = np.searchsorted(CONTOUR_RATIOS, ratio[edge], side="left")
            levels.append(level)
    return levels


def _at_least(levels: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(4, T) how many pairs exceed each of the T ratios, per direction."""
    counts = [np.bincount(level, minlength=len(CONTOUR_RATIOS) + 1) for level in levels]
    return np.cumsum(np.stack(counts)[:, ::-1], axis=1)[:, ::-1][:, 1:]


def _f1(both: NDArray[np.int64], pred: NDArray[np.int64], truth: NDArray[np.int64]) -> Floats:
    """(T,) F1 from contours in both maps, in the prediction and in the truth, (directions, T) each."""
    directions = np.maximum((pred + truth > 0).sum(axis=0), 1)
    precision = (both / np.maximum(pred, 1)).sum(axis=0) / directions
    recall = (both / np.maximum(truth, 1)).sum(axis=0) / directions
    total = precision + recall
    return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)


def fov_error(pred: Camera, truth: Camera) -> float:
    """Absolute error of the horizontal field of view, degrees, of two cameras of one image, which may differ in size.

    The field of view is Metric Anything's, 2 arctan(w / 2f): of the pinhole without its distortion, as if its principal
    point were in the middle (``Camera.fov_deg`` goes by the point where it is).

    Raises:
        DepthLMError: their images differ in aspect by more than 1%: one is a cut of the other, or stretched.
    """
    sizes = (pred.width, pred.height), (truth.width, truth.height)
    if not same_aspect(*sizes):
        raise DepthLMError(
            "field of view",
            f"the estimated camera is for {pred.width}x{pred.height}, the true one for {truth.width}x{truth.height}",
            "estimate it from the whole image",
            "aspect differs",
        )
    return abs(_centred_fov_deg(pred) - _centred_fov_deg(truth))


def _centred_fov_deg(camera: Camera) -> float:
    return math.degrees(2 * math.atan(camera.width / (2 * camera.fx)))


def aggregate(
    rows: Sequence[Mapping[str, Any]], over: Over = "images", n_boot: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Metrics of many images with 95% intervals that resample images.

    Args:
        rows: one for each image: what `depth_metrics` gave, and where there is one a ``boundary_f1`` and a
            ``fov_error``; None or absent where it is undefined.
        over: "images": the mean over images of each image's own metric, as most depth papers report; "pixels": the
            metric of all images' pixels taken together, by which images with more known pixels count more (the code
            released with Metric Anything). Boundary F1 and the camera's error are means over images either way.
        n_boot: resamples; a fixed ``seed`` makes the intervals reproducible.

    Returns:
        For each metric ``{"value", "low", "high", "n_images"}``, ``n_images`` being those it is defined for (value,
        low and high are None when there is none), and ``fov_error_median`` beside ``fov_error``; ``over``; and the
        counts ``n``, ``n_valid`` and ``n_images``.

    Raises:
        DepthLMError: no image, or ``over`` is neither.
    """
    if not rows or over not in ("images", "pixels"):
        raise DepthLMError("aggregate", f"{len(rows)} images, over {over!r}", "give images, over 'images' or 'pixels'")
    draws = np.random.default_rng(seed).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=n_boot)
    weights = np.concatenate([np.ones((1, len(rows))), draws])  # the first is all images as they are
    out: dict[str, Any] = {"over": over}
    for name in dict.fromkeys(key for row in rows for key in row if key not in ("n", "n_valid")):
        column = _column(rows, name)
        pixels = over == "pixels" and name in DEPTH_METRICS
        found = _pooled(rows, name, weights) if pixels else _mean(column, weights)
        out[name] = _interval(found, column)
        if name == "fov_error":
            out["fov_error_median"] = _interval(_median(column, weights), column)
    counts = {name: int(sum(row.get(name) or 0 for row in rows)) for name in ("n", "n_valid")}
    return {**out, **counts, "n_images": len(rows)}


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Floats:
    """(N,) one metric of all images, NaN where it is undefined."""
    return np.array([math.nan if row.get(name) is None else row[name] for row in rows], np.float64)


def _mean(column: Floats, weights: Floats, pixels: Floats | None = None) -> Floats:
    """(B,) means over the defined images under ``weights`` (B, N), image i counting ``pixels[i]`` times as well."""
    known = np.isfinite(column)
    counts = np.where(known, 1.0 if pixels is None else pixels, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ (counts * np.where(known, column, 0.0))) / (weights @ counts)


def _pooled(rows: Sequence[Mapping[str, Any]], name: str, weights: Floats) -> Floats:
    """(B,) a metric of all pixels together, from each image's own: its sums are its means times its pixels."""
    column, pixels = _column(rows, name), _column(rows, "n" if name in DELTAS else "n_valid")
    if name == "rmse":
        return np.sqrt(_mean(column**2, weights, pixels))
    if name == "silog":  # the variance within images and that of their means
        bias = _column(rows, "log_bias")
        square = _mean((column / 100) ** 2 + bias**2, weights, pixels)
        return 100 * np.sqrt(np.maximum(square - _mean(bias, weights, pixels) ** 2, 0.0))
    return _mean(column, weights, pixels)


def _median(column: Floats, weights: Floats) -> Floats:
    """(B,) medians over the defined images, image i taken weights[b, i] times; NaN where none was taken."""
    known = np.isfinite(column)
    if not known.any():
        return np.full(len(weights), math.nan)
    order = np.argsort(column[known], kind="stable")
    values, upto = column[known][order], weights[:, known][:, order].cumsum(axis=1)
    total = upto[:, -1:]
    low, high = (values[(upto > rank).argmax(axis=1)] for rank in ((total - 1) // 2, total // 2))
    return np.where(total[:, 0] > 0, (low + high) / 2, math.nan)


def _interval(found: Floats, column: Floats) -> dict[str, Any]:
    """The value, which comes first, with the 95% interval of the resamples that follow."""
    known = found[1:][np.isfinite(found[1:])]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (math.nan, math.nan)
    numbers = {"value": found[0], "low": low, "high": high}
    out: dict[str, Any] = {key: float(value) if math.isfinite(value) else None for key, value in numbers.items()}
    return {**out, "n_images": int(np.isfinite(column).sum())}
