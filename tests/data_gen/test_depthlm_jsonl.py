"""The reader of DepthLM's jsonl, and every way in which a row can be wrong."""

import json

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.depthlm_jsonl import DepthlmJsonlReader
from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

GOOD = {
    "image": "rgb/a.png",
    "intrinsics": [50, 60, 31.5, 23.5, 64, 48],
    "pixel_coords": [[10, 20], [50.5, 3]],
    "depth": [1.5, 20],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rgb").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    (tmp_path / "rgb" / "a.png").write_bytes(encode_png(pixels))
    return tmp_path


def write(folder, *rows):
    path = folder / "labels.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_row_becomes_a_frame(folder):
    path = write(folder, GOOD, "", GOOD | {"depth": [3, 4]})
    reader = READERS.get("depthlm-jsonl")(path, split="val", licence="CC BY 4.0")
    assert reader.keys() == ["labels.jsonl:1", "labels.jsonl:3"]
    frame = reader.read("labels.jsonl:3")
    assert frame.id == "000003-a"
    assert (frame.camera.fx, frame.camera.fy, frame.camera.cx, frame.camera.cy) == (50, 60, 31.5, 23.5)
    np.testing.assert_array_equal(frame.xy, np.float32(GOOD["pixel_coords"]))
    np.testing.assert_array_equal(frame.z, np.float32([3, 4]))
    assert (frame.dataset, frame.split, frame.licence) == ("labels", "val", "CC BY 4.0")
    assert frame.image == (folder / "rgb" / "a.png").read_bytes()


def test_distances_are_stored_as_z(folder):
    frame = DepthlmJsonlReader(write(folder, GOOD), depth_is="distance").read("labels.jsonl:1")
    x, y = (10 - 31.5) / 50, (20 - 23.5) / 60
    assert frame.z[0] == pytest.approx(1.5 / np.sqrt(x * x + y * y + 1), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"image": "rgb/none.png"}, "missing image", r"none\.png: no such image"),
        ({"image": "rgb"}, "missing image", "no such image"),
        ({"image": "../../etc/passwd"}, "path outside root", "lies outside"),
        ({"image": "/etc/passwd"}, "path outside root", "lies outside"),
        ({"image": 3}, "bad row", "3 is no path"),
        ({"intrinsics": [0, 60, 31.5, 23.5, 64, 48]}, "bad intrinsics", "fx"),
        ({"intrinsics": [float("nan"), 60, 31.5, 23.5, 64, 48]}, "bad intrinsics", "not finite"),
        ({"intrinsics": [50, -60, 31.5, 23.5, 64, 48]}, "bad intrinsics", "fy"),
        ({"intrinsics": [50, 60, 31.5, 23.5, 64.5, 48]}, "bad intrinsics", "64.5 x 48"),
        ({"intrinsics": [50, 60]}, "bad row", "shape"),
        ({"intrinsics": "50"}, "bad row", "shape"),
        ({"pixel_coords": [[10, 20], [64, 3]]}, "label outside image", r"\(64, 3\) lies outside the 64x48"),
        ({"pixel_coords": [[10, 20], [-1, 3]]}, "label outside image", r"\(-1, 3\)"),
        ({"pixel_coords": [[10, 20]]}, "bad labels", "1 pixels, depth has 2"),
        ({"depth": [1.5, 0]}, "bad labels", "positive"),
        ({"depth": [1.5, float("inf")]}, "bad labels", "finite"),
        ({"depth": [1.5, "far"]}, "bad row", "not an array of numbers"),
        ({"pixel_coords": [], "depth": []}, "no labels", "has no depth label"),
    ],
)
def test_a_wrong_row_is_skipped_with_its_line_and_reason(folder, change, kind, says):
    path = write(folder, GOOD, GOOD | change)
    with pytest.raises(DepthLMError, match=says) as caught:
        DepthlmJsonlReader(path).read("labels.jsonl:2")
    assert str(caught.value).startswith(f"{path}:2: ")
    report = curate(DepthlmJsonlReader(path), folder / "store")
    assert report.counts == {kind: 1}
    assert FrameStore(folder / "store").ids == ["000001-a"]


@pytest.mark.parametrize(
    ("line", "says"),
    [("{", "is not JSON"), ("[1]", "holds a list"), ('{"image": "a"}', "lacks intrinsics, pixel_coords, depth")],
)
def test_a_line_that_is_no_row(folder, line, says):
    with pytest.raises(DepthLMError, match=says):
        DepthlmJsonlReader(write(folder, line)).read("labels.jsonl:1")


def test_a_truncated_image_is_counted(folder):
    whole = (folder / "rgb" / "a.png").read_bytes()
    (folder / "rgb" / "cut.png").write_bytes(whole[: len(whole) // 2])
    report = curate(DepthlmJsonlReader(write(folder, GOOD, GOOD | {"image": "rgb/cut.png"})), folder / "store")
    assert report.counts == {"unreadable image": 1}
    assert "labels.jsonl:2" in report.examples["unreadable image"][0]


def test_an_image_of_another_size_than_its_camera(folder):
    report = curate(
        DepthlmJsonlReader(write(folder, GOOD, GOOD | {"intrinsics": [50, 60, 31.5, 23.5, 65, 48]})), folder / "store"
    )
    assert report.counts == {"image size differs": 1}


def test_a_link_may_not_lead_out(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "s.png"
    secret.write_bytes((folder / "rgb" / "a.png").read_bytes())
    (folder / "rgb" / "link.png").symlink_to(secret)
    with pytest.raises(DepthLMError, match="lies outside"):
        DepthlmJsonlReader(write(folder, GOOD | {"image": "rgb/link.png"})).read("labels.jsonl:1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing.jsonl"], "nothing.jsonl: no such file"),
        (["labels.jsonl", "--depth-is", "disparity"], "'disparity' is not one of z, distance"),
        (["labels.jsonl", "--image-root", "nowhere"], "nowhere: no such folder of images"),
        (["labels.jsonl", "--set", "colour=red"], "option 'colour': is none of reader depthlm-jsonl"),
    ],
)
def test_the_command_says_what_is_wrong(folder, monkeypatch, capsys, words, says):
    monkeypatch.chdir(folder)
    write(folder, GOOD)
    assert main(["data", "curate", "depthlm-jsonl", *words, "--out", "store"]) == 2
    assert says in capsys.readouterr().err
    assert not (folder / "store").exists()


def test_the_command_reports_what_it_wrote(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    write(folder, GOOD, GOOD | {"depth": [1, -1]})
    assert main(["data", "curate", "depthlm-jsonl", "labels.jsonl", "--out", "store", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "store: 1 frames; 1 skipped:" in out
    assert "labels.jsonl:2" in out


def test_an_unknown_reader_names_those_there_are(folder, capsys):
    assert main(["data", "curate", "depthlm-json", "x", "--out", str(folder / "s")]) == 2
    assert "depthlm-jsonl" in capsys.readouterr().err
