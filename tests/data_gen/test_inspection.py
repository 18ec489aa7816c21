"""Inspection: pictures and a page per dataset, true counts, texts of the data escaped, edges where depth jumps."""

import base64
import io
import json
import re

import numpy as np
import pytest
from conftest import encode_png, make_frame
from PIL import Image

from data_gen.contact_sheet import depth_edges
from data_gen.curate import curate
from data_gen.inspection import inspect_stores
from depthlm.camera import Camera
from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

HOSTILE = "<script>alert(1)</script>"


class Mixed:
    """Two datasets: a walk of six posed frames 0.5 m apart, and two without poses, one of them with a bad name."""

    name = "mixed"

    def keys(self):
        return [*(f"walk-{i}" for i in range(6)), "loose-0", f"bad {HOSTILE}", "loose-1"]

    def settings(self):
        return {}

    def read(self, key):
        if key.startswith("bad"):
            raise DepthLMError(key, f"is {HOSTILE}", kind="bad <b>thing</b>")
        kind, _, number = key.partition("-")
        frame = make_frame(key, kind, 0.5 * int(number), dense=kind == "walk")
        camera = frame.camera
        if kind == "loose":
            camera = Camera.from_fov(320, 240, 90, distortion=(0.1, 0, 0, 0))
        dataset = "walks" if kind == "walk" else HOSTILE
        dropped = {"hidden": 3} if kind == "walk" else {}
        return Frame(
            key, frame.image, camera, frame.xy, frame.z, kind, dataset, depth=frame.depth, dropped=dropped, split=kind
        )


@pytest.fixture
def store(tmp_path):
    curate(Mixed(), tmp_path / "store", frames_per_shard=4)
    return tmp_path / "store"


def test_each_dataset_has_its_pictures_and_its_counts(store, tmp_path):
    files, words = inspect_stores([store], tmp_path / "out", count=3)
    names = sorted(path.name for path in files)
    assert names == [
        "1_script_alert_1_script__frames.png",
        "1_script_alert_1_script__statistics.png",
        "index.html",
        "walks_frames.png",
        "walks_statistics.png",
    ]
    for path in files:
        if path.suffix == ".png":
            assert Image.open(path).size[0] > 500
    assert "frames: 6 of 1 scenes, split walk" in words
    assert "poses: 100% of the frames; median 0.50 m between neighbouring frames" in words
    assert "poses: 0% of the frames; no two poses in a scene" in words
    assert "horizontal field of view: 90.0° to 90.0°" in words
    assert "lens distortion: 100% of the frames" in words and "lens distortion: 0% of the frames" in words
    assert "z: 1% below 4.00 m, median 4.00 m" in words
    assert "1 × bad <b>thing</b>" in words and "labels dropped: 18 hidden" in words


def test_the_page_needs_nothing_else_and_trusts_no_text(store, tmp_path):
    inspect_stores([store], tmp_path / "out", count=3)
    text = (tmp_path / "out/index.html").read_text()
    assert "<script" not in text and "<b>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "bad &lt;b&gt;thing&lt;/b&gt;" in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    pictures = [source.partition(",")[2] for source in sources if source.startswith("data")]
    assert len(pictures) == 4
    inside = Image.open(io.BytesIO(base64.b64decode(pictures[-2])))
    assert inside.size == Image.open(tmp_path / "out/walks_frames.png").size
    assert "1 of 9 frames skipped" in text and ">18<" in text


def test_several_stores_of_one_dataset_make_one_section(store, tmp_path):
    curate(Mixed(), tmp_path / "other", limit=3)
    _, words = inspect_stores([store, tmp_path / "other"], tmp_path / "out", count=2)
    assert "frames: 9 of 2 scenes, split walk" in words
    assert "curation of store:" in words and "curation of other: nothing skipped" in words


def test_edges_of_depth_lie_on_the_near_side_and_bridge_gaps():
    depth = np.full((60, 300), 4.0, np.float32)
    depth[:, :100] = 2.0  # near on the left
    depth[:, 100:102] = 0  # a gap, as sensors leave
    edges = depth_edges(depth)
    assert edges[30, 99] and not edges[30, 90] and not edges[30, 110] and not edges[30, 200]
    slope = np.linspace(2, 6, 300, dtype=np.float32)[None].repeat(60, axis=0)
    assert not depth_edges(slope).any()
    holes = slope.copy()
    holes[::7] = 0
    assert not depth_edges(holes).any(), "unknown depth alone is no edge"


def test_a_store_of_floats_and_one_label(tmp_path):
    """The least there can be: one frame, one label, no scene to move in."""
    image = encode_png(np.zeros((24, 32, 3), np.uint8))

    class One(Mixed):
        def keys(self):
            return ["a"]

        def read(self, key):
            return Frame("a", image, Camera.from_fov(32, 24, 60), [[3, 4]], [2.0], "s", "one")

    curate(One(), tmp_path / "store")
    _, words = inspect_stores([tmp_path / "store"], tmp_path / "out")
    assert "frames: 1 of 1 scenes" in words


def test_the_command(store, tmp_path, capsys):
    assert main(["data", "inspect", str(store), "--out", str(tmp_path / "out"), "--count", "2"]) == 0
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'out' / 'index.html'}" in said and "walks:" in said
    assert main(["data", "inspect", str(store), "--out", str(tmp_path / "out"), "--count", "0"]) == 2
    assert main(["data", "inspect", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    (store / "report.json").write_text(json.dumps({"keys": 3}))
    assert main(["data", "inspect", str(store), "--out", str(tmp_path / "out")]) == 2
    assert "report.json: is damaged" in capsys.readouterr().err
