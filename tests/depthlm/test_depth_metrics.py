"""Dense metrics by hand and against plain loops, what is left out of them, and their means over images."""

import math

import numpy as np
import pytest

from depthlm.camera import Camera
from depthlm.depth_metrics import (
    CONTOUR_RATIOS,
    DEPTH_METRICS,
    aggregate,
    boundary_f1,
    depth_metrics,
    fov_error,
    same_aspect,
)
from depthlm.errors import DepthLMError
from depthlm.metrics import delta, score

# (dx, dy) of a neighbour: right, left, below, above.
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def rough(seed: int, size: tuple[int, int] = (14, 17), spread: float = 0.15) -> np.ndarray:
    """A map with contours of every strength in every direction."""
    return 3 * np.exp(np.random.default_rng(seed).normal(0, spread, size))


def contours(z: np.ndarray, ratio: float, direction: tuple[int, int], known: np.ndarray) -> set[tuple[int, int]]:
    """Pixels from which depth grows by more than ``ratio`` to the neighbour in this direction, one by one."""
    dx, dy = direction
    found = set()
    for y in range(z.shape[0]):
        for x in range(z.shape[1]):
            inside = 0 <= y + dy < z.shape[0] and 0 <= x + dx < z.shape[1]
            if inside and known[y, x] and known[y + dy, x + dx] and z[y + dy, x + dx] / z[y, x] > ratio:
                found.add((y, x))
    return found


def published_f1(pred: np.ndarray, truth: np.ndarray, known: np.ndarray, pooled: bool = False) -> float:
    """Depth Pro's score as it defines it; the directions' sums instead of their means where ``pooled``."""
    total = 0.0
    for ratio in CONTOUR_RATIOS:
        pairs = [(contours(pred, ratio, d, known), contours(truth, ratio, d, known)) for d in DIRECTIONS]
        if pooled:
            both = sum(len(p & t) for p, t in pairs)
            precision, recall = both / sum(len(p) for p, _ in pairs), both / sum(len(t) for _, t in pairs)
        else:
            precision = sum(len(p & t) / max(len(p), 1) for p, t in pairs) / 4
            recall = sum(len(p & t) / max(len(t), 1) for p, t in pairs) / 4
        if precision + recall:
            total += ratio * 2 * precision * recall / (precision + recall)
    return total / CONTOUR_RATIOS.sum()


def test_by_hand():
    truth = np.array([[1.0, 2.0, 4.0], [5.0, 0.0, math.nan]])
    pred = np.array([[1.0, 4.0, 3.0], [4.0, 9.0, 9.0]])
    out = depth_metrics(pred, truth)
    logs = np.log([1.0, 2.0, 0.75, 0.8])
    assert (out["n"], out["n_valid"]) == (4, 4)
    assert out["delta1"] == 1 / 4  # 5/4 is not below 1.25
    assert out["delta2"] == 3 / 4
    assert out["delta3"] == 3 / 4
    assert out["abs_rel"] == pytest.approx((0 + 1 + 0.25 + 0.2) / 4)
    assert out["mae"] == pytest.approx((0 + 2 + 1 + 1) / 4)
    assert out["rmse"] == pytest.approx(math.sqrt((0 + 4 + 1 + 1) / 4))
    assert out["log10"] == pytest.approx(np.abs(logs).mean() / math.log(10))
    assert out["silog"] == pytest.approx(100 * logs.std())
    assert out["log_bias"] == pytest.approx(logs.mean())


def test_same_definitions_as_of_answers():
    """One image's pixels are answers of one group."""
    rng = np.random.default_rng(0)
    truth, pred = rough(1), rough(2)
    pred.ravel()[rng.choice(pred.size, 20, replace=False)] = rng.choice([math.nan, math.inf, 0.0, -2.0], 20)
    dense = depth_metrics(pred, truth)
    answers = score(pred.ravel(), truth.ravel(), ["a"] * truth.size)
    shared = set(DEPTH_METRICS) & set(answers)
    assert shared == {"delta1", "delta2", "delta3", "abs_rel", "rmse", "log10", "silog"}
    for name in shared:
        assert dense[name] == pytest.approx(answers[name]["value"], rel=1e-12), name
    assert dense["delta1"] == delta(pred.ravel(), truth.ravel()).mean()
    assert (dense["n"], dense["n_valid"]) == (answers["n"], answers["n_valid"])


def test_only_known_and_masked_pixels_count():
    truth, pred = rough(3), rough(4)
    mask = np.random.default_rng(5).random(truth.shape) < 0.5
    holes = np.where(mask, truth, 0.0)
    assert depth_metrics(pred, truth, mask) == depth_metrics(pred, holes)
    pred[~mask] = math.nan
    assert depth_metrics(pred, truth, mask) == depth_metrics(pred, holes)
    assert depth_metrics(pred, holes)["n_valid"] == mask.sum()


