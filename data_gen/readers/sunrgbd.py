"""Reader of SUN RGB-D: 10,335 indoor frames of four depth cameras, each with its own intrinsics.

Cite: Song, Lichtenberg, Xiao, "SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite", CVPR 2015. Licence: for
research, the four source datasets' terms apply.
Layout (``SUNRGBD.zip``): ``SUNRGBD/<sensor>/<source>/…/<frame>/`` with ``image/*.jpg``, ``depth/*.png`` (as measured),
``depth_bfx/*.png`` (holes filled), ``intrinsics.txt`` (3x3, row by row), ``scene.txt``. ``<sensor>`` is kv1, kv2,
realsense or xtion; kv1/NYUdata holds NYU v2.
Units: the 16-bit counts are millimetres rotated left by three bits: rotate right by three, then divide by 1000.
Dividing the stored number by 8000 is the same for all that fits in 13 bits; dividing by 10000 gives 0.8 of the truth.
z, of the image's viewpoint and size. Intrinsics in px counted from 1, as MATLAB does: 1 is taken off the principal
point (with it, the toolbox's points fall on the very pixels that gave them their colours). No poses.
Splits: the official lists are in the toolbox (``allsplit.mat``); every frame is read. DepthLM evaluates on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.depth_map import decode_counts, to_metres
from data_gen.readers.paths import folder, read_inside
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

SENSORS = ("kv1", "kv2", "realsense", "xtion")
MAX_M = 10.0  # none of the four sensors measures farther


class SunRgbdReader:
    """One frame per folder that has an ``intrinsics.txt``; keys are its path below the source.

    Args:
        source: the folder that holds ``kv1``, ``kv2``, ``realsense`` and ``xtion``, or the one above it.
        filled: take ``depth_bfx`` instead of the measured ``depth``: no holes, but guesses where they were.
        sensors: names to take, separated by commas; default all four.

    Raises:
        DepthLMError: no such folder, none of the sensors in it, an unknown sensor.
    """

    name = "sunrgbd"

    def __init__(self, source: str | Path, filled: bool = False, sensors: str = ",".join(SENSORS)) -> None:
        root = folder(Path(source), "SUN RGB-D")
        self.source = root / "SUNRGBD" if (root / "SUNRGBD").is_dir() else root
        self.sensors = sensors.split(",")
        if unknown := set(self.sensors) - set(SENSORS):
            raise DepthLMError("sensors", f"{', '.join(sorted(unknown))} is not known", f"known: {', '.join(SENSORS)}")
        self.filled = filled
        if not any((self.source / sensor).is_dir() for sensor in self.sensors):
            mend = "give the folder that SUNRGBD.zip unpacks to"
            raise DepthLMError(self.source, f"holds none of {', '.join(self.sensors)}", mend, "no source")

    def settings(self) -> dict[str, Any]:
        """Options."""
        return {"filled": self.filled, "sensors": self.sensors}

    @cached_property
    def _keys(self) -> list[str]:
        found = (p for sensor in self.sensors for p in (self.source / sensor).rglob("intrinsics.txt"))
        return sorted(p.parent.relative_to(self.source).as_posix() for p in found)

    def keys(self) -> Sequence[str]:
        """Frame folders, in order."""
        return self._keys

    def read(self, key: str) -> Frame:
        """The frame of a folder.

        Raises:
            DepthLMError: a file is missing or broken, or the depth map is of another size than the image.
        """
        image_name = self._only(key, "image", ".jpg")
        depth_name = self._only(key, "depth_bfx" if self.filled else "depth", ".png")
        counts = decode_counts(read_inside(self.source, depth_name), self.source / depth_name)
        z = to_metres(unrotate(counts), 0.001, limits=(0.1, MAX_M))
        matrix = self._matrix(key)
        return Frame(
            id=key.replace(" ", "_"),
            image=read_inside(self.source, image_name),
            camera=Camera(z.shape[1], z.shape[0], matrix[0, 0], matrix[1, 1], matrix[0, 2] - 1, matrix[1, 2] - 1),
            xy=np.empty((0, 2)),
            z=np.empty(0),
            depth=z,
            scene=key,
            dataset="sunrgbd",
            split="all",
            licence="SUN RGB-D research terms",
        )

    def _only(self, key: str, kind: str, suffix: str) -> str:
        """The one file of a kind that a frame's folder holds; its name differs between the sources."""
        names = sorted(p.name for p in (self.source / key / kind).glob(f"*{suffix}"))
        if len(names) != 1:
            raise DepthLMError(
                self.source / key / kind, f"holds {len(names)} {suffix} files, expected one", "", "bad row"
            )
        return f"{key}/{kind}/{names[0]}"

    def _matrix(self, key: str) -> NDArray[np.float64]:
        where = f"{key}/intrinsics.txt"
        try:
            return np.array(read_inside(self.source, where).split(), np.float64).reshape(3, 3)
        except ValueError as error:
            raise DepthLMError(self.source / where, f"is no 3x3 matrix: {error}", "", "bad intrinsics") from error


def unrotate(counts: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Stored counts -> millimetres: 16 bits, rotated right by three."""
    return (counts >> 3) | (counts << 13)
