"""Images without intrinsics: camera and depth from a point map, on the command line and in curation."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import official_checkpoints as official
import pytest
import torch
from conftest import encode_png
from point_maps import HEIGHT, WIDTH, room

from data_gen.curate import curate
from data_gen.readers.plain_folder import PlainFolderReader
from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.photo import ENCODER_VARIABLE, Lens, read_photo
from depthlm.spatial.depth_map import metres
from depthlm.spatial.encoder import SpatialEncoder, load_encoder
from depthlm.spatial.estimate import camera_encoder, estimate
from depthlm.spatial.point_map import AffinePoints
from depthlm.store import FrameStore


def picture(seed: int = 0) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8))


def test_camera_and_metres_of_a_point_map_that_is_known(point_map: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads are given the answer up to what they may leave open: a shift along z, and the scale."""
    truth = room(110, 3)
    affine = truth / 2.5
    affine[..., 2] -= 0.3
    mask = torch.ones(1, HEIGHT, WIDTH)
    mask[:, :30] = 0.1
    affine[:30] = 77

    def points(self: SpatialEncoder, images: torch.Tensor) -> AffinePoints:
        assert images.shape == (1, 3, HEIGHT, WIDTH) and images.max() <= 1
        return AffinePoints(torch.from_numpy(affine)[None].float(), mask, torch.tensor([2.5]))

    monkeypatch.setattr(SpatialEncoder, "points", points)
    found = estimate(load_encoder(point_map), np.full((HEIGHT, WIDTH, 3), 200, np.uint8))
    assert found.camera.fx == found.camera.fy == pytest.approx(110, rel=5e-3)
    assert (found.camera.cx, found.camera.cy) == ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    assert not found.z[:30].any()
    np.testing.assert_allclose(found.z[30:], truth[30:, :, 2], rtol=0.02)


