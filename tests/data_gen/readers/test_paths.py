"""Files of a dataset: inside its root only, and errors in the same words."""

import numpy as np
import pytest
from conftest import encode_png
from PIL import Image

from data_gen.readers.paths import dataset_root, image_size, inside, read_bytes, read_numbers
from depthlm.errors import DepthLMError


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x"])
def test_nothing_leads_out(tmp_path, name):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "x").write_text("secret")
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DepthLMError) as caught:
        read_bytes(root, name, "image")
    assert caught.value.kind == "path outside root"


def test_links_inside_and_a_linked_root_are_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("1 2 # three\n\n3 4\n")
    (tmp_path / "real" / "b").symlink_to("a")
    (tmp_path / "root").symlink_to("real")
    np.testing.assert_array_equal(read_numbers(tmp_path / "root", "b", "pose", (2, 2)), [[1, 2], [3, 4]])
    assert inside(tmp_path / "root", "b").name == "a"


@pytest.mark.parametrize(("text", "shape"), [("1 2 3", (2, 2)), ("1 x", (2,)), ("", (3, 3)), ("\xff", (1,))])
def test_numbers_that_are_none(tmp_path, text, shape):
    (tmp_path / "a").write_bytes(text.encode("latin-1"))
    with pytest.raises(DepthLMError) as caught:
        read_numbers(tmp_path, "a", "pose", shape)
    assert caught.value.kind == "bad pose"


def test_missing(tmp_path):
    with pytest.raises(DepthLMError, match="no such depth file") as caught:
        read_bytes(tmp_path, "a", "depth")
    assert caught.value.kind == "missing depth"
    with pytest.raises(DepthLMError, match="no such folder"):
        dataset_root(tmp_path / "a", "the folder")


def test_the_size_is_of_the_upright_image(tmp_path):
    image = Image.new("RGB", (40, 30))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert image_size((tmp_path / "turned.jpg").read_bytes(), "a") == (30, 40)
    assert image_size(encode_png(np.zeros((30, 40, 3), np.uint8)), "a") == (40, 30)
    with pytest.raises(DepthLMError):
        image_size(b"no image", "a")
