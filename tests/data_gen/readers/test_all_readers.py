"""What holds for every reader of a dataset: picklable, options refused early, settings without local paths."""

import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import encode_png
from datasets import Dataset, Features, Image

from data_gen.readers import READERS, Reader
from depthlm.cli import main
from depthlm.errors import DepthLMError

# What the constructor needs where it is not told otherwise.
INTRINSICS = {"fx": 50.0, "fy": 50.0, "cx": 3.5, "cy": 2.5}
OPTIONS = {"hypersim": {"cameras": "nominal"}, "huggingface": {"unit_m": 0.001, **INTRINSICS}}
WITHOUT_RANGE = ("depthlm-jsonl", "plain-folder")  # labels as they are given; 0.1 m to 200 m
PAGES = Path(__file__).parents[3] / "docs" / "datasets"


@pytest.fixture(params=READERS.names())
def name(request):
    return request.param


@pytest.fixture
def kind(name):
    return partial(READERS.get(name), **OPTIONS.get(name, {}))


@pytest.fixture
def source(name, tmp_path):
    """As far as the constructors look; whole where they look at everything."""
    folder = tmp_path / "source"
    folder.mkdir()
    if name == "tum-rgbd":  # a sequence of a known camera
        (folder / "rgbd_dataset_freiburg1_xyz").mkdir()
        (folder / "rgbd_dataset_freiburg1_xyz" / "rgb.txt").touch()
    elif name == "plain-folder":
        (folder / "rgb").mkdir()
        (folder / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    elif name == "huggingface":
        rows = {"image": [encode_png(np.zeros((6, 8, 3), np.uint8))], "depth": [encode_png(np.ones((6, 8), np.uint16))]}
        images = {column: [{"bytes": cells[0], "path": None}] for column, cells in rows.items()}
        Dataset.from_dict(images, features=Features({"image": Image(), "depth": Image()})).save_to_disk(folder)
    elif name == "depthlm-jsonl":
        (folder / "labels.jsonl").touch()
        return folder / "labels.jsonl"
    return folder


def test_a_reader_is_what_curation_asks_for(kind, source):
    reader = pickle.loads(pickle.dumps(kind(source.parent / ".." / source.parent.name / source.name)))
    assert isinstance(reader, Reader)
    settings = json.dumps(reader.settings())
    assert str(source.parent) not in settings
    assert kind(source).settings() == reader.settings()


def test_an_empty_folder_is_one_clear_error(kind, tmp_path):
    with pytest.raises(DepthLMError):
        kind(tmp_path).keys()


def test_no_source_and_no_range(name, kind, source):
    with pytest.raises(DepthLMError) as caught:
        kind(source / "none")
    assert caught.value.kind == "no source"
    if name not in WITHOUT_RANGE:
        with pytest.raises(DepthLMError, match="min_m, max_m"):
            kind(source, min_m=2, max_m=1)


def test_options_that_are_not_known(tmp_path):
    for name in ("arkitscenes", "hm3d", "matterport3d", "scannet", "scannetpp", "sevenscenes", "sunrgbd"):
        with pytest.raises(DepthLMError, match="'dev' is not one of"):
            READERS.get(name)(tmp_path, split="dev")


@pytest.mark.parametrize("name", READERS.names())
def test_every_reader_has_its_page_and_its_line_in_the_list(name):
    """A page says how to get the data, under which licence, what is read, and which split is which."""
    page = (PAGES / f"{name}.md").read_text()
    assert f"depthlm data curate {name} " in page
    assert (page.startswith("# ") and "| splits |" in page) or name in ("plain-folder", "depthlm-jsonl", "huggingface")
    assert f"[{name}]({name}.md)" in (PAGES / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["labels=five"], "option 'labels': is 'five', not a whole number"),
        (["labels=true"], "option 'labels': is True, not a whole number"),
        (["min_m=near"], "option 'min_m': is 'near', not a number"),
        (["licence=3"], "option 'licence': is 3, not a word"),
        (["lables=5"], "option 'lables': is none of reader eth3d"),
    ],
)
def test_the_command_refuses_options_of_another_type(tmp_path, capsys, words, said):
    options = [part for word in words for part in ("--set", word)]
    assert main(["data", "curate", "eth3d", str(tmp_path), "--out", str(tmp_path / "s"), *options]) == 2
    assert said in capsys.readouterr().err