def test_a_photo_without_a_camera_gets_the_estimated_one(point_map: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def points(self: SpatialEncoder, images: torch.Tensor) -> AffinePoints:
        truth = torch.from_numpy(room(110, 3) - [0, 0, 0.3])[None].float()
        return AffinePoints(truth, torch.ones(1, HEIGHT, WIDTH), torch.tensor([1.0]))

    monkeypatch.setattr(SpatialEncoder, "points", points)
    data = encode_png(np.full((HEIGHT, WIDTH, 3), 200, np.uint8))
    by_name = read_photo(data, encoder=str(point_map))
    assert by_name.camera_from == "estimated"
    assert by_name.camera.fx == pytest.approx(110, rel=5e-3)
    assert "72 degrees was estimated" in by_name.warning
    monkeypatch.setenv(ENCODER_VARIABLE, str(point_map))
    assert read_photo(data).camera.fx == by_name.camera.fx
    assert read_photo(data, Lens((99.0,))).camera_from == "given"


def test_with_the_true_focal_length_a_wrong_one_of_the_points_does_not_count(
    point_map: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = room(110, 3)
    affine = truth - [0, 0, 0.3]

    def points(self: SpatialEncoder, images: torch.Tensor) -> AffinePoints:
        return AffinePoints(torch.from_numpy(affine)[None].float(), torch.ones(1, HEIGHT, WIDTH), torch.tensor([1.0]))

    monkeypatch.setattr(SpatialEncoder, "points", points)
    found = estimate(load_encoder(point_map), np.full((HEIGHT, WIDTH, 3), 200, np.uint8), 110)
    assert found.camera.fx == found.camera.fy == 110
    np.testing.assert_allclose(found.z, truth[..., 2], rtol=1e-3)


def test_an_encoder_without_heads_says_so() -> None:
    encoder = load_encoder("nano")
    for focal in (None, 100.0):
        with pytest.raises(DepthLMError, match="spatial encoder nano: has no heads"):
            estimate(encoder, np.zeros((60, 80, 3), np.uint8), focal)
    with pytest.raises(DepthLMError, match="spatial encoder nano: has no point map heads"):
        encoder.points(torch.zeros(1, 3, 60, 80))
    with pytest.raises(DepthLMError, match="spatial encoder nano: has no depth map heads"):
        encoder.depth(torch.zeros(1, 3, 60, 80), 100)


def mirrored(self: SpatialEncoder, images: torch.Tensor) -> AffinePoints:
    """Points on the other side of the axis than their pixels: no camera sees them so."""
    points = torch.from_numpy(room(110, 3) * [-1, -1, 1])[None].float()
    return AffinePoints(points, torch.ones(1, HEIGHT, WIDTH), torch.tensor([1.0]))


def test_points_that_tell_no_camera(point_map: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpatialEncoder, "points", mirrored)
    with pytest.raises(DepthLMError, match="the encoder's points tell no camera") as error:
        estimate(load_encoder(point_map), np.full((HEIGHT, WIDTH, 3), 200, np.uint8))
    assert error.value.kind == "no camera"


def test_an_image_that_fails_is_named_and_the_others_go_on(
    point_map: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = SpatialEncoder.points
    monkeypatch.setattr(SpatialEncoder, "points", lambda s, x: (mirrored if x.shape[3] == WIDTH else points)(s, x))
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "d.png").write_bytes(picture())
    names = [str(tmp_path / f"{name}.png") for name in "abcd"]
    assert main(["camera", *names, "--encoder", str(point_map)]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"] for line in out.splitlines()] == [names[3]]
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in told] == names[:3]
    assert "tell no camera" in told[0] and "can't be decoded" in told[1] and "can't be read" in told[2]
    assert "0x" not in told[1]


@pytest.mark.parametrize(("words", "told"), [(["--device", "gpu"], "'gpu'"), (["--device", "meta"], "'meta'")])
def test_a_machine_that_has_no_such_device(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["camera", "a.png", "--encoder", "nano", *words]) == 2
    assert f"--device: PyTorch can't use {told} on this machine" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert main(["camera", "a.png", "--encoder", "nano", "--depth", str(tmp_path / "file" / "z")]) == 2
    assert "--depth: " in capsys.readouterr().err


def test_a_depth_map_needs_a_focal_length_and_ends_somewhere(
    small_depth_map: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, black = load_encoder(small_depth_map), np.zeros((3, 4, 3), np.uint8)
    with pytest.raises(DepthLMError, match="tells depth for a focal length that is known"):
        estimate(encoder, black)
    for focal in (0.0, -5.0, float("nan"), float("inf")):
        with pytest.raises(DepthLMError, match="positive number of pixels"):
            estimate(encoder, black, focal)
    inverse = torch.tensor([[0.25, 0.5, 1e-3, 0.0]]).repeat(3, 1)[None, None]
    monkeypatch.setattr(SpatialEncoder, "depth", lambda self, images, focal: metres(inverse, focal, (3, 4)))
    found = estimate(encoder, black, 8.0)
    assert (found.camera.fx, found.camera.fy, found.camera.cx, found.camera.cy) == (8, 8, 1.5, 1)
    np.testing.assert_allclose(found.z, [[8, 4, 0, 0]] * 3, rtol=1e-6)


def test_the_command_writes_a_depth_maps_metres(
    small_depth_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    words = ["camera", str(tmp_path / "a.png"), "--encoder", str(small_depth_map), "--depth", str(tmp_path / "z")]
    assert main(words) == 2
    assert "give the focal length" in capsys.readouterr().err
    z = []
    for focal in (100, 200):
        assert main([*words, "--focal", str(focal)]) in (0, None)
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (told["fx"], told["fy"], told["cx"], told["estimated"]) == (focal, focal, 39.5, False)
        z.append(np.load(tmp_path / "z" / "a.npy"))
    assert z[0].shape == (60, 80) and z[0].min() > 0
    np.testing.assert_allclose(z[1], 2 * z[0], rtol=1e-5)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(official.point_map_checkpoint(), tmp_path / "student_pointmap.pt")
    words = ["convert", "metric-anything", str(tmp_path / "student_pointmap.pt"), "--out", str(tmp_path / "encoder")]
    assert main([*words, "--num-tokens", "48"]) in (0, None)
    (tmp_path / "a.png").write_bytes(picture())
    words = ["camera", str(tmp_path / "a.png"), "--encoder", str(tmp_path / "encoder"), "--depth", str(tmp_path / "z")]
    assert main(words) in (0, None)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["width"], told["height"], told["estimated"]) == (80, 60, True)
    assert told["fx"] > 0 and np.load(tmp_path / "z" / "a.npy").shape == (60, 80)


def own_data(source: Path) -> Path:
    """A plain folder of two frames, without intrinsics."""
    for folder in ("rgb", "depth"):
        (source / folder).mkdir(parents=True)
    for seed, name in enumerate(("a", "b")):
        (source / "rgb" / f"{name}.png").write_bytes(picture(seed))
        np.save(source / "depth" / f"{name}.npy", np.full((60, 80), 2.0, np.float32))
    return source


def test_curation_estimates_what_is_missing_and_counts_it(
    point_map: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = own_data(tmp_path / "mine")
    loaded: list[str] = []
    monkeypatch.setattr("depthlm.spatial.estimate.load_encoder", lambda n: loaded.append(n) or load_encoder(n))
    camera_encoder.cache_clear()
    words = ["data", "curate", "plain-folder", str(source), "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "without")]) == 2
    given = ["--set", f"camera_from={point_map}"]
    assert main([*words, "--out", str(tmp_path / "all"), *given]) == 0
    noted = json.loads((tmp_path / "all" / "report.json").read_text(encoding="utf-8"))["noted"]
    assert noted == {"no intrinsics: camera estimated by encoder": 2}
    assert "2 of the frames: no intrinsics" in caplog.text

    (source / "intrinsics.json").write_text(json.dumps({"a": {"fx": 70, "fy": 70, "cx": 39.5, "cy": 29.5}}))
    assert main([*words, "--out", str(tmp_path / "one"), *given]) == 0
    noted = json.loads((tmp_path / "one" / "report.json").read_text(encoding="utf-8"))["noted"]
    assert noted == {"no intrinsics: camera estimated by encoder": 1}
    store = FrameStore(tmp_path / "one")
    cameras = {store[i].id.rpartition("/")[2]: store[i].camera for i in range(len(store))}
    assert cameras["a"].fx == 70 and cameras["b"].fx != 70
    assert loaded == [str(point_map)]  # and kept


def test_a_frame_whose_points_tell_no_camera_is_counted(
    point_map: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = own_data(tmp_path / "mine")
    (source / "rgb" / "a.png").write_bytes(encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    points = SpatialEncoder.points
    monkeypatch.setattr(SpatialEncoder, "points", lambda s, x: (mirrored if x.shape[3] == WIDTH else points)(s, x))
    report = curate(PlainFolderReader(source, camera_from=str(point_map)), tmp_path / "store")
    assert report.counts == {"no camera": 1} and FrameStore(tmp_path / "store").ids == ["b"]


def test_a_reader_sends_no_encoder_to_its_workers(point_map: Path, tmp_path: Path) -> None:
    reader = PlainFolderReader(own_data(tmp_path / "mine"), camera_from=str(point_map))
    reader.read("a")
    assert len(pickle.dumps(reader)) < 10_000


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ("none/of/this", "camera_from: none/of/this: is not a folder"),
        ("nano", "camera_from: spatial encoder nano: has no heads"),
        ("DEPTH MAP", "camera_from: spatial encoder .*: tells depth for a focal length that is known, and no camera"),
        ("''", "camera_from: model: its name is empty"),
        ("", "is not OPTION=VALUE"),
    ],
)
def test_an_encoder_that_tells_no_camera_is_told_once_before_there_is_a_store(
    encoder: str, told: str, small_depth_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = encoder.replace("DEPTH MAP", str(small_depth_map))
    words = ["data", "curate", "plain-folder", str(own_data(tmp_path / "mine")), "--out", str(tmp_path / "store")]
    try:
        assert main([*words, "--set", f"camera_from={encoder}"]) == 2
    except SystemExit as error:  # argparse's
        assert error.code == 2
    assert re.search(told, capsys.readouterr().err)
    assert not (tmp_path / "store").exists()
