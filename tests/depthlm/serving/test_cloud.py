"""Clouds of scenes whose depth is known, from an answerer that looks for the marker and tells the truth."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from eval_server import ChatServer
from PIL import Image

from depthlm.camera import Camera
from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS
from depthlm.models.asked_as import AskedAs
from depthlm.photo import Photo
from depthlm.serving.answerers import LocalAnswerer
from depthlm.serving.cloud.ask import Cloud, CloudSettings, ask_cloud
from depthlm.serving.cloud.command import add
from depthlm.serving.endpoint import Completion
from depthlm.serving.spatial_model import SpatialModel
from depthlm.shown import Shown

WIDTH, HEIGHT = 320, 240
CAMERA = Camera(WIDTH, HEIGHT, 250.0, 250.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
COMMANDS = {"cloud": lambda: add}


def wall_and_box() -> np.ndarray:
    """(H, W) z: a wall at 4 m, a box at 2 m before it."""
    z = np.full((HEIGHT, WIDTH), 4.0)
    z[70:170, 110:210] = 2.0
    return z


def floor_and_wall() -> np.ndarray:
    """(H, W) z: a floor 1.5 m below the camera up to a wall at 9 m."""
    down = (np.arange(HEIGHT) - CAMERA.cy) / CAMERA.fy
    with np.errstate(divide="ignore"):
        floor = np.where(down > 0, 1.5 / down, np.inf)
    return np.repeat(np.minimum(floor, 9.0)[:, None], WIDTH, axis=1)


def photo_of(z: np.ndarray, camera: Camera = CAMERA) -> Photo:
    """Greys, no marker's colour, that tell apart near and far."""
    grey = np.clip(40 + 15 * z, 0, 200).astype(np.uint8)
    return Photo(np.repeat(grey[:, :, None], 3, axis=2), camera)


class Truth:
    """Finds the marker that a question names in the image that comes with it, and says how far its point is."""

    model = "truth"

    def __init__(self, z: np.ndarray, camera: Camera = CAMERA) -> None:
        self.z, self.camera = z, camera
        self.asked: Counter[tuple[int, int]] = Counter()
        self.images: set[int] = set()
        self.before: list[tuple[str, ...]] = []
        self.under_way = self.most_under_way = 0
        self.delay_s = 0.0
        self.say: Callable[[float, int], str] = lambda distance, count: f"{distance:.4f}"

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def answer(self, shown: Shown, max_tokens: int, samples: int = 1, answers: Sequence[str] = ()) -> Completion:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.delay_s)
            return self._answer(shown, tuple(answers))
        finally:
            self.under_way -= 1

    def _answer(self, shown: Shown, answers: tuple[str, ...]) -> Completion:
        (image,), (point,) = shown.images, shown.points[len(answers)]
        colour = re.search(r"the (\w+) arrow", shown.texts[len(answers)])[1]
        column, row = (round(v) for v in point["xy"])
        around = np.pad(image, ((1, 1), (1, 1), (0, 0)))[row : row + 3, column : column + 3]
        painted = (around == COLOURS[colour]).all(axis=2)
        assert painted[[0, 1, 1, 2], [1, 0, 2, 1]].any(), "the named marker's tip is not at the point"
        column, row = (round(v) for v in point["source_xy"])
        self.asked[column, row] += 1
        self.images.add(id(image))
        self.before.append(answers)
        distance = self.camera.z_to_distance([point["source_xy"]], [self.z[row, column]])[0]
        return Completion((self.say(distance, self.asked.total()),))


def ask(
    answerer: Any, photo: Photo, settings: CloudSettings | None = None, log: Path | None = None, **more: Any
) -> Cloud:
    return asyncio.run(ask_cloud(SpatialModel(answerer, AskedAs("qwen2.5-vl")), photo, settings, log, **more))


def truth_at(z: np.ndarray, xy: np.ndarray) -> np.ndarray:
    x, y = np.rint(xy).astype(int).reshape(-1, 2).T
    return z[y, x]


def test_points_lie_on_the_scenes_planes_in_the_photos_colours():
    z = wall_and_box()
    photo = photo_of(z)
    cloud = ask(Truth(z), photo, CloudSettings((16, 12), adaptive=False))
    assert len(cloud.xy) == 16 * 12
    assert not cloud.unknown
    np.testing.assert_allclose(cloud.z, truth_at(z, cloud.xy), atol=1e-4)
    points, colours = cloud.points()
    on_box = np.abs(points[:, 2] - 2) < 1e-4
    assert (on_box | (np.abs(points[:, 2] - 4) < 1e-4)).all()
    assert on_box.sum() == 5 * 5
    # back in the photo they are where they were asked
    np.testing.assert_allclose(CAMERA.project(points), cloud.xy, atol=1e-6)
    np.testing.assert_array_equal(colours[:, 0], np.where(on_box, 70, 100))