def test_nothing_to_go_by():
    out = depth_metrics(np.ones((2, 2)), np.zeros((2, 2)))
    assert out == {**dict.fromkeys(DEPTH_METRICS), "n": 0, "n_valid": 0}
    out = depth_metrics(np.full((2, 2), math.nan), np.ones((2, 2)))
    assert out["delta1"] == 0.0 and out["rmse"] is None and (out["n"], out["n_valid"]) == (4, 0)


@pytest.mark.parametrize("function", [depth_metrics, boundary_f1])
def test_maps_of_other_shapes_are_refused(function):
    with pytest.raises(DepthLMError, match=r"\(3, 4\).*\(4, 3\)"):
        function(np.ones((3, 4)), np.ones((4, 3)))
    with pytest.raises(DepthLMError, match=r"must be \(H, W\)"):
        function(np.ones((1, 3, 4)), np.ones((1, 3, 4)))
    with pytest.raises(DepthLMError, match="the mask is int64"):
        function(np.ones((3, 4)), np.ones((3, 4)), np.ones((3, 4), np.int64))


def test_boundary_by_hand():
    truth = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]])  # two steps to the right
    pred = np.array([[1.0, 2.0, 2.0], [1.0, 1.0, 2.0]])  # one of them, one beside it, one upwards
    assert boundary_f1(pred, truth) == pytest.approx(0.25)  # right: P = R = 1/2; above: P = R = 0
    assert boundary_f1(pred, truth, pooled=True) == pytest.approx(0.4)  # P = 1/3, R = 1/2


def test_a_step_the_other_way_is_no_match():
    truth = np.array([[1.0, 2.0]])
    assert boundary_f1(np.array([[2.0, 1.0]]), truth) == 0.0
    assert boundary_f1(np.array([[1.0, 1.3]]), truth) == 1.0
    assert boundary_f1(np.ones((1, 2)), truth) == 0.0


def test_thresholds_and_their_weights():
    assert list(CONTOUR_RATIOS) == pytest.approx([1.05 + 0.2 * i / 9 for i in range(10)])
    found = boundary_f1(np.array([[1.0, 1.15]]), np.array([[1.0, 2.0]]))  # exceeds five of the ten
    assert found == pytest.approx((1.05 + 1.0722222 + 1.0944444 + 1.1166667 + 1.1388889) / 11.5)
    assert boundary_f1(np.array([[1.0, 1.25]]), np.array([[1.0, 2.0]])) < 1  # 1.25 does not exceed itself


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_boundary_equals_the_published_definition(seed, pooled):
    truth = rough(seed)
    pred = truth * rough(100 + seed, spread=0.05)
    known = np.ones(truth.shape, bool)
    found = boundary_f1(pred, truth, pooled=pooled)
    assert 0.1 < found < 0.95
    assert found == pytest.approx(published_f1(pred, truth, known, pooled), rel=1e-12)


def test_the_two_ways_to_sum_differ():
    truth, pred = rough(1), rough(1) * rough(9, spread=0.05)
    assert boundary_f1(pred, truth) != pytest.approx(boundary_f1(pred, truth, pooled=True), rel=1e-6)


def test_unknown_pixels_make_no_contour():
    rng = np.random.default_rng(6)
    truth = rough(7, (30, 32))
    pred = truth * rough(8, (30, 32), 0.05)
    known = rng.random(truth.shape) < 0.8
    expected = published_f1(pred, truth, known)
    assert boundary_f1(pred, truth, known) == pytest.approx(expected, rel=1e-12)
    for unknown in (0.0, math.nan, math.inf, -1.0):
        assert boundary_f1(pred, np.where(known, truth, unknown)) == boundary_f1(pred, truth, known)
    assert boundary_f1(pred, truth) != pytest.approx(expected, rel=1e-6)


def test_what_was_not_predicted_is_missed():
    truth = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    for nothing in (0.0, math.nan, math.inf):
        pred = truth.copy()
        pred[2:, 1] = nothing
        assert boundary_f1(pred, truth) == pytest.approx(2 / 3)  # P = 1, R = 1/2


@pytest.mark.parametrize("pooled", [False, True])
def test_a_perfect_map_scores_one(pooled):
    for truth in (rough(0), np.array([[1.0, 2.0]]), np.array([[1.0, 1.1]]), np.array([[1.0], [3.0], [1.0]])):
        assert boundary_f1(truth, truth, pooled=pooled) == pytest.approx(1, abs=1e-12)


def test_no_scale_changes_it():
    truth = rough(11)
    pred = truth * rough(12, spread=0.1)
    found = boundary_f1(pred, truth)
    for scale in (1e-3, 0.37, 2.0, 900.0):
        assert boundary_f1(pred * scale, truth) == pytest.approx(found, rel=1e-12)
        assert boundary_f1(pred, truth * scale) == pytest.approx(found, rel=1e-12)
    assert boundary_f1(pred + 1, truth) != pytest.approx(found, rel=1e-3)


