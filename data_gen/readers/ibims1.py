"""Reader of iBims-1: 100 indoor images with laser-scanned depth, an evaluation set.

Cite: Koch, Liebel, Fraundorfer, Körner, "Evaluation of CNN-Based Single-Image Depth Estimation Methods", ECCV Workshops
2018. Licence: see the dataset's page at TU Munich (mediatum.ub.tum.de/1455541).
Layouts: (a) ``ibims1_core_raw``: ``rgb/NAME.png``, ``depth/NAME.png``, ``calib/NAME.txt`` (one line ``fx,fy,cx,cy``),
``mask_invalid/NAME.png``, ``mask_transp/NAME.png`` (0: not to be used). (b) ``ibims1_core_mat``: ``NAME.mat`` whose
struct ``data`` has ``rgb``, ``depth``, ``calib`` (K transposed, as MATLAB keeps it) and the same masks.
Units: depth is z, not the distance (plane fits over 50 of the images say so); PNG: uint16, 50 m / 65535 a unit, 0
unknown; .mat: metres, 0 unknown. Pixels: the dataset's evaluation script counts them from 1 with these calibrations, so
that cx and cy become one less here. Split: all are ``test``. Poses, times: none.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_gen.depth_map import check_range, decode_depth, in_range
from data_gen.readers.mat_files import load_mat
from data_gen.readers.paths import dataset_root, frame_id, image_size, read_bytes, read_numbers
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame, pillow_says

PNG_UNIT_M = 50 / 65535
MASKS = ("mask_invalid", "mask_transp")  # both 0 where depth is not to be used


class Ibims1Reader:
    """One frame per image; keys are the images' names, such as ``corridor_01``.

    Args:
        source: ``ibims1_core_raw`` or ``ibims1_core_mat``, or the folder that holds one of them.
        min_m, max_m: z outside is unknown, metres; the PNGs end at 50 m.

    Raises:
        DepthLMError: no such folder.
    """

    name = "ibims1"

    def __init__(
        self,
        source: str | Path,
        min_m: float = 0.1,
        max_m: float = 49.99,
        split: str = "test",
        licence: str = "iBims-1, TU Munich",
    ) -> None:
        root = dataset_root(source, "the folder ibims1_core_raw or ibims1_core_mat")
        within = [root / name for name in ("ibims1_core_raw", "ibims1_core_mat") if (root / name).is_dir()]
        self.root = within[0] if within else root
        self.raw = (self.root / "rgb").is_dir()
        check_range(min_m, max_m)
        self.min_m, self.max_m, self.split, self.licence = min_m, max_m, split, licence

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("min_m", "max_m", "split", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    def keys(self) -> Sequence[str]:
        """Names of the images, sorted."""
        keys = sorted(path.stem for path in self.root.glob("rgb/*.png" if self.raw else "*.mat"))
        if not keys:
            raise DepthLMError(self.root, "holds neither rgb/*.png nor *.mat", "unpack ibims1_core_raw.zip there")
        return keys

    def read(self, key: str) -> Frame:
        """One frame, its depth dense, unknown under either mask.

        Raises:
            DepthLMError: a file or variable is missing, unreadable, of another size or outside the dataset.
        """
        image, depth, (fx, fy, cx, cy) = self._read_raw(key) if self.raw else self._read_mat(key)
        width, height = image_size(image, key)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=Camera(width, height, fx, fy, cx - 1, cy - 1),
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=in_range(depth, self.min_m, self.max_m),
            scene=key,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _read_raw(self, key: str) -> tuple[bytes, NDArray[np.float32], list[float]]:
        image = read_bytes(self.root, f"rgb/{key}.png", "image")
        depth = decode_depth(read_bytes(self.root, f"depth/{key}.png", "depth"), f"depth/{key}.png", PNG_UNIT_M)
        for mask in MASKS:
            name = f"{mask}/{key}.png"
            usable = _decode_mask(read_bytes(self.root, name, "mask"), name)
            _check_shape(usable, depth, name)
            depth[~usable] = 0
        return image, depth, read_numbers(self.root, f"calib/{key}.txt", "intrinsics", (4,), delimiter=",").tolist()

    def _read_mat(self, key: str) -> tuple[bytes, NDArray[np.float32], list[float]]:
        name = f"{key}.mat"
        try:
            data = load_mat(self.root, name, "image")["data"][0, 0]
            pixels, depth, k = data["rgb"], np.array(data["depth"], np.float32), np.array(data["calib"], np.float64)
            masks = [np.asarray(data[mask]) > 0 for mask in MASKS]
            k = k.reshape(3, 3).T  # MATLAB keeps K transposed: cx stands in the last row
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels, np.uint8)).save(buffer, "PNG")  # the file holds bare pixels
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise DepthLMError(self.root / name, f"is no iBims-1 file: {error}", "restore it", "bad row") from error
        for mask in masks:
            _check_shape(mask, depth, name)
            depth[~mask] = 0
        return buffer.getvalue(), depth, [k[0, 0], k[1, 1], k[0, 2], k[1, 2]]


def _decode_mask(data: bytes, where: str) -> NDArray[np.bool_]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("L")) > 0
    except Exception as error:  # Pillow raises many types for broken files
        raise DepthLMError(
            where, f"mask can't be decoded: {pillow_says(error)}", "restore it", "unreadable mask"
        ) from error


def _check_shape(mask: NDArray[np.bool_], depth: NDArray[np.float32], where: str) -> None:
    if mask.shape != depth.shape:
        raise DepthLMError(where, f"mask has shape {mask.shape}, depth {depth.shape}", "restore it", "bad mask")
