"""A suite as a Hugging Face dataset: opened offline, fetched again with the same hash, refused where it was changed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import encode_png, make_frame
from datasets import load_dataset
from hub_server import Hub, running_hub
from suites import freeze_store, stored_suite

from data_gen.dataset_card import REPOSITORY, dataset_card, hub_licence
from data_gen.freeze import Asking, Part, freeze
from data_gen.publish import fetch, publish, upload
from depthlm.errors import DepthLMError
from depthlm.frame import decode_rgb
from depthlm.store import FrameStore, write_shard
from depthlm.suite import Suite, content_hash, read_suite
from depthlm.suite_view import SuiteView

ROOT = Path(__file__).parents[2]
MIX = {"distance": 1, "two_point": 1, "camera_motion": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """`datasets` copies Parquet files; not into the cache of whoever runs the tests."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def suite(store, tmp_path) -> Suite:
    return freeze_store(store, tmp_path / "suite", 12, MIX)[0]


@pytest.fixture
def published(suite, tmp_path) -> Path:
    return publish(suite, tmp_path / "published")


def shown(suite: Suite) -> list:
    view = SuiteView(suite)
    return [(s.texts, s.system, [i.tobytes() for i in s.images]) for s in map(view.show, suite.items)]


def header(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_what_is_fetched_is_what_was_published(suite, published, tmp_path):
    again = fetch(str(published), tmp_path / "again")
    assert again.hash == suite.hash and shown(again) == shown(suite)
    for name in ("questions.jsonl", "frames/frames-000000.parquet", "frames/index.arrow"):
        assert (again.path / name).read_bytes() == (suite.path / name).read_bytes()
    assert [replace(i, image_paths=[]) for i in again.items] == [replace(i, image_paths=[]) for i in suite.items]


def test_stored_images_go_the_same_way(tmp_path):
    suite = stored_suite(tmp_path / "suite")
    folder = publish(suite, tmp_path / "published")
    again = fetch(str(folder), tmp_path / "again")
    assert again.hash == suite.hash and shown(again) == shown(suite)
    assert len(list((again.path / "images").iterdir())) == 3
    rows = load_dataset(str(folder), "images", split="test")
    asked = load_dataset(str(folder), "questions", split="test")
    assert rows.num_rows == 3 and set(asked[0]["images"]) < set(rows["path"])
    row = rows[rows["path"].index(asked[0]["images"][0])]
    assert row["image"].size == (16, 12) and row["image"].getpixel((0, 0)) == (10, 10, 10)
    assert [config["config_name"] for config in header(folder)["configs"]] == ["questions", "images"]
    assert header(folder)["license"] == "unknown"


def test_datasets_opens_the_folder_without_this_library(suite, published):
    questions = load_dataset(str(published), "questions", split="test")
    frames = load_dataset(str(published), "frames", split="test")
    assert questions.num_rows == 12 and load_dataset(str(published), split="test").num_rows == 12
    rows = {name: row for row, name in enumerate(frames["id"])}  # as the card says
    original = FrameStore(suite.path / "frames")
    for question, item in zip(questions, suite.items, strict=True):
        plain = ("id", "kind", "dataset", "question", "answer", "truth", "unit", "frame_ids")
        assert {name: question[name] for name in plain} == {name: getattr(item, name) for name in plain}
        assert [[p["x"], p["y"]] for p in question["points"]] == [p["source_xy"] for p in item.points]
        for name in question["frame_ids"]:
            image = frames[rows[name]]["image"]
            np.testing.assert_array_equal(np.asarray(image), original[original.ids.index(name)].pixels())
    assert content_hash(questions["row"], suite.settings) == suite.hash


def test_no_image_is_there_twice(store, tmp_path):
    size = sum(len(frame.image) for frame in FrameStore(store))
    suite, _ = freeze_store(store, tmp_path / "suite", 60, {"distance": 1})
    folder = publish(suite, tmp_path / "published")
    assert size < sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1.2 * size
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "README.md",
        "frames/frames-000000.parquet",
        "questions/questions-000000.parquet",
        "suite.json",
    ]


