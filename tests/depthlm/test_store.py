"""The frame store: what is written comes back, `datasets` reads it alone, and damage is named."""

import io
import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_frame
from datasets import load_dataset
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.store import SCHEMA, FrameStore, decode_depth, encode_depth, replace_file, write_shard
from depthlm.store_index import INDEX_FILE, index_bytes


def write(folder, *groups):
    folder.mkdir()
    for number, frames in enumerate(groups):
        write_shard(folder / f"frames-{number:06d}.parquet", frames)
    return folder


def odd_frame() -> Frame:
    """Every field set, every number one that a careless conversion would change."""
    plain = make_frame("odd", dense=True)
    pose = np.eye(4)
    pose[:3, 3] = 1 / 3, -2e6, 1e-9
    camera = Camera(320, 240, 228.1 / 7, 1e3 / 3, 159.3, 119.7, (0.1, -0.02, 1e-3, -1e-3, 1e-4), pose=pose)
    return Frame(
        id="a.b/c_1-2",
        image=plain.image,
        camera=camera,
        xy=plain.xy + np.float32(0.25),
        z=np.linspace(0.1, 199.9, len(plain.z), dtype=np.float32),
        scene="scène",
        dataset="d",
        split="val",
        licence="CC BY 4.0",
        timestamp=1_234_567_890.123456,
        depth=np.random.default_rng(0).uniform(0, 80, (240, 320)).astype(np.float32),
    )


def test_every_field_comes_back_bit_for_bit(tmp_path):
    wrote = odd_frame()
    (read,) = FrameStore(write(tmp_path / "store", [wrote]))
    for name in ("id", "image", "scene", "dataset", "split", "licence", "timestamp"):
        assert getattr(read, name) == getattr(wrote, name)
    for name in ("width", "height", "fx", "fy", "cx", "cy", "distortion"):
        assert getattr(read.camera, name) == getattr(wrote.camera, name)
    np.testing.assert_array_equal(read.camera.pose, wrote.camera.pose)
    for name in ("xy", "z", "depth"):
        np.testing.assert_array_equal(getattr(read, name), getattr(wrote, name))


def test_absent_fields_stay_absent(tmp_path):
    plain = make_frame()
    bare = Frame(plain.id, plain.image, Camera.from_fov(320, 240, 70), plain.xy, plain.z, "s", "d")
    (read,) = FrameStore(write(tmp_path / "store", [bare]))
    assert read.depth is None
    assert read.camera.pose is None
    assert read.timestamp is None


def test_datasets_reads_a_store_without_this_code(tmp_path):
    frame = make_frame(dense=True)
    folder = write(tmp_path / "store", [frame, make_frame("b")])
    rows = load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", cache_dir=tmp_path / "cache")
    assert rows[0]["image"].size == (320, 240)
    np.testing.assert_array_equal(np.asarray(rows[0]["image"]), frame.pixels())
    metres = np.asarray(rows[0]["depth"]) * rows[0]["depth_unit"]
    np.testing.assert_array_equal(metres.astype(np.float32), frame.depth)
    assert rows[0]["fx"] == frame.camera.fx
    assert rows[0]["label_z"] == frame.z.tolist()
    assert rows[1]["depth"] is None


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_any_frame_in_any_order_over_shards_and_groups(tmp_path, order):
    frames = [make_frame(f"{i}", f"s{i // 5}", labels=i + 1) for i in range(50)]
    store = FrameStore(write(tmp_path / "store", frames[:37], frames[37:]))
    assert len(store) == 50
    assert store.ids == [frame.id for frame in frames]
    assert store.scenes["s7"].tolist() == [35, 36, 37, 38, 39]
    indices = {"forward": range(50), "backward": range(-1, -51, -1), "random": np.random.default_rng(0).permutation(50)}
    for i in indices[order]:
        assert store[i].id == frames[i].id
        assert len(store[i].z) == i % 50 + 1
    with pytest.raises(IndexError):
        store[50]


def test_a_store_goes_to_other_processes(tmp_path):
    store = FrameStore(write(tmp_path / "store", [make_frame()]))
    assert store[0].id == pickle.loads(pickle.dumps(store))[0].id


