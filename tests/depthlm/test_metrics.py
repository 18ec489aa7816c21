"""Metrics by hand, intervals over images, and what counts as wrong."""

import math
import tracemalloc

import numpy as np
import pytest

from depthlm.errors import DepthLMError
from depthlm.metrics import METRICS, best_constant, constant_delta1, delta, holm, paired_delta1, score


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


def test_resamples_of_many_images_are_drawn_in_parts(monkeypatch):
    """Memory does not grow with the resamples, and the outcome is that of one draw."""
    rng = np.random.default_rng(4)
    truth, pred, groups = rng.uniform(1, 9, 3000), rng.uniform(1, 9, 3000), [str(i) for i in range(3000)]
    whole = score(pred, truth, groups)
    monkeypatch.setattr("depthlm.metrics.DRAWN_AT_ONCE", 100_000)
    tracemalloc.start()
    parts = score(pred, truth, groups)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6, "1000 resamples of 3000 images at once are 24 MB"
    for name in METRICS:
        assert parts[name] == pytest.approx(whole[name], rel=1e-12)


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


def answers_of(right: np.ndarray) -> np.ndarray:
    """Answers to truths of 1 that are right where ``right``."""
    return np.where(right, 1.0, 3.0)


def pairs(rng: np.random.Generator, images: int, skill_a: float, skill_b: float) -> tuple[np.ndarray, ...]:
    """Two models' answers to 1 to 5 questions about each image; images differ in how hard they are for both."""
    groups = np.repeat(np.arange(images), rng.integers(1, 6, images))
    hard = rng.uniform(-0.3, 0.3, images)[groups]
    a, b = (answers_of(rng.random(len(groups)) < skill + hard) for skill in (skill_a, skill_b))
    return a, b, groups.astype(str)


def paired(a, b, groups, **options):
    return paired_delta1(a, b, np.ones(len(a)), list(groups), **options)


def test_a_comparison_by_hand():
    a = [1.0, 1.1, 4.0, math.nan, 2.0]
    b = [1.0, 3.0, 1.2, 9.0, -1.0]
    out = paired_delta1(a, b, [1.0] * 5, ["x", "x", "y", "y", "z"])
    assert (out["both"], out["only_a"], out["only_b"], out["neither"]) == (1, 1, 1, 2)
    assert (out["a"], out["b"], out["difference"]["value"]) == (0.4, 0.4, 0.0)
    assert (out["n"], out["n_images"], out["n_valid"]) == (5, 3, 3)
    assert out["abs_rel_change"] == pytest.approx(np.median([0.0, 0.1 - 2.0, 3.0 - 0.2]))


def test_the_same_answers_are_no_better_and_no_worse():
    a, _, groups = pairs(np.random.default_rng(0), 30, 0.6, 0.6)
    out = paired(a, a, groups)
    assert out["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0} and out["p"] == 1.0
    assert out["only_a"] == out["only_b"] == 0 and out["abs_rel_change"] == 0.0


def test_the_order_of_the_questions_changes_nothing():
    rng = np.random.default_rng(1)
    a, b, groups = pairs(rng, 40, 0.7, 0.5)
    order = rng.permutation(len(a))
    assert paired(a, b, groups) == paired(a[order], b[order], groups[order])
    assert paired(a, b, groups) != paired(a, b, groups, seed=1)


def test_changing_places_turns_the_sign():
    a, b, groups = pairs(np.random.default_rng(2), 40, 0.65, 0.5)
    one, other = paired(a, b, groups), paired(b, a, groups)
    assert one["difference"]["value"] == -other["difference"]["value"]
    assert one["difference"]["low"] == pytest.approx(-other["difference"]["high"], abs=0.02)
    assert one["p"] == pytest.approx(other["p"], abs=0.02)
    assert (one["only_a"], one["abs_rel_change"]) == (other["only_b"], -other["abs_rel_change"])


@pytest.mark.parametrize("images", [6, 25])
def test_equal_models_are_seldom_called_different(images):
    """Under the null hypothesis p is about uniform: at most its level, and not far below it."""
    rng = np.random.default_rng(images)
    found = np.array([paired(*pairs(rng, images, 0.5, 0.5), n_boot=400)["p"] for _ in range(1000)])
    assert (found < 0.05).mean() <= 0.07 and (found < 0.2).mean() <= 0.24
    assert (found < 0.2).mean() >= 0.12 and 0.38 <= (found < 0.5).mean() <= 0.62
    if images > 20:
        assert (found < 0.05).mean() >= 0.02


def test_a_large_difference_is_seen_and_its_interval_holds_it():
    rng = np.random.default_rng(4)
    found = [paired(*pairs(rng, 80, 0.68, 0.35), n_boot=1000) for _ in range(100)]
    assert np.mean([out["p"] < 0.01 for out in found]) > 0.95
    assert all(out["p"] >= 1 / 1001 for out in found)
    held = [out["difference"]["low"] <= 0.33 <= out["difference"]["high"] for out in found]
    assert 0.87 <= np.mean(held) <= 1.0


def test_twenty_questions_about_an_image_say_no_more_than_one():
    a, b = answers_of(np.ones(10)), answers_of(np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0]))
    names = np.arange(10).astype(str)
    one, twenty = paired(a, b, names), paired(*(np.repeat(v, 20) for v in (a, b, names)))
    assert twenty["p"] == pytest.approx(one["p"], abs=0.02) and one["p"] > 0.1
    alone = paired(*(np.repeat(v, 20) for v in (a, b)), np.arange(200).astype(str))
    assert alone["p"] < 0.001


@pytest.mark.parametrize("images", [1, 2])
def test_one_or_two_images_prove_nothing(images):
    groups = np.arange(images).astype(str)
    assert paired(answers_of(np.ones(images)), answers_of(np.zeros(images)), groups)["p"] > 0.4


def test_comparisons_of_nothing_are_refused():
    with pytest.raises(DepthLMError, match="0 answers"):
        paired_delta1([], [], [], [])
    with pytest.raises(DepthLMError, match="1 answers, 2 truths"):
        paired_delta1([1.0, 1.0], [1.0], [1.0, 1.0], ["x", "y"])
    with pytest.raises(DepthLMError, match="not finite and positive"):
        paired_delta1([1.0], [1.0], [math.nan], ["x"])


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])  # 1 · 0.04 is below 2 · 0.03 before it
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []
