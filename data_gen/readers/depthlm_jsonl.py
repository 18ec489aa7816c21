"""Reader of the JSON Lines that DepthLM's curation scripts write: data curated for DepthLM works at once.

Cite: the DepthLM paper and the dataset the file was made from. Licence: that of the dataset; pass it as ``licence``.
Layout: one JSON object a line, beside (or under) the images:
``{"image": "rgb/a.png", "intrinsics": [fx, fy, cx, cy, width, height], "pixel_coords": [[x, y], …], "depth": [d, …]}``
Units: intrinsics and pixels in px of the original image (x to the right, y down), depth in metres. The format does not
say whether ``depth`` is z or the distance from the camera centre, and both exist: ``depth_is`` says it.
Splits: none in the file; ``split`` names the one that it holds. Poses, times: none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

DepthKind = Literal["z", "distance"]
FIELDS = ("image", "intrinsics", "pixel_coords", "depth")


class DepthlmJsonlReader:
    """One frame per line; keys are ``FILE:LINE`` with lines counted from 1, blank lines left out.

    Args:
        source: the ``.jsonl`` file.
        depth_is: what ``depth`` holds, ``"z"`` or ``"distance"`` (Euclidean); it is stored as z.
        image_root: folder that ``image`` is relative to, and that no image may lie outside of; default the file's own.
        dataset: name in the store; default the file's name.
        split, licence: provenance, stored with each frame.

    Raises:
        DepthLMError: no such file or folder, an unknown ``depth_is``.
    """

    name = "depthlm-jsonl"

    def __init__(
        self,
        source: str | Path,
        depth_is: DepthKind = "z",
        image_root: str | Path | None = None,
        dataset: str | None = None,
        split: str = "train",
        licence: str = "",
    ) -> None:
        self.source = Path(source)
        if not self.source.is_file():
            raise DepthLMError(self.source, "no such file", "give the path of a DepthLM .jsonl file", "no source")
        if depth_is not in get_args(DepthKind):
            raise DepthLMError("depth_is", f"{depth_is!r} is not one of {', '.join(get_args(DepthKind))}")
        self.image_root = self.source.parent if image_root is None else Path(image_root)
        if not self.image_root.is_dir():
            raise DepthLMError(self.image_root, "no such folder of images", "correct image_root", "no source")
        self.depth_is, self.split, self.licence = depth_is, split, licence
        self.dataset = self.source.stem if dataset is None else dataset

    def settings(self) -> dict[str, Any]:
        """File (name and size: the store may be handed on, local paths may not) and options."""
        return {
            "source": self.source.name,
            "bytes": self.source.stat().st_size,
            "depth_is": self.depth_is,
            "dataset": self.dataset,
            "split": self.split,
            "licence": self.licence,
        }

    @cached_property
    def _offsets(self) -> dict[int, int]:
        """Line number -> where the line starts in the file, bytes."""
        offsets, position = {}, 0
        with self.source.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    offsets[number] = position
                position += len(line)
        return offsets

    def keys(self) -> Sequence[str]:
        """``FILE:LINE`` of each line that is not blank."""
        return [f"{self.source.name}:{number}" for number in self._offsets]

    def read(self, key: str) -> Frame:
        """The frame of one line; the image is not decoded here.

        Raises:
            DepthLMError: naming file and line: no JSON, a field missing or of another form, an image that is missing
                or outside the root, impossible intrinsics, labels outside the image or not finite and positive.
        """
        number = int(key.rpartition(":")[2])
        try:
            return self._frame(number, self._row(number))
        except DepthLMError as error:
            raise DepthLMError(
                f"{self.source}:{number}", f"{error.where}: {error.reason}", error.mend, error.kind
            ) from error

    def _row(self, number: int) -> dict[str, Any]:
        with self.source.open("rb") as file:
            file.seek(self._offsets[number])
            line = file.readline()
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
            raise DepthLMError("line", f"is not JSON: {error}", "restore the line", "bad row") from error
        if not isinstance(row, dict):
            raise DepthLMError("line", f"holds a {type(row).__name__}, expected an object", "", "bad row")
        missing = [field for field in FIELDS if field not in row]
        if missing:
            raise DepthLMError("line", f"lacks {', '.join(missing)}", f"a row has {', '.join(FIELDS)}", "bad row")
        return row

    def _frame(self, number: int, row: dict[str, Any]) -> Frame:
        camera = self._camera(_numbers(row, "intrinsics", (6,)))
        xy, depth = _numbers(row, "pixel_coords", (-1, 2)), _numbers(row, "depth", (-1,))
        if len(xy) != len(depth):
            raise DepthLMError("pixel_coords", f"has {len(xy)} pixels, depth has {len(depth)} values", "", "bad labels")
        path = self._image_path(row["image"])
        try:
            image = path.read_bytes()
        except OSError as error:
            raise DepthLMError(path, f"image can't be read: {error.strerror}", "", "unreadable image") from error
        return Frame(
            id=f"{number:06d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', path.stem)}",
            image=image,
            camera=camera,
            xy=xy,
            z=camera.distance_to_z(xy, depth) if self.depth_is == "distance" else depth,
            scene=str(row["image"]),  # the format knows no scenes; rows of one image belong together
            dataset=self.dataset,
            split=self.split,
            licence=self.licence,
        )

    @staticmethod
    def _camera(numbers: np.ndarray) -> Camera:
        fx, fy, cx, cy, width, height = numbers.tolist()
        if not (width.is_integer() and height.is_integer()):
            raise DepthLMError("intrinsics", f"image size {width} x {height} is not whole", "", "bad intrinsics")
        return Camera(int(width), int(height), fx, fy, cx, cy)

    def _image_path(self, name: Any) -> Path:
        if not isinstance(name, str) or not name or "\0" in name:
            raise DepthLMError("image", f"{name!r} is no path", "", "bad row")
        root = self.image_root.resolve()
        path = (root / name).resolve()  # follows links: a link may not lead out either
        if not path.is_relative_to(root):
            raise DepthLMError(
                f"image {name!r}", f"lies outside {self.image_root}", "give a wider --image-root", "path outside root"
            )
        if not path.is_file():
            raise DepthLMError(path, "no such image", "restore it, or set --image-root", "missing image")
        return path


def _numbers(row: dict[str, Any], field: str, shape: tuple[int, ...]) -> np.ndarray:
    """``row[field]`` as float64 of ``shape`` (-1: any length).

    Raises:
        DepthLMError: it holds other than numbers, or has another shape.
    """
    try:
        values = np.array(row[field], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DepthLMError(field, f"is not an array of numbers: {error}", "", "bad row") from error
    if values.size == 0 and -1 in shape:
        values = values.reshape([max(n, 0) for n in shape])
    if values.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, values.shape, strict=True)):
        raise DepthLMError(field, f"has shape {values.shape}, expected {shape}", "-1 is any length", "bad row")
    return values
