"""Hugging Face datasets: every form of depth and intrinsics, original image bytes, one clear error each."""

import io
import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import encode_png
from datasets import Array2D, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from PIL import Image as Pillow

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.huggingface import HuggingFaceReader
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

K = [[50.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]]
FOUR = {"fx": 50, "fy": 60, "cx": 31.5, "cy": 23.5}
COUNTS = np.full((48, 64), 2000, np.uint16)
COUNTS[10, 60] = 5000


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """`datasets` copies Parquet files; not into the cache of whoever runs the tests."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def photo(seed=0):
    return encode_png(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))


def tiff(metres):
    buffer = io.BytesIO()
    Pillow.fromarray(np.asarray(metres, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def rows(depth=None, feature=None, **columns):
    """Two rows; ``columns`` are name=(value of both rows, feature)."""
    depth = encode_png(COUNTS) if depth is None else depth
    data = {"image": [{"bytes": photo(i), "path": None} for i in range(2)]}
    data["depth"] = [{"bytes": depth, "path": None} if isinstance(depth, bytes) else depth] * 2
    features = {"image": Image(), "depth": feature or Image()}
    for name, (value, kind) in columns.items():
        data[name], features[name] = [value, value], kind
    return Dataset.from_dict(data, features=Features(features))


def saved(folder, dataset):
    dataset.save_to_disk(folder)
    return folder


def test_a_known_point_ends_at_its_pixel_and_images_are_as_they_were(tmp_path):
    reader = READERS.get("huggingface")(saved(tmp_path / "d", rows()), unit_m=0.001, **FOUR)
    assert reader.keys() == ["0", "1"]
    frame = reader.read("1")
    assert frame.image == photo(1)
    assert frame.depth[10, 60] == 5 and frame.depth[0, 0] == 2
    assert (frame.id, frame.scene, frame.camera.pose) == ("00000001", "d", None)
    ray = np.sqrt(1 + (28.5 / 50) ** 2 + (13.5 / 60) ** 2)
    assert frame.camera.z_to_distance([[60, 10]], [5.0])[0] == pytest.approx(5 * ray)
    away = HuggingFaceReader(tmp_path / "d", unit_m=0.001, depth_is="distance", **FOUR).read("0")
    assert away.depth[10, 60] == pytest.approx(5 / ray)


@pytest.mark.parametrize(
    ("depth", "feature", "options"),
    [
        (tiff(COUNTS / 1000), None, {}),
        (tiff(COUNTS / 10), None, {"unit_m": 0.01}),
        ((COUNTS / 1000).tolist(), Array2D((48, 64), "float32"), {}),
        (COUNTS.astype(int).tolist(), Array2D((48, 64), "int32"), {"unit_m": 0.001}),
        ((COUNTS / 1000)[..., None].tolist(), List(List(List(Value("float32")))), {}),
        ((COUNTS / 1000)[None].tolist(), List(List(List(Value("float64")))), {}),
    ],
)
def test_forms_of_depth(tmp_path, depth, feature, options):
    frame = HuggingFaceReader(saved(tmp_path / "d", rows(depth, feature)), **options, **FOUR).read("0")
    assert frame.depth[10, 60] == pytest.approx(5, abs=1e-5) and frame.depth[40, 3] == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"K": (K, Array2D((3, 3), "float64"))}, {"intrinsics": "K"}),
        ({"K": (K, List(List(Value("float64"))))}, {"intrinsics": "K"}),
        ({"K": ([50.0, 60, 31.5, 23.5], List(Value("float64")))}, {"intrinsics": "K"}),
        ({}, FOUR),
    ],
)
def test_forms_of_intrinsics(tmp_path, columns, options):
    camera = HuggingFaceReader(saved(tmp_path / "d", rows(**columns)), unit_m=0.001, **options).read("0").camera
    np.testing.assert_allclose(camera.K, K)


def test_field_of_view(tmp_path):
    camera = HuggingFaceReader(saved(tmp_path / "d", rows()), unit_m=0.001, fov_x_deg=60).read("0").camera
    assert camera.fov_deg[0] == pytest.approx(60) and camera.cx == 31.5


def test_poses_scenes_ids_and_times(tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    columns = {"pose": (pose.tolist(), Array2D((4, 4), "float64")), "room": ("kitchen", Value("string"))}
    columns |= {"name": ("a b/ü", Value("string")), "t": (7.5, Value("float64"))}
    options = {"pose": "pose", "scene": "room", "id": "name", "timestamp": "t"}
    frame = HuggingFaceReader(saved(tmp_path / "d", rows(**columns)), unit_m=0.001, **options, **FOUR).read("0")
    np.testing.assert_array_equal(frame.camera.pose, pose)
    assert (frame.scene, frame.id, frame.timestamp) == ("kitchen", "a_b/_", 7.5)


def test_parquet_splits_and_a_dataset_dict(tmp_path):
    (tmp_path / "p" / "data").mkdir(parents=True)
    rows().to_parquet(tmp_path / "p/data/train-00000-of-00001.parquet")
    rows().select([0]).to_parquet(tmp_path / "p/data/validation-00000-of-00001.parquet")
    assert len(HuggingFaceReader(tmp_path / "p", unit_m=0.001, **FOUR).keys()) == 2
    few = HuggingFaceReader(tmp_path / "p", split="validation", unit_m=0.001, **FOUR)
    assert few.keys() == ["0"] and few.read("0").split == "validation"
    saved(tmp_path / "dict", DatasetDict({"train": rows(), "test": rows().select([1])}))
    assert HuggingFaceReader(tmp_path / "dict", split="test", unit_m=0.001, **FOUR).read("0").image == photo(1)
    with pytest.raises(DepthLMError, match="split 'dev'"):
        HuggingFaceReader(tmp_path / "dict", split="dev", unit_m=0.001, **FOUR)


@pytest.mark.parametrize("names", ["default/{}/0000.parquet", "{}.parquet", "data/{}-00000-of-00001.parquet"])
def test_splits_of_parquet_files_never_mix(tmp_path, names):
    """Evaluation rows among the training rows, or the other way round, would be seen by nobody."""
    for split, numbers in (("train", [0, 1]), ("test", [1])):
        (tmp_path / names.format(split)).parent.mkdir(parents=True, exist_ok=True)
        rows().select(numbers).to_parquet(tmp_path / names.format(split))
    for split, count in (("train", 2), ("test", 1)):
        assert len(HuggingFaceReader(tmp_path, split=split, unit_m=0.001, **FOUR).keys()) == count
    with pytest.raises(DepthLMError, match="split 'validation'"):
        HuggingFaceReader(tmp_path, split="validation", unit_m=0.001, **FOUR)


def test_parquet_without_names_of_splits_is_train(tmp_path):
    rows().to_parquet(tmp_path / "part-0.parquet")
    (tmp_path / "notes.json").write_text("{}")
    assert len(HuggingFaceReader(tmp_path, unit_m=0.001, **FOUR).keys()) == 2
    with pytest.raises(DepthLMError, match="split 'test'"):
        HuggingFaceReader(tmp_path, split="test", unit_m=0.001, **FOUR)


def test_a_saved_split_that_knows_its_name(tmp_path):
    rows().to_parquet(tmp_path / "test.parquet")
    saved(tmp_path / "d", load_dataset("parquet", data_files={"test": str(tmp_path / "test.parquet")}, split="test"))
    with pytest.raises(DepthLMError, match="holds split 'test', not 'train'"):
        HuggingFaceReader(tmp_path / "d", unit_m=0.001, **FOUR)
    assert HuggingFaceReader(tmp_path / "d", split="test", unit_m=0.001, **FOUR).read("0").split == "test"


def test_files_that_a_dataset_names_outside_its_folder(tmp_path):
    """The data files of a dataset card, and those of a saved dataset's table."""
    (tmp_path / "card").mkdir()
    rows().to_parquet(tmp_path / "secret.parquet")
    card = "---\nconfigs:\n- config_name: default\n  data_files: ../secret.parquet\n---\n"
    (tmp_path / "card/README.md").write_text(card)
    state = saved(tmp_path / "d", rows()) / "state.json"
    (tmp_path / "d/data-00000-of-00001.arrow").rename(tmp_path / "secret.arrow")
    state.write_text(state.read_text().replace("data-00000-of-00001.arrow", "../secret.arrow"))
    for folder in ("card", "d"):
        with pytest.raises(DepthLMError, match="lies outside"):
            HuggingFaceReader(tmp_path / folder, unit_m=0.001, **FOUR)


def test_an_image_folder(tmp_path):
    """Files beside a table, as `load_dataset` reads them; a file outside the folder is not opened."""
    folder = tmp_path / "images"
    (folder / "train").mkdir(parents=True)
    (folder / "train/a.png").write_bytes(photo())
    (folder / "train/d.png").write_bytes(encode_png(COUNTS))
    (folder / "train/metadata.jsonl").write_text(json.dumps({"image_file_name": "a.png", "depth_file_name": "d.png"}))
    frame = HuggingFaceReader(folder, unit_m=0.001, **FOUR).read("0")
    assert frame.image == photo() and frame.depth[10, 60] == 5
    outside = rows()
    (tmp_path / "secret.png").write_bytes(photo())
    data = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "depth": outside[:1]["depth"]}
    table = Dataset.from_dict(data, features=outside.features)
    (tmp_path / "p").mkdir()
    pq.write_table(table.data.table, tmp_path / "p/train.parquet")
    with pytest.raises(DepthLMError, match="lies outside"):
        HuggingFaceReader(tmp_path / "p", unit_m=0.001, **FOUR).read("0")


def test_workers_and_settings(tmp_path):
    reader = HuggingFaceReader(saved(tmp_path / "d", rows()), unit_m=0.001, invalid=[2000], **FOUR)
    again = pickle.loads(pickle.dumps(reader))
    assert again.read("0").image == reader.read("0").image
    assert (again.read("0").depth > 0).sum() == 1, "2000 means unknown here"
    settings = json.dumps(reader.settings())
    assert str(tmp_path) not in settings and '"rows": 2' in settings
    curate(reader, tmp_path / "store", workers=2, frames_per_shard=1)
    assert len(FrameStore(tmp_path / "store")) == 2


