"""LiDAR points to labels: frames and times, distortion, what hides what, and the count of every dropped point."""

import numpy as np
import pytest

from data_gen.curate import curate
from data_gen.lidar import lidar_fields, lidar_to_camera, project_lidar
from data_gen.poses import rigid
from depthlm.camera import Camera
from depthlm.errors import DepthLMError

CAMERA = Camera(1600, 900, 1200, 1200, 799.5, 449.5)
# A LiDAR as on a car: x forward, y left, z up.
AXES = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])


def test_a_point_goes_through_the_vehicle_at_both_times():
    """The car drives 2 m on and turns left by 10 degrees between sweep and photograph; the world stands still."""
    turn = np.radians(10)
    z_rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    lidar_to_ego = rigid(np.eye(3), (1.0, 0, 1.8))
    camera_to_ego = rigid(AXES.T, (1.7, 0, 1.5))
    ego_at_lidar, ego_at_camera = rigid(np.eye(3), (100, 50, 0)), rigid(z_rotation, (102, 50, 0))
    move = lidar_to_camera(lidar_to_ego, ego_at_lidar, ego_at_camera, camera_to_ego)

    world = np.array([118.0, 57.0, 1.0])
    in_lidar = world - (101, 50, 1.8)
    in_ego = z_rotation.T @ (world - (102, 50, 0))
    in_camera = AXES @ (in_ego - (1.7, 0, 1.5))
    (xy, z), dropped = project_lidar([in_lidar], move, CAMERA)
    assert z[0] == pytest.approx(in_camera[2], abs=1e-5)
    expected = 1200 * in_camera[:2] / in_camera[2] + (799.5, 449.5)
    np.testing.assert_allclose(xy[0], expected, atol=1e-3)
    assert dropped == {}
    distance = CAMERA.z_to_distance(xy, z)[0]
    assert distance == pytest.approx(np.linalg.norm(in_camera), abs=1e-4) and distance > z[0] * 1.003
    # One pose for both times would put it elsewhere: the very mistake that this guards against.
    (wrong, _), _ = project_lidar([in_lidar], lidar_to_camera(lidar_to_ego, *[ego_at_lidar] * 2, camera_to_ego), CAMERA)
    assert np.linalg.norm(wrong[0] - xy[0]) > 100


def test_every_dropped_point_is_counted_under_its_reason():
    own = np.zeros((900, 1600), bool)
    own[800:] = True
    points = [
        (0, 0, 10),  # kept
        (0.001, 0.001, 30),  # behind the first
        (1, 0, -5),
        (90, 0, 10),
        (0, 1, 3.2),  # y 824: the bonnet
        (-50, 0, 250),
        (np.nan, 0, 5),
        (-2, -1, 5),  # kept
    ]
    (xy, z), dropped = project_lidar(points, np.eye(4), CAMERA, own_pixels=own)
    assert z.tolist() == [10, 5]
    np.testing.assert_allclose(xy, [(799.5, 449.5), (319.5, 209.5)])
    assert dropped == dict.fromkeys(
        ("hidden", "behind the camera", "outside the image", "own vehicle", "out of range", "not finite"), 1
    )
    (_, z), dropped = project_lidar(points, np.eye(4), CAMERA, min_m=6, max_m=300)
    assert z.tolist() == [10, 250]
    assert dropped["out of range"] == 2


def test_points_of_the_own_vehicle_hide_what_lies_behind_them():
    (_, z), dropped = project_lidar(
        [(0, 0, 2), (0.001, 0, 30), (1, 0, 8)], np.eye(4), CAMERA, own_points=np.array([True, False, False])
    )
    assert z.tolist() == [8]
    assert dropped == {"own vehicle": 1, "hidden": 1}


def test_what_is_out_of_range_still_hides_what_lies_behind_it():
    points = [(0, 0, 2), (0.001, 0, 30)]
    (_, z), dropped = project_lidar([*points, (1, 0, 8)], np.eye(4), CAMERA, min_m=3)
    assert z.tolist() == [8]
    assert dropped == {"out of range": 1, "hidden": 1}