def test_adaptive_asks_fewer_points_and_fills_in_what_the_full_grid_says():
    z = floor_and_wall()
    z[100:200, 110:150] = np.minimum(z, 1.9)[100:200, 110:150]
    photo, full, adaptive = photo_of(z), Truth(z), Truth(z)
    whole = ask(full, photo, CloudSettings((32, 24), adaptive=False))
    part = ask(adaptive, photo, CloudSettings((32, 24)))
    assert full.asked.total() == 32 * 24
    assert adaptive.asked.total() < 0.7 * full.asked.total()
    assert max(adaptive.asked.values()) == 1
    (found, asked), (expected, _) = part.grid_z(), whole.grid_z()
    assert asked.sum() == adaptive.asked.total()
    assert (found > 0).all()
    assert np.maximum(found / expected, expected / found).max() <= 1.1
    np.testing.assert_allclose(found[asked], expected[asked], rtol=1e-6)


def test_depth_edges_are_not_bridged():
    z = wall_and_box()
    cloud = ask(Truth(z), photo_of(z))
    depth = cloud.depth_map()
    assert depth.shape == (HEIGHT, WIDTH)
    assert depth.dtype == np.float32
    known = depth > 0
    np.testing.assert_allclose(depth[known], z[known], atol=1e-3)  # nothing between 2 m and 4 m
    assert known.mean() > 0.8
    assert not known[120, 104:112].all()  # somewhere along the box's side nothing is said
    points, colours = cloud.dense_points()
    assert len(points) == len(colours) == known.sum()
    assert set(np.unique(points[:, 2].round(2))) == {2.0, 4.0}


def test_a_receding_floor_is_one_plane():
    z = floor_and_wall()
    depth = ask(Truth(z), photo_of(z), CloudSettings((32, 24), adaptive=False)).depth_map()
    lower = np.s_[172:232, 10:310]  # the wall begins at 161
    assert (depth[lower] > 0).all()
    np.testing.assert_allclose(depth[lower], z[lower], rtol=0.03)  # half a pixel's: points lie between pixels here


def test_distortion_is_undone():
    camera = Camera(WIDTH, HEIGHT, 250.0, 250.0, CAMERA.cx, CAMERA.cy, (-0.2, 0.05, 0.0, 0.0))
    z = np.full((HEIGHT, WIDTH), 4.0)
    cloud = ask(Truth(z, camera), photo_of(z, camera), CloudSettings((16, 12)))
    assert len(cloud.xy) >= 20
    points, _ = cloud.points()
    np.testing.assert_allclose(points[:, 2], 4.0, atol=1e-3)
    np.testing.assert_allclose(
        np.abs(points[:, 0]).max(), 4 * np.abs(camera.normalized(cloud.xy)[:, 0]).max(), rtol=1e-3
    )


def test_several_markers_on_one_image_each_asked_alone():
    z = wall_and_box()
    answerer = Truth(z)
    cloud = ask(answerer, photo_of(z), CloudSettings((16, 12), adaptive=False, markers=4))
    np.testing.assert_allclose(cloud.z, truth_at(z, cloud.xy), atol=1e-4)
    assert set(answerer.asked.values()) == {1}
    assert set(answerer.before) == {()}


def test_several_markers_in_one_conversation():
    z = wall_and_box()
    answerer = Truth(z)
    cloud = ask(answerer, photo_of(z), CloudSettings((16, 12), adaptive=False, markers=4, together="conversation"))
    np.testing.assert_allclose(cloud.z, truth_at(z, cloud.xy), atol=1e-4)
    assert set(answerer.asked.values()) == {1}
    assert Counter(map(len, answerer.before)) == {0: 48, 1: 48, 2: 48, 3: 48}
    assert all(float(text) > 1 for texts in answerer.before for text in texts)