def test_shards_of_questions_and_images_are_bounded_and_keep_their_order(store, tmp_path, monkeypatch):
    monkeypatch.setattr("data_gen.publish.QUESTIONS_PER_SHARD", 5)
    monkeypatch.setattr("data_gen.publish.BYTES_PER_SHARD", 1)
    suite, _ = freeze_store(store, tmp_path / "suite", 12)
    folder = publish(suite, tmp_path / "published")
    assert len(list((folder / "questions").iterdir())) == 3
    assert load_dataset(str(folder), split="test")["id"] == [item.id for item in suite.items]
    assert fetch(str(folder), tmp_path / "again").hash == suite.hash
    stored = publish(stored_suite(tmp_path / "stored"), tmp_path / "stored published")
    assert len(list((stored / "images").iterdir())) == 3
    assert len(fetch(str(stored), tmp_path / "stored again").items) == 2


def test_the_card_says_what_the_suite_is(store, tmp_path):
    frames = [replace(make_frame("a"), licence="CC BY-NC-SA 4.0"), replace(make_frame("b"), licence="Terms | of use")]
    (tmp_path / "noted").mkdir()
    write_shard(tmp_path / "noted/frames-000000.parquet", frames)
    parts = [
        Part([store], 6, {"distance": 1}, name="wall", truth_is="z"),
        Part([tmp_path / "noted"], 4, {"distance": 1}, name="b", dataset="noted"),
    ]
    more = {"about": "Walls", "form": "as-published", "footnotes": {"wall": "depths are called distances"}}
    suite, _ = freeze(parts, tmp_path / "suite", Asking("nano", seed=7), "walls", more)
    folder = publish(suite, tmp_path / "published")
    head, text = header(folder), (folder / "README.md").read_text()
    assert head["license"] == ["cc-by-nc-sa-4.0", "other", "unknown"] and head["pretty_name"] == "walls"
    assert head["task_categories"] == ["visual-question-answering"] and head["size_categories"] == ["n<1K"]
    files = {c["config_name"]: c["data_files"][0]["path"] for c in head["configs"]}
    assert files == {"questions": "questions/*.parquet", "frames": "frames/*.parquet"}
    for words in (
        f"content hash `{suite.hash}`",
        "Form: **as-published**",
        "- wall: depths are called distances",
        "| wall | 6 | 6 |",
        "| all | 10 | 10 |",
        "seed: 7",
        "- CC BY-NC-SA 4.0: 1 frames",
        "- Terms \\| of use: 1 frames",
        "- not stated: 6 frames",
        f"depthlm data fetch {REPOSITORY} --out",
        "depthlm eval run",
    ):
        assert words in text, words


def test_names_from_data_do_not_break_the_card(suite):
    evil = replace(suite, info={**suite.info, "name": "a: b\n---\n# no"})
    card = dataset_card(evil, {"x\n# y": 1})
    assert yaml.safe_load(card.split("---\n")[1])["pretty_name"] == "a: b --- # no"
    assert [line for line in card.splitlines() if line.startswith("# ")] == ["# a: b --- # no"]


@pytest.mark.parametrize(
    ("note", "key"),
    [
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC0-1.0", "cc0-1.0"),
        ("MIT", "mit"),
        ("", "unknown"),
        ("iBims-1, TU Munich", "other"),
    ],
)
def test_licences_by_the_hub_s_keys(note, key):
    assert hub_licence(note) == key


def test_paths_of_the_machine_are_not_published(suite, tmp_path):
    info = json.loads((suite.path / "suite.json").read_text())
    info["settings"]["skipped"] = {"no video": {"count": 2, "examples": ["/home/me/secret/a.mp4: no such video"]}}
    (suite.path / "suite.json").write_text(json.dumps(info))
    folder = publish(read_suite(suite.path), tmp_path / "published")
    texts = [(folder / name).read_text() for name in ("README.md", "suite.json")]
    assert not any("secret" in text or str(tmp_path) in text for text in texts)
    assert "2 × no video" in texts[0] and json.loads(texts[1])["settings"]["skipped"]["no video"]["count"] == 2


def rewrite_questions(folder: Path, change) -> None:
    path = folder / "questions/questions-000000.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)


def rewrite_frames(folder: Path, change) -> None:
    """A shard that is whole in itself, and not the one that was published."""
    path = folder / "frames/frames-000000.parquet"
    frames = [found for frame in FrameStore(path.parent) if (found := change(frame)) is not None]
    write_shard(path, frames)


def question(change):
    def rows(found):
        row = json.loads(found[0]["row"])
        change(row)
        return [found[0] | {"row": json.dumps(row, sort_keys=True)}, *found[1:]]

    return lambda folder: rewrite_questions(folder, rows)