def test_large_images_get_small_row_groups(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    xy, z = np.array([[5, 5]], np.float32), np.array([1], np.float32)
    camera = Camera.from_fov(1000, 1000, 60)
    frames = [Frame(f"{i}", buffer.getvalue(), camera, xy, z, "s", "d") for i in range(3)]
    folder = write(tmp_path / "store", frames)
    assert pq.ParquetFile(folder / "frames-000000.parquet").metadata.num_row_groups == 3


def test_sixteen_bit_depth_times_its_unit():
    counts = np.array([[0, 1, 65535]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(counts).save(buffer, "PNG")
    read = decode_depth(buffer.getvalue(), 0.001, "here")
    np.testing.assert_array_equal(read, (counts * 0.001).astype(np.float32))
    metres = np.array([[0, 0.1, 1e3]], np.float32)
    np.testing.assert_array_equal(decode_depth(*encode_depth(metres), "here"), metres)


@pytest.mark.parametrize("per_metre", [1000, 256, 512, 4000, 5000, 8000, 100])
def test_depth_of_a_usual_unit_is_stored_in_its_counts_and_exactly_so(per_metre):
    counts = np.random.default_rng(per_metre).integers(0, 65536, (48, 64))
    metres = (counts * np.float64(1 / per_metre)).astype(np.float32)
    data, unit = encode_depth(metres)
    assert (data[:4], unit) == (b"\x89PNG", 1 / per_metre)
    np.testing.assert_array_equal(decode_depth(data, unit, "here"), metres)


@pytest.mark.parametrize("odd", [1.2345678, 70.0, 65.5351])
def test_one_odd_value_makes_it_a_map_of_floats(odd):
    metres = np.full((48, 64), 2.001, np.float32)
    metres[47, 63] = odd
    data, unit = encode_depth(metres)
    assert unit == 1.0 or odd == 70.0
    np.testing.assert_array_equal(decode_depth(data, unit, "here"), metres)


def test_a_colour_image_is_no_depth():
    with pytest.raises(DepthLMError, match="here: depth map can't be decoded: mode RGB"):
        decode_depth(make_frame().image, 1.0, "here")


def cut(folder):
    path = folder / "frames-000000.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def other_layout(folder):
    path = folder / "frames-000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["fx", "label_z"]), path)


def unfinished(folder):
    (folder / "store.json").write_text("{}")


def emptied(folder):
    (folder / "frames-000000.parquet").unlink()


def doubled(folder):
    (folder / "frames-000001.parquet").write_bytes((folder / "frames-000000.parquet").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut, r"frames-000000\.parquet: shard can't be read"),
        (other_layout, r"frames-000000\.parquet: is no shard of frames: it lacks fx, label_z"),
        (unfinished, r"store: its curation did not finish"),
        (emptied, r"store: the frame store is empty"),
        (doubled, r"store: frame id 's/a' occurs 2 times"),
    ],
)
def test_a_spoilt_store_is_named(tmp_path, spoil, says):
    folder = write(tmp_path / "store", [make_frame()])
    spoil(folder)
    with pytest.raises(DepthLMError, match=says):
        FrameStore(folder)


def test_no_store_at_all(tmp_path):
    with pytest.raises(DepthLMError, match=r"nowhere: no such frame store .*depthlm data curate"):
        FrameStore(tmp_path / "nowhere")


def test_two_frames_of_one_id_are_not_written(tmp_path):
    with pytest.raises(DepthLMError, match="'s/a' occurs 2 times"):
        write_shard(tmp_path / "frames-000000.parquet", [make_frame(), make_frame()])
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    replace_file(tmp_path / "a.json", b"old")
    with pytest.raises(DepthLMError, match="can't be written"):
        replace_file(tmp_path / "no-folder" / "a.json", json.dumps({}).encode())
    replace_file(tmp_path / "a.json", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"new"


def test_an_index_says_what_the_shards_say(tmp_path):
    frames = [make_frame(f"{i}", f"s{i % 3}") for i in range(40)]
    folder = write(tmp_path / "store", frames[:23], frames[23:])
    scanned = FrameStore(folder)
    (folder / INDEX_FILE).write_bytes(index_bytes(folder, SCHEMA.names))
    mapped = FrameStore(folder)
    assert mapped.ids == scanned.ids
    assert mapped.index.shards == scanned.index.shards
    assert {k: v.tolist() for k, v in mapped.scenes.items()} == {k: v.tolist() for k, v in scanned.scenes.items()}
    assert mapped[39].id == "s0/39"


@pytest.mark.parametrize("spoil", ["cut", "noise", "of other shards"])
def test_an_index_that_does_not_fit_is_not_believed(tmp_path, spoil):
    folder = write(tmp_path / "store", [make_frame("a")])
    whole = index_bytes(folder, SCHEMA.names)
    (folder / INDEX_FILE).write_bytes({"cut": whole[: len(whole) // 2], "noise": b"x" * 999}.get(spoil, whole))
    write_shard(folder / "frames-000001.parquet", [make_frame("b")])
    assert FrameStore(folder).ids == ["s/a", "s/b"]