@pytest.mark.parametrize("settings", [{}, {"markers": 4}, {"markers": 4, "together": "conversation"}])
def test_an_interrupted_run_goes_on_and_asks_each_point_once(tmp_path: Path, settings: dict[str, Any]):
    z = wall_and_box()
    photo, made = photo_of(z), CloudSettings((16, 12), concurrency=5, **settings)
    undisturbed = ask(Truth(z), photo, made)
    first, second = Truth(z), Truth(z)

    def killed(distance: float, count: int) -> str:
        if count > 37:
            raise RuntimeError("killed")
        return f"{distance:.4f}"

    first.say = killed
    with pytest.raises(RuntimeError, match="killed"):
        ask(first, photo, made, tmp_path / "points.jsonl")
    kept = len((tmp_path / "points.jsonl").read_text().splitlines()) - 1
    assert kept == 37
    cloud = ask(second, photo, made, tmp_path / "points.jsonl")
    assert cloud.asked == second.asked.total() == len(undisturbed.answers) - 37
    assert cloud.answers == undisturbed.answers
    assert cloud.settled == undisturbed.settled
    again = Truth(z)
    assert ask(again, photo, made, tmp_path / "points.jsonl").answers == undisturbed.answers
    assert not again.asked


def test_a_torn_last_line_is_read_up_to_it(tmp_path: Path):
    z, log = wall_and_box(), tmp_path / "points.jsonl"
    made = CloudSettings((8, 6))
    whole = ask(Truth(z), photo_of(z), made, log)
    data = log.read_bytes()
    log.write_bytes(data[:-9])
    answerer = Truth(z)
    cloud = ask(answerer, photo_of(z), made, log)
    assert answerer.asked.total() == 1
    assert cloud.answers == whole.answers
    assert log.read_bytes() == data


def test_a_broken_line_is_refused(tmp_path: Path):
    z, log = wall_and_box(), tmp_path / "points.jsonl"
    ask(Truth(z), photo_of(z), CloudSettings((8, 6)), log)
    lines = log.read_text().splitlines()
    lines[3] = lines[3][:20]
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(DepthLMError, match=r"line 4: is no line of answers.*--fresh"):
        ask(Truth(z), photo_of(z), CloudSettings((8, 6)), log)


@pytest.mark.parametrize("other", ["image", "camera", "settings", "model"])
def test_another_runs_answers_are_refused_unless_fresh(tmp_path: Path, other: str):
    z, log = wall_and_box(), tmp_path / "points.jsonl"
    ask(Truth(z), photo_of(z), CloudSettings((8, 6)), log)
    before = log.read_bytes()
    answerer, photo, made = Truth(z), photo_of(z), CloudSettings((8, 6), concurrency=3, edge=0.2)
    assert not ask(answerer, photo, made, log).asked  # these change no answer
    if other == "image":
        photo.pixels[3, 3] = 99
    elif other == "camera":
        photo = photo_of(z, Camera(WIDTH, HEIGHT, 251.0, 250.0, CAMERA.cx, CAMERA.cy))
    elif other == "settings":
        made = CloudSettings((8, 6), markers=2)
    else:
        answerer.model = "another"
    with pytest.raises(DepthLMError, match=f"holds answers with another {other}.*--fresh"):
        ask(answerer, photo, made, log)
    assert log.read_bytes() == before
    assert ask(answerer, photo, made, log, fresh=True).asked == len(before.splitlines()) - 1


def test_two_processes_do_not_write_one_log(tmp_path: Path):
    from depthlm.serving.cloud.log import PointLog

    log = tmp_path / "points.jsonl"
    with PointLog(log, {"cloud": 1}), pytest.raises(DepthLMError, match="another process"):
        PointLog(log, {"cloud": 1}, fresh=True)
    PointLog(log, {"cloud": 1}).close()


def test_points_without_a_distance_are_listed_and_counted():
    z = wall_and_box()
    answerer = Truth(z)
    answerer.say = lambda distance, count: "I can't tell" if distance < 3 else "0" if count == 2 else f"{distance:.4f}"
    cloud = ask(answerer, photo_of(z), CloudSettings((16, 12)))
    counts = cloud.skipped.counts
    assert counts["no distance in the answer"] == len(cloud.unknown) == np.isnan(cloud.distance).sum() > 10
    assert any("a distance is positive" in each["reason"] for each in cloud.unknown)
    assert any("I can't tell" in each["reason"] for each in cloud.unknown)
    depth, (grid, asked) = cloud.depth_map(), cloud.grid_z()
    assert not depth[72:168, 112:208].any()
    assert (grid[asked] > 0).all()
    assert np.isfinite(cloud.points()[0]).all()


def test_points_without_room_for_a_marker_are_listed():
    z = np.full((HEIGHT, WIDTH), 4.0)
    cloud = asyncio.run(
        ask_cloud(SpatialModel(Truth(z), AskedAs("nano")), photo_of(z), CloudSettings((40, 30), adaptive=False))
    )
    told = [each for each in cloud.unknown if each["kind"] == "no room for a marker"]
    assert told
    assert len(told) + len(cloud.answers) == 40 * 30
    assert all(min(each["x"], WIDTH - 1 - each["x"], each["y"], HEIGHT - 1 - each["y"]) < 40 for each in told)


