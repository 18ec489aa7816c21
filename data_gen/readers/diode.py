"""Reader of DIODE: laser-scanned depth, indoors and outdoors, one sensor.

Cite: Vasiljevic, Kolkin, Zhang et al., "DIODE: A Dense Indoor and Outdoor DEpth Dataset", arXiv 1908.00463. Licence:
MIT. Layout: ``SPLIT/{indoors,outdoor}/scene_NNNNN/scan_NNNNN/NAME.png`` (1024x768), ``NAME_depth.npy`` (float32 metres,
(768, 1024, 1), taken as z: the authors do not say) and ``NAME_depth_mask.npy`` (1 valid). Intrinsics: the devkit's
``intrinsics.txt``, one for all. Poses: none. Splits: ``train`` and ``val``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_gen.depth_map import check_range, depth_fields, in_range
from data_gen.readers.paths import dataset_root, image_size, inside, read_bytes
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "val"]
Place = Literal["all", "indoors", "outdoor"]
SIZE = 1024, 768
INTRINSICS = 886.81, 927.06, 512.0, 384.0  # fx, fy, cx, cy of the devkit


class DiodeReader:
    """One frame per crop of a scan; keys are ``PLACE/SCENE/SCAN/NAME``.

    Args:
        source: the folder that holds ``train`` and ``val``.
        split: which of them.
        place: ``"indoors"``, ``"outdoor"`` or ``"all"``.
        focal: fx and fy, px, in place of the devkit's 886.81 and 927.06, which its users doubt (see docs/datasets).
        min_m, max_m: z outside is unknown, metres; the scanner measures from 0.6 m to 350 m.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "diode"

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        place: Place = "all",
        focal: Sequence[float] = INTRINSICS[:2],
        min_m: float = 0.6,
        max_m: float = 350.0,
        licence: str = "MIT",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds train and val")
        for option, value, known in (("split", split, Split), ("place", place, Place)):
            if value not in get_args(known):
                raise DepthLMError(option, f"{value!r} is not one of {', '.join(get_args(known))}")
        if not isinstance(focal, (list, tuple)) or [type(f) in (int, float) for f in focal] != [True, True]:
            raise DepthLMError("focal", f"{focal!r} is not two numbers", "--set 'focal=[886.81, 927.06]'")
        check_range(min_m, max_m)
        self.split, self.place, self.focal = split, place, [float(f) for f in focal]
        self.min_m, self.max_m, self.licence = min_m, max_m, licence

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "place", "focal", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        folder = inside(self.root, self.split)
        pattern = "*" if self.place == "all" else self.place
        images = folder.glob(f"{pattern}/scene_*/scan_*/*.png")
        keys = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in images)
        if not keys:
            raise DepthLMError(
                folder, "holds no PLACE/scene_*/scan_*/*.png", "give the folder of train and val", "no frames"
            )
        return keys

    def keys(self) -> Sequence[str]:
        """``PLACE/SCENE/SCAN/NAME``, in order."""
        return self._keys

    def read(self, key: str) -> Frame:
        """One crop with its map.

        Raises:
            DepthLMError: a missing or unreadable file, or one of another size.
        """
        image = read_bytes(self.root, f"{self.split}/{key}.png", "image")
        width, height = image_size(image, f"{key}.png")
        if (width, height) != SIZE:
            raise DepthLMError(
                f"{key}.png",
                f"is {width}x{height}, its intrinsics are for 1024x768",
                "restore it",
                "image size differs",
            )
        depth = in_range(self._array(f"{self.split}/{key}_depth.npy", "depth"), self.min_m, self.max_m)
        mask = self._array(f"{self.split}/{key}_depth_mask.npy", "mask")
        depth[~(mask >= 0.5)] = 0  # NaN is no valid return either
        return Frame(
            id=key,
            image=image,
            # The centre of 1024x768 by corners; nothing says where the devkit counts from.
            camera=Camera(*SIZE, *self.focal, INTRINSICS[2] - 0.5, INTRINSICS[3] - 0.5),
            scene="/".join(key.split("/")[:3]),
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            **depth_fields(depth, *SIZE),
        )

    def _array(self, name: str, what: str) -> NDArray[Any]:
        data = read_bytes(self.root, name, what)
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
            if array.dtype.kind not in "fiub":
                raise ValueError(f"holds {array.dtype}")
            # Other shapes of as many numbers, such as a turned map, would fit too, with every label wrong.
            if array.shape not in ((768, 1024), (768, 1024, 1)):
                raise ValueError(f"has shape {array.shape}")
            return array.reshape(SIZE[::-1])
        except (ValueError, OSError, EOFError) as error:
            raise DepthLMError(
                name, f"is no array of 768x1024 numbers: {error}", "restore it", f"unreadable {what}"
            ) from error
