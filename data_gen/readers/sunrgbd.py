"""Reader of SUN RGB-D: 10,335 indoor frames of four sensors (Kinect v1 and v2, RealSense, Xtion), NYUv2 among them.

Cite: Song, Lichtenberg, Xiao, "SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite", CVPR 2015; and NYU Depth v2,
Berkeley B3DO and SUN3D, whose frames it includes. Licence: research use; see rgbd.cs.princeton.edu.
Layout (SUNRGBD.zip and SUNRGBDtoolbox.zip unpacked side by side): ``SUNRGBD/SENSOR/…/FRAME/`` with ``image/*.jpg``,
``depth/*.png`` (as measured, on the image's pixels), ``depth_bfx/*.png`` (holes filled), ``intrinsics.txt`` (K, 3x3);
``SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat`` with the frames of the official split.
Units: depth is z as uint16, millimetres *rotated left by three bits*, 0 unknown. Rotating right by 3 gives
millimetres; the toolbox does the same, and takes what is beyond 8 m for 8 m: here it is unknown.
Pixels: the toolbox counts them from 1, so that cx and cy become one less here.
Splits: ``train`` (5,285) and ``test`` (5,050) of allsplit.mat; DepthLM evaluates on this dataset. Poses, times: none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_gen.depth_map import check_range, decode_raw_depth, in_range
from data_gen.readers.mat_files import load_mat
from data_gen.readers.paths import dataset_root, frame_id, image_size, inside, read_bytes, read_numbers
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "test", "all"]
Depth = Literal["raw", "filled"]
SPLIT_FILE = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"


class SunRgbdReader:
    """One frame per folder; keys are folders relative to ``SUNRGBD``, such as ``kv1/NYUdata/NYU0001``.

    Args:
        source: the folder that holds ``SUNRGBD`` and ``SUNRGBDtoolbox``; for ``split="all"`` also ``SUNRGBD`` itself.
        split: ``"train"``, ``"test"``, or ``"all"``, which needs no toolbox and takes every frame there is.
        depth: ``"raw"`` (measured) or ``"filled"`` (``depth_bfx``: guessed in the holes, not for labels).
        min_m, max_m: z outside is unknown, metres.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "sunrgbd"

    def __init__(
        self,
        source: str | Path,
        split: Split = "test",
        depth: Depth = "raw",
        min_m: float = 0.1,
        max_m: float = 8.0,
        licence: str = "SUN RGB-D research terms",
    ) -> None:
        self.source = dataset_root(source, "the folder that holds SUNRGBD and SUNRGBDtoolbox")
        self.root = self.source / "SUNRGBD" if (self.source / "SUNRGBD").is_dir() else self.source
        for option, value, known in (("split", split, Split), ("depth", depth, Depth)):
            if value not in get_args(known):
                raise DepthLMError(option, f"{value!r} is not one of {', '.join(get_args(known))}")
        check_range(min_m, max_m)
        self.split, self.depth, self.min_m, self.max_m, self.licence = split, depth, min_m, max_m, licence

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "depth", "min_m", "max_m", "licence")
        return {"source": self.source.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _folders(self) -> list[str]:
        folders = _all_folders(self.root) if self.split == "all" else _split_folders(self.source, self.split)
        if not folders:
            raise DepthLMError(
                self.root, "holds no folder with intrinsics.txt", "unpack SUNRGBD.zip there", "no frames"
            )
        return folders

    def keys(self) -> Sequence[str]:
        """Frame folders, sorted."""
        return self._folders

    def read(self, key: str) -> Frame:
        """The frame of a folder.

        Raises:
            DepthLMError: a file is missing, unreadable or outside the dataset, or the depth map has another size.
        """
        image_name = self._only_file(f"{key}/image", "*.jpg", "image")
        depth_name = self._only_file(f"{key}/{'depth' if self.depth == 'raw' else 'depth_bfx'}", "*.png", "depth")
        image = read_bytes(self.root, image_name, "image")
        width, height = image_size(image, image_name)
        k = read_numbers(self.root, f"{key}/intrinsics.txt", "intrinsics", (3, 3))
        depth = decode_bit_rotated(read_bytes(self.root, depth_name, "depth"), depth_name)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=Camera(width, height, k[0, 0], k[1, 1], k[0, 2] - 1, k[1, 2] - 1),
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=in_range(depth, self.min_m, self.max_m),
            scene=key,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _only_file(self, folder: str, pattern: str, what: str) -> str:
        """The one file of a frame's folder; its name differs between the four sources."""
        path = inside(self.root, folder)
        names = sorted(p.name for p in path.glob(pattern))
        if len(names) != 1:
            raise DepthLMError(
                path, f"holds {len(names)} files {pattern}, expected one", "restore the folder", f"missing {what}"
            )
        return f"{folder}/{names[0]}"


def decode_bit_rotated(data: bytes, where: str) -> NDArray[np.float32]:
    """SUN3D's and SUN RGB-D's 16-bit depth: millimetres after rotating right by three bits; to metres, 0 unknown.

    Raises:
        DepthLMError: as `decode_raw_depth`.
    """
    raw = decode_raw_depth(data, where)
    return ((raw >> 3) | (raw << 13)).astype(np.float32) / 1000


def _all_folders(root: Path) -> list[str]:
    found = []
    for folder, below, files in os.walk(root):
        if "intrinsics.txt" in files:
            found.append(Path(folder).relative_to(root).as_posix())
            below.clear()  # a frame's own folders
    return sorted(found)


def _split_folders(source: Path, split: str) -> list[str]:
    """The frames of an official split; its paths are those of the authors' machine: ``/n/fs/sun3d/data/SUNRGBD/…``.

    Raises:
        DepthLMError: the split file is missing, unreadable, or not of this form.
    """
    try:
        cells = load_mat(source, SPLIT_FILE, "split")[f"all{split}"]
        paths = [str(cell.item()) for cell in cells.ravel()]
    except DepthLMError as error:
        if error.kind != "missing split":
            raise
        mend = "unpack SUNRGBDtoolbox.zip beside SUNRGBD, or take --split all"
        raise DepthLMError(error.where, error.reason, mend, error.kind) from error
    except (KeyError, ValueError, AttributeError) as error:
        raise DepthLMError(
            source / SPLIT_FILE, f"has no usable list all{split}: {error}", "download the toolbox again", "bad split"
        ) from error
    parts = [path.replace("//", "/").rstrip("/").partition("/SUNRGBD/")[2] for path in paths]
    if not all(parts):
        raise DepthLMError(source / SPLIT_FILE, "names a path without /SUNRGBD/", "download the toolbox again")
    return sorted(parts)
