"""Samples depend on (seed, epoch, index) alone; bad frames are counted; a suite is frozen by its content."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import make_frame
from suites import freeze_store
from torch.utils.data import DataLoader

from depthlm.dataset import DataConfig, SampleDataset
from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.store import FrameStore, write_shard
from depthlm.suite import content_hash, read_suite
from depthlm.suite_view import SuiteView


def config(store, **kw):
    return DataConfig(stores=[str(store)], profile="nano", points_per_image=3, seed=5, **kw)


def fingerprint(sample):
    return [t.question + t.answer for t in sample.turns], [i.tobytes() for i in sample.images]


def test_same_samples_for_any_number_of_workers(store):
    dataset = SampleDataset(config(store), 18)
    alone = [fingerprint(dataset[i]) for i in range(len(dataset))]
    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=lambda b: fingerprint(b[0]))
    assert list(loader) == alone
    again = SampleDataset(config(store), 18)
    assert fingerprint(again[17]) == alone[17]  # in any order


def test_epochs_and_seeds_differ_and_cover_all_frames(store):
    dataset = SampleDataset(config(store, mix={"distance": 1.0}), 12)
    assert {dataset[i].frame_ids[0] for i in range(6)} == set(dataset.stores[0].ids)
    assert fingerprint(dataset[0]) != fingerprint(dataset[6])


def test_camera_motion_is_asked(store):
    dataset = SampleDataset(config(store, mix={"camera_motion": 1.0}), 6)
    for i in range(6):
        sample = dataset[i]
        assert len(sample.images) == 2 and sample.turns[0].truth == pytest.approx(1.5)


def test_frames_without_a_second_view_are_counted_and_told(tmp_path, caplog):
    write_shard(tmp_path / "frames-000000.parquet", [make_frame(f"{i}", f"s{i}") for i in range(3)])
    dataset = SampleDataset(config(tmp_path, mix={"camera_motion": 1.0, "distance": 1.0}), 60)
    assert all(len(dataset[i].images) == 1 for i in range(60))
    assert dataset.skipped.counts["no pair"] > 20
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("20 frames drawn for a question about two images, and none has a second view")


def test_bad_frame_is_replaced_counted_and_told(tmp_path, caplog):
    good, bad = make_frame("good"), make_frame("bad")
    broken = Frame(bad.id, bad.image[:2000], bad.camera, bad.xy, bad.z, bad.scene, bad.dataset)
    write_shard(tmp_path / "frames-000000.parquet", [good, broken])
    dataset = SampleDataset(config(tmp_path, mix={"distance": 1.0}), 2)
    assert {dataset[i].frame_ids[0] for i in range(2)} == {good.id}
    assert dataset.skipped.counts["unreadable image"] >= 1
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told[0].startswith("frame s/bad: ") and told[0].endswith("drawn instead; so far 1 in this process")
    for _ in range(30):
        dataset._tell(DepthLMError("frame bad", "unreadable", kind="unreadable image"))
        dataset.skipped.count("unreadable image", "")
    assert len(caplog.records) <= 5
    before = len(caplog.records)
    dataset.skipped.counts.clear()
    dataset._tell(DepthLMError("frame good", "no room", kind="no usable point"))
    assert len(caplog.records) == before


@pytest.mark.parametrize(
    ("kw", "says"),
    [
        ({"mix": {"distanse": 1.0}}, "distance"),
        ({"mix": {"distance": -1.0}}, "non-negative"),
        ({"intrinsics": "telepathy"}, "telepathy"),
        ({"pointing": "finger"}, "finger"),
        ({"sampling": "luck"}, "luck"),
        ({"weights": [0.5, 0.5]}, "2 weights for 1"),
    ],
)
def test_wrong_settings(store, kw, says):
    with pytest.raises(DepthLMError, match=says):
        SampleDataset(config(store, **kw), 4)


def test_every_image_or_every_labelled_pixel_equally_often(tmp_path):
    many, few, dense = make_frame("many"), make_frame("few"), make_frame("dense", dense=True)
    few = replace(few, xy=few.xy[:10], z=few.z[:10])
    write_shard(tmp_path / "frames-000000.parquet", [many, few, dense])
    size = dense.camera.width * dense.camera.height
    assert FrameStore(tmp_path).label_counts.tolist() == [len(many.z), 10, size]
    write_shard(tmp_path / "frames-000000.parquet", [many, few])
    mix, drawn = {"distance": 1.0}, {}
    for sampling in ("image", "pixel"):
        dataset = SampleDataset(config(tmp_path, mix=mix, sampling=sampling), 2000, epoch_length=2000)
        frames = [dataset._planned(0, slot)[1] for slot in range(2000)]
        drawn[sampling] = frames.count(1) / 2000
    assert drawn["image"] == 0.5
    assert drawn["pixel"] == pytest.approx(10 / (10 + len(many.z)), abs=0.02)


def test_a_kind_is_asked_the_same_whatever_else_is_asked(store, tmp_path):
    both, _ = freeze_store(store, tmp_path / "both", 12, mix={"speed": 1.0, "distance": 1.0})
    one, _ = freeze_store(store, tmp_path / "one", 6, mix={"distance": 1.0})
    told, _ = freeze_store(store, tmp_path / "told", 6, mix={"distance": 1.0}, pointing="coordinates")
    assert [i.points for i in both.items if i.kind == "distance"] == [i.points for i in one.items]
    assert [i.points for i in told.items] == [i.points for i in one.items]
    assert told.info["settings"]["pointing"] == "coordinates" and "pixel (" in told.items[0].question


def test_wrong_shares_and_doubled_ids_are_refused(store, tmp_path):
    with pytest.raises(DepthLMError, match="mix"):
        freeze_store(store, tmp_path / "minus", 6, mix={"distance": 1.0, "speed": -1.0})
    freeze_store(store, tmp_path / "s", 2, mix={"distance": 1.0})
    rows = [json.loads(line) for line in (tmp_path / "s" / "questions.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"id": "same"}, sort_keys=True) for row in rows]
    (tmp_path / "s" / "questions.jsonl").write_text("\n".join(lines) + "\n")
    info = json.loads((tmp_path / "s" / "suite.json").read_text())
    info["hash"] = content_hash(lines, info["settings"])
    (tmp_path / "s" / "suite.json").write_text(json.dumps(info))
    with pytest.raises(DepthLMError, match="same id"):
        read_suite(tmp_path / "s")


def test_suite_round_trip_and_hash(store, tmp_path):
    suite, report = freeze_store(store, tmp_path / "one", 60, seed=3)
    same, _ = freeze_store(store, tmp_path / "two", 60, seed=3)
    other, _ = freeze_store(store, tmp_path / "three", 60, seed=4)
    assert suite.hash == same.hash != other.hash
    assert len(suite.items) == 60 - report.counts["too few labels"]
    asked = [(i.kind, i.frame_ids[0], json.dumps([p["source_xy"] for p in i.points])) for i in suite.items if i.points]
    assert len(asked) == len(set(asked))
    for item in suite.items:
        if item.kind == "distance":
            camera, point = SuiteView(suite).frames(item)[0].camera, item.points[0]
            x, y = (np.array(point["source_xy"]) - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
            assert item.truth == pytest.approx(point["z"] * np.sqrt(x * x + y * y + 1), rel=1e-12)


def test_a_changed_suite_is_refused(store, tmp_path):
    freeze_store(store, tmp_path / "s", 6)
    rows = (tmp_path / "s" / "questions.jsonl").read_text()
    (tmp_path / "s" / "questions.jsonl").write_text(rows.replace('"truth": ', '"truth": 1'))
    with pytest.raises(DepthLMError, match="does not match the hash"):
        read_suite(tmp_path / "s")


def test_a_suite_cannot_name_images_outside(store, tmp_path):
    from depthlm.suite import content_hash

    freeze_store(store, tmp_path / "s", 6)
    path = tmp_path / "s"
    lines = (path / "questions.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    row["images"] = ["../../secret.png"]
    lines[0] = json.dumps(row, sort_keys=True)
    (path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    info = json.loads((path / "suite.json").read_text())
    info["hash"] = content_hash(lines, info["settings"])
    (path / "suite.json").write_text(json.dumps(info))
    with pytest.raises(DepthLMError, match="no image"):
        read_suite(path)


def test_a_suite_is_never_overwritten(store, tmp_path):
    freeze_store(store, tmp_path / "s", 6)
    with pytest.raises(DepthLMError, match="not empty"):
        freeze_store(store, tmp_path / "s", 6)


def test_samples_of_one_image_share_its_decoding_but_not_their_points(store, monkeypatch):
    decoded = []
    pixels = Frame.pixels
    monkeypatch.setattr(Frame, "pixels", lambda self, checked: decoded.append(self.id) or pixels(self, checked))
    config = DataConfig([str(store)], mix={"distance": 1}, profile="nano", samples_per_image=4, seed=3)
    samples = SampleDataset(config, 24)
    assert samples.epoch_length == 24
    made = [samples[i] for i in range(24)]
    ids = [s.frame_ids[0] for s in made]
    assert {ids.count(name) for name in set(ids)} == {4}
    assert len(decoded) == 6
    assert any(a != b for a, b in pairwise(ids)), "one image's samples are not side by side"
    points = [(s.frame_ids[0], *s.turns[0].points[0]["source_xy"]) for s in made]
    assert len(set(points)) > 18
    backwards = SampleDataset(config, 24)
    for i in reversed(range(24)):
        np.testing.assert_array_equal(backwards[i].images[0], made[i].images[0])
        assert backwards[i].turns == made[i].turns