def test_mirroring_and_turning_change_nothing():
    truth = rough(13)
    pred = truth * rough(14, spread=0.1)
    found = boundary_f1(pred, truth)
    for same in (np.fliplr, np.flipud, np.transpose):
        assert boundary_f1(same(pred), same(truth)) == pytest.approx(found, rel=1e-12)
    assert boundary_f1(1 / pred, 1 / truth) == pytest.approx(found, rel=1e-12)


def test_a_truth_without_contours_has_no_score():
    assert boundary_f1(rough(0), np.ones((14, 17))) is None
    assert boundary_f1(np.ones((1, 1)), np.ones((1, 1))) is None
    assert boundary_f1(rough(0), np.zeros((14, 17))) is None


def test_field_of_view_by_hand():
    right = Camera.from_fov(640, 480, 90)
    assert fov_error(Camera.from_fov(640, 480, 75), right) == pytest.approx(15)
    assert fov_error(Camera.from_fov(640, 480, 100), right) == pytest.approx(10)
    assert fov_error(right.scaled(320, 240), right) == pytest.approx(0, abs=1e-9)
    off_centre = Camera(640, 480, right.fx, 2 * right.fy, 100, 50)  # the error is the horizontal one
    assert fov_error(off_centre, right) == pytest.approx(0, abs=1e-9)
    with pytest.raises(DepthLMError, match="480x480"):
        fov_error(Camera.from_fov(480, 480, 75), right)


def test_same_aspect_is_within_a_percent():
    assert same_aspect((1000, 500), (500, 250)) and same_aspect((1009, 500), (1000, 500))
    assert not same_aspect((1011, 500), (1000, 500)) and not same_aspect((500, 1000), (1000, 500))


def test_means_over_images_and_over_pixels():
    images = [(rough(i), rough(i, spread=0.1) * (1 + i)) for i in range(3)]
    images[1][1][:7] = 0  # half of one image is unknown
    images[2][0][:, :9] = math.nan  # and half of another not predicted
    rows = [depth_metrics(pred, truth) for pred, truth in images]
    means = aggregate(rows)
    pooled = aggregate(rows, over="pixels")
    together = depth_metrics(*(np.concatenate(maps) for maps in zip(*images, strict=True)))
    for name in DEPTH_METRICS:
        assert means[name]["value"] == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-12), name
        assert pooled[name]["value"] == pytest.approx(together[name], rel=1e-9), name
        assert pooled[name]["value"] != pytest.approx(means[name]["value"], rel=1e-3), name
    assert (means["over"], pooled["over"]) == ("images", "pixels")
    assert {k: pooled[k] for k in ("n", "n_valid", "n_images")} == {**_counts(together), "n_images": 3}


def _counts(row: dict) -> dict:
    return {"n": row["n"], "n_valid": row["n_valid"]}


def test_what_is_undefined_is_left_out_and_counted():
    rows = [{"boundary_f1": 0.5}, {"boundary_f1": None}, {"boundary_f1": 0.1, "fov_error": 4.0}, {}]
    out = aggregate(rows)
    assert out["boundary_f1"]["value"] == pytest.approx(0.3) and out["boundary_f1"]["n_images"] == 2
    assert out["fov_error"]["value"] == 4.0 and out["fov_error"]["n_images"] == 1
    assert aggregate([{"boundary_f1": None}])["boundary_f1"] == dict(value=None, low=None, high=None, n_images=0)
    assert aggregate([{"fov_error": None}])["fov_error_median"]["value"] is None
    assert aggregate(rows, over="pixels")["boundary_f1"] == out["boundary_f1"]


def test_intervals_resample_images():
    rng = np.random.default_rng(3)
    errors = [float(e) if e > 0.1 else None for e in rng.exponential(3, 40)]
    out = aggregate([{"fov_error": e} for e in errors], n_boot=300, seed=7)
    draws = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=300)
    taken = [[e for e, times in zip(errors, draw, strict=True) for _ in range(times) if e] for draw in draws]
    for name, function in (("fov_error", np.mean), ("fov_error_median", np.median)):
        assert out[name]["value"] == pytest.approx(function([e for e in errors if e]))
        low, high = np.percentile([function(t) for t in taken], (2.5, 97.5))
        assert (out[name]["low"], out[name]["high"]) == pytest.approx((low, high), rel=1e-12)
    assert out == aggregate([{"fov_error": e} for e in errors], n_boot=300, seed=7)


def test_no_image_is_refused():
    with pytest.raises(DepthLMError, match="0 images"):
        aggregate([])
    with pytest.raises(DepthLMError, match="'scenes'"):
        aggregate([{}], over="scenes")
