"""What holds for every reader of a dataset: picklable, options refused early, settings without local paths."""

import json
import pickle
from functools import partial
from pathlib import Path

import pytest

from data_gen.readers import READERS, Reader
from depthlm.errors import DepthLMError

NAMES = sorted(
    set(READERS.names()) - {"depthlm-jsonl", "huggingface", "plain-folder"}
)  # those have options of their own


# Read by the constructor where it is not told otherwise.
OPTIONS = {"hypersim": {"cameras": "nominal"}}
PAGES = Path(__file__).parents[3] / "docs" / "datasets"


@pytest.fixture(params=NAMES)
def kind(request):
    return partial(READERS.get(request.param), **OPTIONS.get(request.param, {}))


@pytest.fixture
def folder(tmp_path):
    """As far as the constructors look: TUM RGB-D's asks for a sequence of a known camera."""
    (tmp_path / "rgbd_dataset_freiburg1_xyz").mkdir()
    (tmp_path / "rgbd_dataset_freiburg1_xyz" / "rgb.txt").touch()
    return tmp_path


def test_a_reader_is_what_curation_asks_for(kind, folder):
    reader = pickle.loads(pickle.dumps(kind(folder / ".." / folder.name)))
    assert isinstance(reader, Reader)
    settings = json.dumps(reader.settings())
    assert str(folder.parent) not in settings
    assert kind(folder).settings() == reader.settings()


def test_an_empty_folder_is_one_clear_error(kind, tmp_path):
    with pytest.raises(DepthLMError):
        kind(tmp_path).keys()


def test_no_folder_and_no_range(kind, folder):
    with pytest.raises(DepthLMError) as caught:
        kind(folder / "none")
    assert caught.value.kind == "no source"
    with pytest.raises(DepthLMError, match="min_m, max_m"):
        kind(folder, min_m=2, max_m=1)


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