def test_a_failed_point_is_asked_again_next_time(tmp_path: Path):
    z, log = wall_and_box(), tmp_path / "points.jsonl"
    answerer = Truth(z)

    def refused(distance: float, count: int) -> str:
        if count % 7 == 0:
            raise DepthLMError("the question", "refused with status 400: no", kind="refused")
        return f"{distance:.4f}"

    answerer.say = refused
    cloud = ask(answerer, photo_of(z), CloudSettings((8, 6), adaptive=False, concurrency=1), log)
    assert cloud.skipped.counts == {"refused": 6}
    assert len(cloud.answers) == 42
    second = Truth(z)
    cloud = ask(second, photo_of(z), CloudSettings((8, 6), adaptive=False), log)
    assert second.asked.total() == cloud.asked == 6
    assert not cloud.unknown


def test_a_server_that_fails_throughout_ends_the_run(tmp_path: Path):
    z = wall_and_box()
    answerer = Truth(z)

    def fails(distance: float, count: int) -> str:
        raise DepthLMError("the question", "no answer in 3 attempts: status 500", kind="no answer")

    answerer.say = fails
    with pytest.raises(DepthLMError, match=r"10 questions in a row failed.*status 500"):
        ask(answerer, photo_of(z), CloudSettings(concurrency=4))
    assert answerer.asked.total() < 20