def frame(**change):
    def changed(found):
        return replace(found, **{name: make(found) for name, make in change.items()})

    return lambda folder: rewrite_frames(folder, changed)


def damaged(name: str, cut: int):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:cut])


def other_columns(folder: Path) -> None:
    path = folder / "frames/frames-000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(4, "fx", table["id"]), path)


def one_more(folder: Path) -> None:
    write_shard(folder / "frames/frames-000001.parquet", [make_frame("stranger")])


def nothing_known(folder: Path) -> None:
    path = folder / "frames/frames-000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(4, table.schema.field("fx"), pa.nulls(len(table), pa.float64())), path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (question(lambda row: row.update(truth=1.0)), "does not match the hash"),
        (lambda f: rewrite_questions(f, lambda rows: rows[1:]), "does not match the hash"),
        (lambda f: rewrite_questions(f, lambda rows: rows[::-1]), "does not match the hash"),
        (lambda f: rewrite_questions(f, lambda rows: [r | {"row": None} for r in rows]), "without their row"),
        (frame(z=lambda f: f.z * 2), "not one that was frozen"),
        (frame(image=lambda f: encode_png(np.zeros((240, 320, 3), np.uint8))), "not one that was frozen"),
        (lambda f: rewrite_frames(f, lambda x: None if x.id == "s0/0" else x), "has no frame s0/0"),
        (one_more, "s/stranger is not one that was frozen"),
        (other_columns, "is no shard of frames"),
        (nothing_known, "row 0 is no frame"),
        (damaged("frames/frames-000000.parquet", 5000), "can't be read"),
        (damaged("questions/questions-000000.parquet", 500), "can't be read"),
        (damaged("suite.json", 30), "is no suite"),
        (lambda f: (f / "suite.json").unlink(), "is no published suite"),
        (lambda f: shutil.rmtree(f / "questions"), "is no published suite"),
        (lambda f: shutil.rmtree(f / "frames"), "has no frames/"),
    ],
)
def test_what_was_changed_is_refused_and_leaves_nothing(published, tmp_path, change, says):
    change(published)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DepthLMError, match=says):
        fetch(str(published), tmp_path / "again")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["../../evil.png", "/tmp/evil.png", "images/../evil.png", "images/evil.png", None])
def test_an_image_cannot_say_where_it_is_written(tmp_path, name):
    folder = publish(stored_suite(tmp_path / "suite"), tmp_path / "published")
    path = folder / "images/images-000000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    pq.write_table(pa.Table.from_pylist([rows[0] | {"path": name}, *rows[1:]], schema=table.schema), path)
    with pytest.raises(DepthLMError, match="which is no image"):
        fetch(str(folder), tmp_path / "again")
    assert not [path for path in tmp_path.rglob("*evil*")] and not Path("/tmp/evil.png").exists()


def test_images_that_are_not_the_frozen_ones_or_too_many_are_refused(tmp_path):
    suite = stored_suite(tmp_path / "suite")
    grey = encode_png(np.full((12, 16, 3), 77, np.uint8))
    for number, make in enumerate(
        (
            lambda rows: [rows[0] | {"image": {"bytes": grey, "path": None}}, *rows[1:]],
            lambda rows: [*rows, {"path": f"images/{'a' * 24}.png", "image": {"bytes": grey, "path": None}}],
            lambda rows: rows[1:],
        )
    ):
        folder = publish(suite, tmp_path / f"published{number}")
        path = folder / "images/images-000000.parquet"
        table = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist(make(table.to_pylist()), schema=table.schema), path)
        with pytest.raises(DepthLMError, match=r"not the one that was frozen|no question is about|no image"):
            fetch(str(folder), tmp_path / "again")
        assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["suite.json", "frames/frames-000000.parquet", "questions/questions-000000.parquet"])
def test_links_to_outside_are_refused(published, tmp_path, name):
    outside = tmp_path / "outside"
    (published / name).rename(outside)
    (published / name).symlink_to(outside)
    with pytest.raises(DepthLMError, match="link to outside"):
        fetch(str(published), tmp_path / "again")


def test_only_what_belongs_to_a_suite_is_copied(published, tmp_path):
    for name in ("run.py", "frames/more.txt", "frames/index.arrow", "questions/x.parquet", "images.png"):
        (published / name).write_bytes(b"stranger")
    again = fetch(str(published), tmp_path / "again")
    found = sorted(str(path.relative_to(again.path)) for path in again.path.rglob("*") if path.is_file())
    assert found == ["frames/frames-000000.parquet", "frames/index.arrow", "questions.jsonl", "suite.json"]
    assert b"stranger" not in (again.path / "frames/index.arrow").read_bytes()


