"""Depth maps: units, invalid values, half-pixel-correct mapping to another resolution, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
from conftest import encode_png
from PIL import Image

from data_gen.depth_map import decode_depth, depth_fields, in_range, map_labels, thinned, without_edges
from depthlm.camera import Camera
from depthlm.errors import DepthLMError


def test_a_16_bit_png_becomes_metres():
    raw = np.array([[0, 1000, 65535], [1, 5000, 40000]], np.uint16)
    depth = decode_depth(encode_png(raw), "d.png", 0.001, invalid=(0, 65535))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0, 1, 0], [0.001, 5, 40]])
    np.testing.assert_allclose(decode_depth(encode_png(raw), "d.png", 1 / 256)[0], [0, 1000 / 256, 65535 / 256])


def test_a_big_endian_pgm_too():
    data = b"P5\n2 1\n65535\n" + np.array([1234, 40000], ">u2").tobytes()
    np.testing.assert_allclose(decode_depth(data, "d.pgm", 0.001), [[1.234, 40]])


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda data: data[: len(data) // 2], "unreadable depth"),
        (lambda data: b"", "unreadable depth"),
        (lambda data: encode_png(np.zeros((4, 4), np.uint8)), "bad depth map"),
        (lambda data: encode_png(np.zeros((4, 4, 3), np.uint8)), "bad depth map"),
    ],
)
def test_a_broken_or_8_bit_map_is_refused(spoil, kind):
    data = encode_png(np.random.default_rng(0).integers(0, 65535, (64, 64), np.uint16))
    with pytest.raises(DepthLMError, match=r"d\.png") as caught:
        decode_depth(spoil(data), "d.png", 0.001)
    assert caught.value.kind == kind


def test_a_bomb_is_refused_before_it_is_unpacked():
    data = encode_png(np.ones((4, 4), np.uint16))
    header = b"IHDR" + struct.pack(">II", 11_000, 10_000) + data[24:29]
    bomb = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(DepthLMError, match="11000x10000") as caught:
        decode_depth(bomb, "d.png", 0.001)
    assert caught.value.kind == "depth too large"


def test_absurd_depth_is_unknown():
    depth = in_range([[np.nan, np.inf, -1, 0], [0.05, 0.1, 10, 10.001]], 0.1, 10)
    np.testing.assert_allclose(depth, [[0, 0, 0, 0], [0, 0.1, 10, 0]])


def test_both_sides_of_an_edge_are_dropped():
    depth = np.array([[2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 0.0, 3.0, 3.0]] * 9, np.float32)
    np.testing.assert_allclose(without_edges(depth, 2)[4], [2, 2, 0, 0, 0, 0, 0, 3, 3])


def test_labels_of_a_smaller_map_lie_on_the_same_rays():
    """A known point seen by a 256x192 camera and by the same camera at 1920x1440: one ray, one z."""
    large = Camera(1920, 1440, 1450, 1450, 955.2, 722.9)
    small = large.scaled(256, 192)
    depth = np.zeros((192, 256), np.float32)
    depth[30, 200] = 2.5
    xy, z = map_labels(depth, 1920, 1440)
    np.testing.assert_allclose(xy, [[(200.5) * 7.5 - 0.5, 30.5 * 7.5 - 0.5]])
    np.testing.assert_allclose(large.back_project(xy, z), small.back_project([[200, 30]], [2.5]), rtol=1e-6)
    # The mapping x·s that forgets the half pixel is off by 3.25 px here.
    assert abs(xy[0, 0] - 200 * 7.5) == 3.25


def test_every_mapped_label_lies_inside_and_in_its_own_block():
    depth = np.ones((48, 64), np.float32)
    xy, _ = map_labels(depth, 639, 480)
    camera = Camera.from_fov(639, 480, 60)
    assert camera.contains(xy).all()
    blocks = np.round((xy + 0.5) / (639 / 64, 10) - 0.5)
    assert len(np.unique(blocks, axis=0)) == depth.size


def test_another_field_of_view_is_refused():
    with pytest.raises(DepthLMError, match="256x192, the image 1920x1080") as caught:
        map_labels(np.ones((192, 256), np.float32), 1920, 1080)
    assert caught.value.kind == "depth size differs"


def test_thinning_depends_on_the_key_alone():
    labels = map_labels(np.arange(1, 101, dtype=np.float32).reshape(10, 10), 10, 10)
    first, again, other = (thinned(labels, 20, key) for key in ("a", "a", "b"))
    np.testing.assert_array_equal(first[1], again[1])
    assert len(set(first[1].tolist())) == 20
    assert (first[1] != other[1]).any()
    np.testing.assert_array_equal(first[1], np.array([first[0] @ (1, 10) + 1]).ravel())  # each still at its pixel
    assert len(thinned(labels, 0, "a")[1]) == 100


def test_a_map_of_the_images_size_stays_a_map():
    depth = np.ones((4, 6), np.float32)
    assert depth_fields(depth, 6, 4)["depth"] is depth
    assert "depth" not in depth_fields(depth, 12, 8)