@pytest.mark.parametrize("most", [1, 6])
def test_concurrency_is_bounded(most: int):
    z = wall_and_box()
    answerer, told = Truth(z), []
    answerer.delay_s = 0.02
    ask(answerer, photo_of(z), CloudSettings((16, 12), concurrency=most), on_progress=lambda *step: told.append(step))
    assert answerer.most_under_way <= most
    assert most == 1 or answerer.most_under_way > 2
    assert told[-1][0] == told[-1][1] == answerer.asked.total()
    assert all(0 <= done <= total for done, total in told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    "wrong", [{"markers": 9}, {"markers": 0}, {"threshold": 0}, {"edge": 1.0}, {"step": 0}, {"together": "row"}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(DepthLMError):
        CloudSettings(**wrong)


def test_a_local_model_answers_in_batches_as_it_does_one_by_one():
    photo = photo_of(wall_and_box())

    async def texts(batch: int, **settings: Any) -> list[str]:
        answerer = LocalAnswerer("nano", batch=batch)
        sizes = []
        inner = answerer._answer
        answerer._answer = lambda waiting: (sizes.append(len(waiting)), inner(waiting))[1]
        await answerer.start()
        try:
            made = CloudSettings((5, 4), adaptive=False, **settings)
            cloud = await ask_cloud(SpatialModel(answerer, AskedAs("nano")), photo, made)
        finally:
            await answerer.close()
        assert max(sizes) == batch
        return cloud.text

    alone = asyncio.run(texts(1))
    assert len(alone) >= 16
    assert all(re.fullmatch(r"\d+\.\d\d", text) for text in alone)
    assert asyncio.run(texts(6)) == alone
    assert len(asyncio.run(texts(4, markers=4, together="conversation"))) >= 16


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    server.choices = lambda body, text: [{"message": {"role": "assistant", "content": "3.00"}}]
    yield server
    server.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(photo_of(wall_and_box()).pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_command_writes_what_it_says_and_goes_on(
    tmp_path: Path, image: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    command = ["cloud", image, "--endpoint", server.url, "--profile", "qwen2.5-vl", "--intrinsics", "250", "--dense"]
    command = [*map(str, command), "--grid", "16x12", "--out", str(out)]
    assert main(command, COMMANDS) == 0
    told = capsys.readouterr().out
    asked = sum(server.counts.values())
    # 3 m of distance everywhere is a sphere: its z differs by up to a quarter
    assert 20 <= asked <= 16 * 12
    assert f"{asked} points asked" in told
    assert "points/s" in told
    for name in ("depth.npy", "depth.png", "grid.npz", "cloud.ply", "cloud.glb", "dense.ply", "preview.png"):
        assert str(out / name) in told
        assert (out / name).stat().st_size > 300
    cloud = trimesh.load(out / "cloud.ply")
    np.testing.assert_allclose(np.linalg.norm(cloud.vertices, axis=1), 3.0, rtol=0.05)  # what is filled in is flat
    depth = np.load(out / "depth.npy")
    assert depth.shape == (HEIGHT, WIDTH)
    summary = json.loads((out / "cloud.json").read_text())
    assert summary["asked"] == asked
    assert summary["camera"]["fx"] == 250
    with Image.open(out / "preview.png") as preview:
        assert preview.width == 1600
    assert main(command, COMMANDS) == 0
    assert sum(server.counts.values()) == asked  # all was known
    assert main([*command, "--markers", "3"], COMMANDS) == 2
    assert "another settings" in capsys.readouterr().err
    assert main([*command, "--markers", "3", "--fresh"], COMMANDS) == 0
    assert sum(server.counts.values()) > asked


def test_an_unknown_camera_is_said(tmp_path: Path, image: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]):
    out = ["--out", str(tmp_path / "out"), "--grid", "4x3", "--profile", "qwen2.5-vl"]
    assert main(["cloud", str(image), "--endpoint", server.url, *out], COMMANDS) == 0
    assert "was assumed" in capsys.readouterr().out
    assert "was assumed" in json.loads((tmp_path / "out" / "cloud.json").read_text())["warnings"][0]


def test_a_gateway_tells_how_its_model_is_asked(
    tmp_path: Path, image: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
):
    told = {"object": "spatial", "data": [{"id": "served"}], "profile": "nano", "intrinsics": "normalize"}
    send = server._send
    monkeypatch.setattr(
        server, "_send", lambda at, status, body, *more, **named: send(at, status, body | told, *more, **named)
    )
    out = ["--out", str(tmp_path / "out"), "--grid", "4x3", "--intrinsics", "250"]
    assert main(["cloud", str(image), "--endpoint", server.url, *out], COMMANDS) == 0
    header = json.loads((tmp_path / "out" / "points.jsonl").read_text().splitlines()[0])
    assert header["asked_as"] == {"profile": "nano", "intrinsics": "normalize", "pointing": "marker"}


@pytest.mark.parametrize(
    ("wrong", "said"), [(["--grid", "24"], "is no grid, as 32x24"), (["--intrinsics", "a"], "is no list of numbers")]
)
def test_forms_that_are_none_are_told(wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["cloud", "photo.png", "--out", "out", "--model", "nano", *wrong], COMMANDS)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "names no model"),
        (["--model", "nano", "--endpoint", "http://localhost:1"], "a model and an endpoint"),
        (["--endpoint", "http://localhost:1", "--local"], "--local"),
        (["--model", "nano", "--markers", "9"], "give 1 to 8"),
        (["--model", "nano", "--fov", "70", "--intrinsics", "300"], "give one of them"),
        (["--model", "nano", "--grid", "1x5"], "at least 2x2"),
        (["--model", "nano", "--profile", "nanoo"], "nanoo"),
        (["--endpoint", "http://127.0.0.1:9"], "nothing answers"),
    ],
)
def test_bad_use_is_told_in_a_line(
    tmp_path: Path, image: Path, wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["cloud", str(image), "--out", str(tmp_path / "out"), *wrong], COMMANDS) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_ctrl_c_keeps_the_answers_and_says_how_to_go_on(tmp_path: Path, image: Path, server: ChatServer):
    server.delay_s = 0.2
    out = tmp_path / "out"
    # what is started in the background is deaf to SIGINT, and so would be its children
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "from depthlm.cli import main; from depthlm.serving.cloud.command import add; "
    start += "sys.exit(main(sys.argv[1:], {'cloud': lambda: add}))"
    options = ["--endpoint", server.url, "--profile", "qwen2.5-vl", "--grid", "32x24", "--fov", "65"]
    command = [sys.executable, "-c", start, "cloud", str(image), *options, "--concurrency", "4", "--out", str(out)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    deadline = time.monotonic() + 60
    log = out / "points.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") > 10):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "run the same command again to go on" in stdout
    assert "Traceback" not in stderr
    kept = log.read_bytes().count(b"\n") - 1
    server.delay_s = 0.0
    before = sum(server.counts.values())
    assert main([*command[3:]], COMMANDS) == 0
    assert sum(server.counts.values()) - before == log.read_bytes().count(b"\n") - 1 - kept


@pytest.mark.slow
def test_nano_on_a_vllm_server(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    command = ["cloud", str(image), "--model", "nano", "--intrinsics", "250", "--grid", "8x6", "--no-adaptive"]
    assert main([*command, "--markers", "4", "--out", str(out)], COMMANDS) == 0
    told = capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "points.jsonl").read_text().splitlines()][1:]
    assert len(rows) >= 40
    assert all(0.1 < row["distance"] < 200 for row in rows)
    assert all(row["interval"][0] <= row["distance"] <= row["interval"][1] for row in rows)
    assert f"{len(rows)} points asked" in told
    assert len(trimesh.load(out / "cloud.ply").vertices) == len(rows)