def test_settings_are_of_the_data_and_not_of_their_place(tmp_path):
    """Else a second run would keep frames of data that are no more."""
    options = {"unit_m": 0.001, **FOUR}
    first = HuggingFaceReader(saved(tmp_path / "a/d", rows()), **options).settings()
    (tmp_path / "b/d").mkdir(parents=True)
    rows().to_parquet(tmp_path / "b/d/part.parquet")
    assert HuggingFaceReader(tmp_path / "b/d", **options).settings() == first
    other = HuggingFaceReader(saved(tmp_path / "c/d", rows(encode_png(COUNTS // 2))), **options).settings()
    assert other["rows"] == first["rows"] and other != first


def test_floats_that_mean_unknown(tmp_path):
    """65.535 is not 65.535 any more once it was a float32."""
    depth = COUNTS / np.float32(1000)
    depth[0] = 65.535
    for number, feature in enumerate((Array2D((48, 64), "float32"), List(List(Value("float32"))))):
        folder = saved(tmp_path / str(number), rows(depth.tolist(), feature))
        frame = HuggingFaceReader(folder, invalid=[65.535], **FOUR).read("0")
        assert (frame.depth[0] == 0).all() and (frame.depth[1:] > 0).all()


@pytest.mark.parametrize(
    ("k", "said"),
    [
        (np.transpose(K), "not transposed"),
        ([[50.0, 9, 31.5], [0, 60, 23.5], [0, 0, 1]], "no skew"),
        ([[0.8, 0, 0.5], [0, 1.1, 0.5], [0, 0, 1]], "field of view"),
        ([[50.0, 0, 640], [0, 60, 360], [0, 0, 1]], "far outside"),
        ([[np.nan, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], "not finite"),
    ],
)
def test_intrinsics_that_are_none_of_this_image(tmp_path, k, said):
    """Transposed, skewed, in shares of the image's size, of a larger image, unknown."""
    table = rows(K=(np.asarray(k).tolist(), List(List(Value("float64")))))
    with pytest.raises(DepthLMError, match=said) as caught:
        HuggingFaceReader(saved(tmp_path / "d", table), unit_m=0.001, intrinsics="K").read("0")
    assert caught.value.kind == "bad intrinsics"


@pytest.mark.parametrize(
    ("option", "good", "bad", "feature", "kind"),
    [
        ("id", "a", None, Value("string"), "missing id"),
        ("scene", "hall", None, Value("string"), "missing scene"),
        ("timestamp", 1.0, None, Value("float64"), "bad timestamp"),
        ("timestamp", "1.5", "noon", Value("string"), "bad timestamp"),
        ("pose", np.eye(4).tolist(), None, List(List(Value("float64"))), "bad pose"),
        ("pose", np.eye(4).tolist(), np.diag([1.0, 1, -1, 1]).tolist(), List(List(Value("float64"))), "bad pose"),
        ("depth", COUNTS.tolist(), None, List(List(Value("int32"))), "missing depth"),
        ("depth", COUNTS.tolist(), [[1, 2], [3]], List(List(Value("int32"))), "unreadable depth"),
    ],
)
def test_one_bad_cell_is_counted(tmp_path, option, good, bad, feature, kind):
    table = rows().remove_columns("depth") if option == "depth" else rows()
    table = table.add_column(option, [good, bad], feature=feature)
    reader = HuggingFaceReader(saved(tmp_path / "d", table), unit_m=0.001, **{option: option}, **FOUR)
    curate(reader, tmp_path / "store")
    report = json.loads((tmp_path / "store/report.json").read_bytes())
    assert report["frames"] == 1 and list(report["skipped"]) == [kind]


def test_one_bad_row_is_counted(tmp_path):
    good = rows()
    cells = [{"bytes": photo(), "path": None}, {"bytes": b"x", "path": None}, None, {"bytes": photo(), "path": None}]
    depths = [encode_png(COUNTS), encode_png(COUNTS), encode_png(COUNTS), photo()]
    table = Dataset.from_dict(
        {"image": cells, "depth": [{"bytes": depth, "path": None} for depth in depths]}, features=good.features
    )
    curate(HuggingFaceReader(saved(tmp_path / "d", table), unit_m=0.001, **FOUR), tmp_path / "store")
    report = json.loads((tmp_path / "store/report.json").read_bytes())
    assert report["frames"] == 1
    assert {kind: entry["count"] for kind, entry in report["skipped"].items()} == {
        "unreadable image": 1,
        "missing image": 1,
        "bad depth map": 1,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unit_m": 0.001}, "none are given"),
        ({"unit_m": 0.001, "fx": 50}, "in part"),
        ({"unit_m": 0.001, "fov_x_deg": 60, **FOUR}, "more than one way"),
        (FOUR, "the depth is whole numbers"),
        ({"unit_m": 0.001, "depth": "depth_map", **FOUR}, "no such column.*the dataset has image, depth"),
        ({"unit_m": 0.001, "pose": "extrinsics", **FOUR}, "no such column"),
        ({"unit_m": -1, **FOUR}, "no number of metres"),
        ({"unit_m": 0.001, "depth_is": "disparity", **FOUR}, "'disparity' is not one of"),
        ({"unit_m": 0.001, "min_m": 2, "max_m": 1, **FOUR}, "min_m"),
    ],
)
def test_wrong_options(tmp_path, options, said):
    with pytest.raises(DepthLMError, match=said):
        HuggingFaceReader(saved(tmp_path / "d", rows()), **options)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(DepthLMError, match="no such folder"):
        HuggingFaceReader(tmp_path / "none", **FOUR)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DepthLMError, match="can't be read by `datasets`"):
        HuggingFaceReader(tmp_path / "empty", **FOUR)
