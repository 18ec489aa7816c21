"""Which labels a suite asks about: evenly, none twice, the same ones for a seed, and none that a profile can't ask."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_frame
from suites import freeze_store

from data_gen.freeze import Asking, Part, freeze
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore, write_shard
from depthlm.suite import BYTES_PER_SHARD, SuiteWriter, content_hash, read_suite
from depthlm.suite_view import SuiteView

DISTANCE = {"distance": 1.0}
NANO = Asking("nano")


def write_store(path: Path, frames) -> Path:
    path.mkdir()
    write_shard(path / "frames-000000.parquet", frames)
    return path


def per_frame(suite, kind="distance") -> list[int]:
    return sorted(Counter(item.frame_ids[0] for item in suite.items if item.kind == kind).values())


@pytest.mark.parametrize(
    ("count", "per_image", "expected"),
    [
        (6, None, [1] * 6),
        (8, None, [1, 1, 1, 1, 2, 2]),  # no frame is left out for another's second question
        (7, None, [1, 1, 1, 1, 1, 2]),
        (6, 3, [3, 3]),
        (7, 3, [1, 3, 3]),
        (18, 3, [3] * 6),
        (20, 3, [3, 3, 3, 3, 4, 4]),  # six frames don't suffice: on with them, evenly
        (36, 3, [6] * 6),
    ],
)
def test_questions_are_spread_as_asked(store, tmp_path, count, per_image, expected):
    suite, _ = freeze([Part([store], count, DISTANCE, per_image=per_image)], tmp_path / "s", NANO)
    assert per_frame(suite) == expected


def test_a_kind_that_runs_out_of_labels_is_counted(tmp_path):
    few = replace(make_frame("few"), xy=make_frame().xy[:3], z=make_frame().z[:3])
    store = write_store(tmp_path / "store", [make_frame("many"), few])
    suite, report = freeze([Part([store], 20, DISTANCE)], tmp_path / "s", NANO)
    assert per_frame(suite) == [3, 17] and report.total == 0
    suite, report = freeze_store(store, tmp_path / "t", 60, DISTANCE)
    assert len(suite.items) + report.counts["too few labels"] == 60
    assert suite.settings["skipped"]["too few labels"]["count"] == report.counts["too few labels"] == 17


def test_a_pair_is_asked_about_once(store, tmp_path):
    suite, report = freeze_store(store, tmp_path / "s", 9, {"camera_motion": 1})
    assert per_frame(suite, "camera_motion") == [1] * 6 and report.counts["too few labels"] == 3
    assert all(len(item.frame_ids) == 2 and not item.labels for item in suite.items)
    view = SuiteView(suite)
    assert all(len(frame.z) == 1 for frame in view.frames(suite.items[0]))  # a frame needs one, asked or not
    assert len(view.show(suite.items[0]).images) == 2


def test_no_label_of_a_frame_is_asked_twice_by_a_kind(store, tmp_path):
    suite, _ = freeze_store(store, tmp_path / "s", 120, {"distance": 1, "two_point": 1})
    asked = Counter((i.kind, i.frame_ids[0], *p["source_xy"]) for i in suite.items for p in i.points)
    assert asked.most_common(1)[0][1] == 1 and len(asked) > 150


def wide_store(path: Path) -> Path:
    """Two posed views of 110 degrees: at a longer focal length, labels at the sides are outside the image."""
    frames = [make_frame(name, offset_m=offset, labels=400) for name, offset in (("a", 0.0), ("b", 1.5))]
    wide = [Camera.from_fov(320, 240, 110, pose=frame.camera.pose) for frame in frames]
    return write_store(path, [replace(f, camera=camera) for f, camera in zip(frames, wide, strict=True)])


def test_every_profile_can_ask_every_question(tmp_path):
    store, names = wide_store(tmp_path / "store"), ["pixtral", "general", "qwen3-vl"]
    mix = {"distance": 1, "two_point": 1}
    alone, _ = freeze_store(store, tmp_path / "alone", 200, mix)
    suite, skipped = freeze_store(store, tmp_path / "s", 200, mix, also=names)
    assert len(suite.items) == len(alone.items) == 200
    assert skipped.counts["no usable point"] > 20
    for name in ("nano", *names):
        view = SuiteView(suite, name)
        for item in suite.items:
            assert len(view.show(item).texts) == 1
    view = SuiteView(alone, "pixtral")
    with pytest.raises(DepthLMError, match="no room for"):
        for item in alone.items:
            view.show(item)


def test_the_profile_that_rows_are_written_in_does_not_choose_the_questions(tmp_path):
    store = wide_store(tmp_path / "store")
    own, skipped = freeze_store(store, tmp_path / "a", 30, profile="nano", also=["pixtral"])
    other, _ = freeze_store(store, tmp_path / "b", 30, profile="pixtral", also=["nano"])
    assert skipped.counts["no usable point"] > 3
    assert [replace(i, image_paths=[]) for i in own.items] == [replace(i, image_paths=[]) for i in other.items]
    assert own.settings["profile"] != other.settings["profile"] and own.hash != other.hash


def test_dense_depth_is_kept_when_asked_for(store, tmp_path):
    for dense in (False, True):
        suite, _ = freeze_store(store, tmp_path / f"{dense}", 6, DISTANCE, dense=dense)
        frame = SuiteView(suite).frames(suite.items[0])[0]
        assert (frame.depth is not None) == dense and len(frame.z) == 1
        if dense:
            assert (frame.depth == 4).all()


def test_the_same_seed_gives_the_same_suite(store, tmp_path):
    parts = [Part([store], 12, name="a"), Part([store], 12, DISTANCE, name="b", per_image=2)]
    hashes = [freeze(parts, tmp_path / f"{i}", Asking("nano", seed=s))[0].hash for i, s in enumerate((5, 5, 6))]
    assert hashes[0] == hashes[1] != hashes[2]
    shards = [(tmp_path / f"{i}/frames/frames-000000.parquet").read_bytes() for i in range(2)]
    assert shards[0] == shards[1]


def test_parts_have_names_and_count_as_their_dataset(store, tmp_path):
    parts = [Part([store], 3, DISTANCE, name="a", dataset="A"), Part([store], 3, DISTANCE, name="b", dataset="B")]
    suite, _ = freeze(parts, tmp_path / "s", NANO)
    assert Counter(item.dataset for item in suite.items) == {"A": 3, "B": 3}
    assert all(item.id.startswith(item.frame_ids[0][0]) for item in suite.items)
    frames = FrameStore(suite.path / "frames")
    assert {(name[0], frame.dataset) for name, frame in zip(frames.ids, frames, strict=True)} == {
        ("a", "A"),
        ("b", "B"),
    }
    for names in (("", "b"), ("a", "a"), ("a", "b/c"), ("a", "..")):
        with pytest.raises(DepthLMError, match="name"):
            freeze([replace(p, name=n) for p, n in zip(parts, names, strict=True)], tmp_path / "bad", NANO)


def test_stores_with_the_same_frame_ids_stay_apart(tmp_path):
    near, far = make_frame("x"), replace(make_frame("x"), z=np.full(40, 8.0, np.float32))
    (tmp_path / "else").mkdir()
    stores = [write_store(tmp_path / "my store", [near]), write_store(tmp_path / "else/my store", [far])]
    suite, _ = freeze([Part(stores, 10, DISTANCE)], tmp_path / "s", NANO)
    view = SuiteView(suite)
    assert Counter(item.frame_ids[0] for item in suite.items) == {"my-store/0/s/x": 5, "my-store/1/s/x": 5}
    for item in suite.items:
        z = 4 if "/0/" in item.frame_ids[0] else 8
        assert item.points[0]["z"] == z == view.frames(item)[0].z[0]


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ({"truth_is": "z"}, lambda p: p["z"]),
        ({"scale": 0.8}, lambda p: p["distance"] * 0.8),
        ({"truth_is": "z", "scale": 0.8}, lambda p: p["z"] * 0.8),
    ],
)
def test_published_truths(store, tmp_path, published, expected):
    true, _ = freeze([Part([store], 12, DISTANCE)], tmp_path / "true", NANO)
    other, _ = freeze([Part([store], 12, DISTANCE, **published)], tmp_path / "other", NANO)
    for a, b in zip(true.items, other.items, strict=True):
        assert (a.id, a.question, a.points, a.labels) == (b.id, b.question, b.points, b.labels)
        assert a.truth == pytest.approx(a.points[0]["distance"], rel=1e-12)
        assert b.truth == pytest.approx(expected(b.points[0]), rel=1e-12) and b.answer == f"{b.truth:.2f}"
    assert true.hash != other.hash
    with pytest.raises(DepthLMError, match="distances alone"):
        freeze([Part([store], 12, {"distance": 1, "speed": 1}, **published)], tmp_path / "bad", NANO)


@pytest.mark.parametrize(
    ("part", "asking", "says"),
    [
        ({"count": 0}, {}, "count: is 0"),
        ({"per_image": 0}, {}, "per_image: is 0"),
        ({"mix": {"distanse": 1}}, {}, "distance"),
        ({"mix": {"distance": 0}}, {}, "positive sum"),
        ({"truth_is": "depth"}, {}, "truth_is"),
        ({"scale": -1.0}, {}, "scale"),
        ({}, {"seed": -1}, "seed: is -1"),
        ({}, {"profile": "nanno"}, "nano"),
        ({}, {"also": ["nanno"]}, "nano"),
        ({}, {"intrinsics": "telepathy"}, "telepathy"),
        ({}, {"pointing": "finger"}, "finger"),
        ({}, {"pair_overlap": [0.3]}, "pair_overlap"),
        ({}, {"pair_overlap": [0.8, 0.3]}, "leaves no pair"),
    ],
)
def test_settings_that_cannot_be(store, tmp_path, part, asking, says):
    with pytest.raises(DepthLMError, match=says):
        freeze([Part(**{"stores": [store], "count": 6, "mix": DISTANCE} | part)], tmp_path / "s", Asking(**asking))
    assert not (tmp_path / "s").exists()


def test_a_store_given_twice_is_refused(store, tmp_path):
    with pytest.raises(DepthLMError, match="given twice"):
        freeze([Part([store, store.parent / "." / "store"], 6)], tmp_path / "s", NANO)


def test_a_suite_that_was_not_finished_is_told_from_another_folder(store, tmp_path, monkeypatch):
    monkeypatch.setattr(SuiteWriter, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        freeze_store(store, tmp_path / "s", 6)
    monkeypatch.undo()
    with pytest.raises(DepthLMError, match="no suite"):
        read_suite(tmp_path / "s")
    with pytest.raises(DepthLMError, match="not finished, delete it"):
        freeze_store(store, tmp_path / "s", 6)


def test_shards_are_bounded_in_bytes(store, tmp_path, monkeypatch):
    size = len(FrameStore(store)[0].image)
    monkeypatch.setattr("depthlm.suite.BYTES_PER_SHARD", 2 * size)
    suite, _ = freeze_store(store, tmp_path / "s", 6, DISTANCE)
    assert 2 * size < BYTES_PER_SHARD and len(list((suite.path / "frames").glob("*.parquet"))) == 3
    view = SuiteView(suite)
    assert all(view.show(item).texts for item in suite.items)


@pytest.mark.parametrize(
    "change",
    [
        {"truth": "far"},
        {"truth": float("inf")},
        {"truth": True},
        {"truth": 10**400},
        {"labels": ["0"]},
        {"labels": [0.0]},
        {"frame_ids": "s0/0"},
        {"images": [5]},
        {"points": [[1, 2]]},
        {"question": None},
        {"image_paths": ["/etc/passwd"]},
        {"truth": 0},
        {"truth": -1.5},
        {"frame_ids": [], "frame_hashes": []},
        {"points": [{"colour": "red", "source_xy": [1, 2]}]},
        {"points": [{"colour": "red", "source_xy": [1, 2], "z": "near"}]},
        {"points": [{"colour": "red", "source_xy": [1], "z": 1.0}]},
        {"points": [{"colour": "red", "z": 1.0}]},
        {"camera": {"fov_deg": 5}},
        {"camera": {"fov_deg": []}},
        {"camera": {"fov_deg": [0]}},
        {"camera": {"width": "wide", "height": 2}},
    ],
)
def test_rows_of_other_types_are_refused(store, tmp_path, change):
    """A suite may come from anywhere, and a hash that fits says only that it is whole."""
    path = freeze_store(store, tmp_path / "s", 2, DISTANCE)[0].path
    rewrite(path, change)
    with pytest.raises(DepthLMError, match="line 1: bad row"):
        read_suite(path)


def rewrite(path: Path, row_change, **settings) -> None:
    """Change each row and the settings of a suite, under a hash that fits."""
    rows = [json.loads(line) for line in (path / "questions.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | row_change) for row in rows]
    (path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    info = json.loads((path / "suite.json").read_text())
    info["settings"] |= settings
    (path / "suite.json").write_text(json.dumps(info | {"hash": content_hash(lines, info["settings"])}))


@pytest.mark.parametrize(
    "settings",
    [
        {"profile": ["x"]},
        {"intrinsics": ["x"]},
        {"pointing": {}},
        {"form": 1},
        {"protocol": ["vsi-bench"]},
        {"footnotes": ["x"]},
        {"parts": {"name": "x"}},
        {"parts": ["x"]},
    ],
)
def test_settings_of_other_types_are_refused(store, tmp_path, settings):
    path = freeze_store(store, tmp_path / "s", 2, DISTANCE)[0].path
    rewrite(path, {}, **settings)
    with pytest.raises(DepthLMError, match=f"suite.json: {next(iter(settings))} is"):
        read_suite(path)


def test_a_truth_may_be_0_in_vsi_bench_s_protocol(store, tmp_path):
    path = freeze_store(store, tmp_path / "s", 2, DISTANCE)[0].path
    rewrite(path, {"truth": 0}, protocol="vsi-bench")
    assert read_suite(path).items[0].truth == 0


def edited_part(settings, **change):
    return settings | {"parts": [part | change for part in settings["parts"]]}


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s | {"form": "as-published"},
        lambda s: s | {"protocol": "vsi-bench"},
        lambda s: s | {"footnotes": {"wall": "so"}},
        lambda s: s | {"profile": "general"},
        lambda s: s | {"intrinsics": "none"},
        lambda s: edited_part(s, truth_is="z"),
        lambda s: edited_part(s, scale=0.8),
    ],
)
def test_settings_are_under_the_hash(store, tmp_path, edit):
    """What decides how a suite is asked, scored or compared can't be edited freely."""
    path = freeze_store(store, tmp_path / "s", 2, DISTANCE)[0].path
    info = json.loads((path / "suite.json").read_text())
    (path / "suite.json").write_text(json.dumps(info | {"settings": edit(info["settings"])}))
    with pytest.raises(DepthLMError, match="does not match the hash"):
        read_suite(path)


def test_what_was_skipped_and_a_store_s_folder_are_not_under_the_hash(store, tmp_path):
    path = freeze_store(store, tmp_path / "s", 2, DISTANCE)[0].path
    info = json.loads((path / "suite.json").read_text())
    edited = edited_part(info["settings"], stores=["elsewhere"]) | {"skipped": {}}
    (path / "suite.json").write_text(json.dumps(info | {"settings": edited}))
    assert len(read_suite(path).items) == 2