def test_the_footprint_closes_the_gaps_between_rings_and_leaves_the_ground_whole():
    """A car's rear at 10 m in rings 8 px apart before a wall at 30 m, and ground that rises to the horizon."""
    ys, xs = np.meshgrid(np.arange(300, 400, 8.0), np.arange(600, 700, 3.0), indexing="ij")
    car = CAMERA.back_project(np.stack([xs.ravel(), ys.ravel()], 1), np.full(xs.size, 10.0))
    wall = CAMERA.back_project(np.stack([xs.ravel() + 1, ys.ravel() + 4], 1)[: 11 * xs.shape[1]], [30.0] * 11 * 34)
    rows = 449.5 + np.arange(25, 400, 6.0)  # depth = 1.7 m * f / (y - cy): neighbours rise by up to 24 %
    ground = CAMERA.back_project(np.stack([np.full(len(rows), 1200.0), rows], 1), 1.7 * 1200 / (rows - 449.5))
    (xy, z), dropped = project_lidar(np.concatenate([car, wall, ground]), np.eye(4), CAMERA)
    on_car = (xy[:, 0] < 710) & np.isclose(z, 10)
    assert on_car.sum() == len(car)
    assert not np.isclose(z, 30).any()
    on_ground = xy[:, 0] > 1199
    assert on_ground.sum() >= len(ground) - 3
    assert dropped["hidden"] == len(wall) + len(ground) - on_ground.sum()
    (_, z), dropped = project_lidar(np.concatenate([car, wall]), np.eye(4), CAMERA, footprint=(1, 1))
    assert np.isclose(z, 30).sum() == len(wall), "without a footprint the wall shines through"
    assert not dropped


def test_points_far_outside_are_not_folded_into_the_image_by_the_distortion():
    """The radial polynomial falls back to zero beyond 45 degrees here: rays from far outside land inside the image."""
    camera = Camera(1600, 900, 800, 800, 799.5, 449.5, (-0.35, 0.0, 0.0, 0.0))
    folded = np.array([[1.6, 0.0, 1.0]]) * 10
    assert camera.contains(camera.project(folded)).all(), "the test needs a point that folds"
    (xy, _), dropped = project_lidar([*folded, (0.5, 0.1, 10)], np.eye(4), camera)
    assert len(xy) == 1
    np.testing.assert_allclose(xy, camera.project([(0.5, 0.1, 10)]), atol=1e-3)
    assert dropped == {"outside the image": 1}


@pytest.mark.parametrize(
    ("points", "options", "said"),
    [
        (np.zeros((4, 2)), {}, r"shape \(4, 2\), expected \(N, 3\)"),
        (np.zeros((4, 3)), {"min_m": 5, "max_m": 2}, "min_m"),
        ([(0, 0, 5)], {"own_pixels": np.zeros((10, 20), bool)}, "is 20x10, the image 1600x900"),
    ],
)
def test_wrong_input_is_one_error(points, options, said):
    with pytest.raises(DepthLMError, match=said):
        project_lidar(points, np.eye(4), CAMERA, **options)


def test_no_point_at_all_is_no_label_and_no_crash():
    (xy, z), dropped = project_lidar(np.zeros((0, 3)), np.eye(4), CAMERA)
    assert xy.shape == (0, 2) and len(z) == 0 and not dropped


class Sweeps:
    """Three frames of four points each: one kept, one behind, two outside; the last frame keeps none and is skipped."""

    name = "sweeps"

    def keys(self):
        return ["a", "b", "c"]

    def settings(self):
        return {}

    def read(self, key):
        from conftest import encode_png

        from depthlm.frame import Frame

        camera = Camera(64, 48, 60, 60, 31.5, 23.5)
        points = [(0, 0, 5 if key != "c" else -5), (0, 0, -1), (9, 0, 1), (0, 9, 1)]
        image = encode_png(np.zeros((48, 64, 3), np.uint8))
        return Frame(key, image, camera, scene="s", dataset="sweeps", **lidar_fields(points, np.eye(4), camera, key))


@pytest.mark.parametrize("frames_per_shard", [1, 64])
def test_the_store_reports_what_became_of_the_points(tmp_path, frames_per_shard):
    import json

    curate(Sweeps(), tmp_path / "store", frames_per_shard=frames_per_shard)
    report = json.loads((tmp_path / "store/report.json").read_bytes())
    assert report["frames"] == 2 and report["skipped"]["no labels"]["count"] == 1
    assert report["dropped_labels"] == {"outside the image": 4, "behind the camera": 2}