def test_a_damaged_suite_is_not_published_and_no_folder_overwritten(suite, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    with pytest.raises(DepthLMError, match="not empty"):
        publish(suite, tmp_path / "full")
    with pytest.raises(DepthLMError, match="not empty"):
        fetch(str(publish(suite, tmp_path / "good")), tmp_path / "full")
    rewrite_frames(suite.path, lambda f: replace(f, z=f.z * 2))
    with pytest.raises(DepthLMError, match="not one that was frozen"):
        publish(suite, tmp_path / "bad")
    assert not (tmp_path / "bad").exists() and list((tmp_path / "full").iterdir()) == [tmp_path / "full/mine"]


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../up", "me/suite name", "https://x.org/a"])
def test_a_source_that_is_neither_a_folder_nor_a_name(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DepthLMError, match="is neither a folder nor OWNER/NAME"):
        fetch(source, tmp_path / "again")
    with pytest.raises(DepthLMError, match="no published suite"):
        upload(tmp_path, "me/suite")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


def run(hub: Hub, tmp_path: Path, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    network = {**hub.environment(tmp_path / "cache"), **env, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "depthlm.cli", "data", *map(str, words)]
    return subprocess.run(command, env={**os.environ, **network}, capture_output=True, text=True)


def test_to_the_hub_and_back(hub, suite, tmp_path):
    hub.files["me/suite"] = {"frames/frames-000007.parquet": b"of an earlier suite", "notes.md": b"mine"}
    hub.private["me/suite"] = True
    words = ["publish", suite.path, "--out", tmp_path / "published", "--repo", "me/suite", "--private"]
    done = run(hub, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/datasets/me/suite" in done.stdout and not hub.strangers
    assert len(hub.commits) == 1
    files = hub.files["me/suite"]
    assert sorted(files) == [
        "README.md",
        "frames/frames-000000.parquet",  # and not the earlier one, which the card's pattern would take in
        "notes.md",
        "questions/questions-000000.parquet",
        "suite.json",
    ]
    assert b"depthlm data fetch me/suite" in files["README.md"] and REPOSITORY.encode() not in files["README.md"]
    done = run(hub, tmp_path, "fetch", "me/suite@main", "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert f"12 questions, hash {suite.hash}" in done.stdout
    again = read_suite(tmp_path / "again")
    assert shown(again) == shown(suite)
    assert not any(path.is_symlink() for path in again.path.rglob("*"))  # the hub's cache holds links


@pytest.mark.parametrize("case", ["reads only", "is public", "no hub", "offline", "not there"])
def test_what_goes_wrong_with_the_hub_is_said_in_one_line(hub, published, tmp_path, monkeypatch, case):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
    says = {
        "reads only": r"no right to write it \(HTTP 403\).*HF_TOKEN",
        "is public": "is public already",
        "no hub": "can't be reached.*HF_ENDPOINT",
        "offline": "can't be reached.*HF_HUB_OFFLINE",
        "not there": r"no right to read it \(HTTP 404\)",
    }[case]
    hub.may_write = case != "reads only"
    if case == "no hub":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    if case == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if case == "is public":
        hub.files["me/suite"] = {}
    with pytest.raises(DepthLMError, match=says) as caught:
        if case == "not there":
            fetch("me/nothing", tmp_path / "again")
        else:
            upload(published, "me/suite", private=True)
    assert "\n" not in str(caught.value) and "hf_not_a" not in str(caught.value)
    assert not hub.commits and not (tmp_path / "again").exists()
    if case in ("no hub", "offline"):
        with pytest.raises(DepthLMError, match="can't be reached"):
            fetch("me/suite", tmp_path / "again")


def test_the_shown_images_are_the_originals(suite, published):
    """Nothing is encoded again on the way: the frames' bytes are those of the dataset."""
    table = pq.read_table(published / "frames/frames-000000.parquet")
    images = {row["id"]: row["image"]["bytes"] for row in table.select(["id", "image"]).to_pylist()}
    original = FrameStore(suite.path.parent / "store")
    assert images == {frame.id: frame.image for frame in original if frame.id in images}
    assert decode_rgb(next(iter(images.values())), "x").shape == (240, 320, 3)
