"""Metrics by hand, intervals over images, and what counts as wrong."""

import math

import numpy as np
import pytest

from depthlm.errors import DepthLMError
from depthlm.metrics import METRICS, best_constant, constant_delta1, delta, score


def test_by_hand():
    out = score([1.0, 2.0, 4.0, math.nan], [1.0, 1.0, 5.0, 1.0], ["a", "b", "c", "d"])
    logs = np.log([1.0, 2.0, 0.8])
    assert out["delta1"]["value"] == pytest.approx(1 / 4)  # 4/5 is exactly 1.25: not below it
    assert out["delta2"]["value"] == pytest.approx(2 / 4)
    assert out["delta3"]["value"] == pytest.approx(2 / 4)
    assert out["abs_rel"]["value"] == pytest.approx((0 + 1 + 0.2) / 3)
    assert out["rmse"]["value"] == pytest.approx(math.sqrt(2 / 3))
    assert out["log10"]["value"] == pytest.approx(np.abs(logs).mean() / math.log(10))
    assert out["silog"]["value"] == pytest.approx(100 * logs.std())
    assert (out["n"], out["n_valid"], out["n_images"], out["unparsable"]) == (4, 3, 4, 0.25)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 0.0, -1.0, -3.0])
def test_what_counts_as_wrong(wrong):
    assert not delta([wrong], [3.0])[0]
    out = score([wrong, 3.0], [3.0, 3.0], ["a", "b"])
    assert out["delta1"]["value"] == 0.5 and out["abs_rel"]["value"] == 0.0


def test_truth_scores_one():
    truth = np.random.default_rng(0).uniform(0.1, 80, 500)
    out = score(truth, truth, [str(i // 5) for i in range(500)])
    assert out["delta1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert out["abs_rel"]["value"] == out["rmse"]["value"] == out["silog"]["value"] == 0.0


def test_all_unparsable_has_no_error_metric():
    out = score([math.nan] * 3, [1.0] * 3, ["a", "b", "c"])
    assert out["delta1"]["value"] == 0.0 and out["rmse"]["value"] is None and out["unparsable"] == 1.0


def test_intervals_resample_images():
    """Twenty identical points of an image say no more than one."""
    rng = np.random.default_rng(1)
    right = np.repeat(rng.random(50) < 0.5, 20)
    truth, pred = np.ones(1000), np.where(right, 1.0, 3.0)
    clustered = score(pred, truth, [str(i // 20) for i in range(1000)])["delta1"]
    single = score(pred, truth, [str(i) for i in range(1000)])["delta1"]
    width = clustered["high"] - clustered["low"]
    assert width > 3 * (single["high"] - single["low"])
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 50), rel=0.25)


def test_same_seed_same_interval():
    rng = np.random.default_rng(2)
    truth, pred = rng.uniform(1, 9, 200), rng.uniform(1, 9, 200)
    groups = [str(i // 4) for i in range(200)]
    assert score(pred, truth, groups) == score(pred, truth, groups)
    assert score(pred, truth, groups, seed=1) != score(pred, truth, groups)
    assert all(score(pred, truth, groups)[m]["low"] <= score(pred, truth, groups)[m]["value"] for m in METRICS)


def test_best_constant_is_the_best():
    truth = np.exp(np.random.default_rng(3).normal(1, 1, 300))
    constant, best = best_constant(truth)
    assert best == constant_delta1(truth, constant)
    assert best >= max(constant_delta1(truth, c) for c in np.geomspace(0.05, 100, 4000))


def test_bad_truth_is_refused():
    with pytest.raises(DepthLMError, match="not finite and positive"):
        score([1.0], [0.0], ["a"])
    with pytest.raises(DepthLMError):
        score([], [], [])
