"""Reader of a Hugging Face dataset with a column of images and one of depth.

Layout: a folder written by ``Dataset.save_to_disk`` (or ``DatasetDict``), a folder of Parquet files, or any folder that
``datasets.load_dataset`` reads without code, such as an image folder; with ``hub=true`` the name of a dataset on the
hub. Depth: images (16-bit PNG counts of ``unit_m`` metres, or a float TIFF in metres) or arrays (H, W). Intrinsics: a
column (3x3, or fx, fy, cx, cy), or the same for all from the options. Units, licence and splits: the dataset's own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from datasets import Dataset, DatasetDict, Image, load_dataset, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetsError
from numpy.typing import NDArray

from data_gen.depth_map import as_z, check_range, decode_depth_image, depth_fields, in_range
from data_gen.readers.paths import dataset_root, frame_id, image_size, inside, read_bytes
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

DepthKind = Literal["z", "distance"]
SAVED = ("state.json", "dataset_dict.json")
MAX_FOV_DEG = 170.0  # no pinhole image is wider; intrinsics in shares of the image's size seem to be
MAX_SKEW = 1e-6  # share of the focal length
SAMPLED_ROWS = 4


class HuggingFaceReader:
    """One frame per row; keys are row numbers.

    Args:
        source: the folder, or with ``hub`` a name such as ``org/name``.
        image, depth: columns.
        split: split of the dataset; stored with each frame. Data that are of another split, and say so, are refused.
        unit_m: metres of one count (0.001: millimetres); must be given for whole-number depth, factor 1 for floats.
        depth_is: ``"z"`` or ``"distance"``; it is stored as z.
        invalid: values that mean unknown, besides 0 and what is not finite.
        intrinsics: column of 3x3 matrices or of fx, fy, cx, cy in px, integer coordinates at pixel centres.
        fx, fy, cx, cy: the same for all rows; or
        fov_x_deg: horizontal field of view, the principal point in the middle.
        pose: column of 4x4 camera-to-world matrices, metres, OpenCV axes.
        scene, id, timestamp: columns, timestamps in seconds; by default one scene of all, and row numbers.
        labels: labels of a frame whose map is of another size than its image; 0: all.
        min_m, max_m: depth outside is unknown, metres.
        hub, revision: load from the hub, of that revision.

    Raises:
        DepthLMError: no such dataset, split or column, no or contradicting intrinsics, whole numbers without a unit.
    """

    name = "huggingface"

    def __init__(
        self,
        source: str | Path,
        image: str = "image",
        depth: str = "depth",
        split: str = "train",
        unit_m: float | None = None,
        depth_is: DepthKind = "z",
        invalid: Sequence[float] = (),
        intrinsics: str | None = None,
        fx: float | None = None,
        fy: float | None = None,
        cx: float | None = None,
        cy: float | None = None,
        fov_x_deg: float | None = None,
        pose: str | None = None,
        scene: str | None = None,
        id: str | None = None,
        timestamp: str | None = None,
        labels: int = 0,
        min_m: float = 0.1,
        max_m: float = 200.0,
        dataset: str | None = None,
        licence: str = "",
        hub: bool = False,
        revision: str | None = None,
    ) -> None:
        self.source = str(source) if hub else str(dataset_root(source, "a folder that `datasets` can read"))
        if depth_is not in get_args(DepthKind):
            raise DepthLMError("depth_is", f"{depth_is!r} is not one of {', '.join(get_args(DepthKind))}")
        if unit_m is not None and not 0 < unit_m < float("inf"):
            raise DepthLMError("unit_m", f"{unit_m} is no number of metres", "0.001 is a millimetre")
        check_range(min_m, max_m)
        numbers = (fx, fy, cx, cy)
        ways = [intrinsics is not None, any(v is not None for v in numbers), fov_x_deg is not None]
        if sum(ways) != 1 or (ways[1] and None in numbers):
            raise DepthLMError(
                "intrinsics",
                f"{'none are given' if not any(ways) else 'are given in part, or in more than one way'}",
                "--set intrinsics=COLUMN, or fx, fy, cx and cy, or fov_x_deg",
            )
        self.image, self.depth, self.split, self.unit_m, self.depth_is = image, depth, split, unit_m, depth_is
        self.invalid, self.intrinsics, self.numbers, self.fov_x_deg = list(invalid), intrinsics, numbers, fov_x_deg
        self.pose, self.scene, self.id, self.timestamp = pose, scene, id, timestamp
        self.labels, self.min_m, self.max_m, self.licence = labels, min_m, max_m, licence
        self.hub, self.revision = hub, revision
        self.dataset = dataset or (self.source.rpartition("/")[2] if hub else Path(self.source).name)
        self._check_columns()

    def settings(self) -> dict[str, Any]:
        """Options, and what tells other data of the same name: rows, columns and the content of a few rows."""
        names = (
            "image",
            "depth",
            "split",
            "unit_m",
            "depth_is",
            "invalid",
            "intrinsics",
            "numbers",
            "fov_x_deg",
            "pose",
        )
        more = ("scene", "id", "timestamp", "labels", "min_m", "max_m", "dataset", "licence", "hub", "revision")
        columns = {name: str(feature) for name, feature in self._rows.features.items()}
        data = {"rows": len(self._rows), "columns": columns, "sample_sha256": self._sample_sha256()}
        return {name: getattr(self, name) for name in names + more} | data

    def _sample_sha256(self) -> str:
        """Of what is read from the first row, the last, and some between; the paths of images do not count."""
        columns = [self.image, self.depth, self.intrinsics, self.pose, self.scene, self.id, self.timestamp]
        content, last = hashlib.sha256(), len(self._rows) - 1
        for number in sorted({last * i // (SAMPLED_ROWS - 1) for i in range(SAMPLED_ROWS)} if last >= 0 else ()):
            row = self._rows[number]
            for column in filter(None, columns):
                content.update(self._content(row[column]))
        return content.hexdigest()

    def _content(self, cell: Any) -> bytes:
        if not isinstance(cell, dict):  # no image
            return repr(cell).encode()
        try:
            return self._bytes(cell, "", "image")
        except DepthLMError as error:  # a row that can't be read is counted when its turn comes
            return error.kind.encode()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}  # each process maps its own

    @cached_property
    def _rows(self) -> Dataset:
        """The rows, images still encoded, memory-mapped."""
        try:
            if self.hub:
                found = load_dataset(self.source, split=self.split, revision=self.revision)
            elif any((Path(self.source) / name).is_file() for name in SAVED):
                found = load_from_disk(self.source)
                if isinstance(found, DatasetDict):
                    found = found[self.split]
                self._check_inside(file["filename"] for file in found.cache_files)
            else:  # files and folders named after splits are these splits; where none is, all is "train"
                builder = load_dataset_builder(self.source)
                self._check_inside(file for files in (builder.config.data_files or {}).values() for file in files)
                builder.download_and_prepare()
                found = builder.as_dataset(split=self.split)
        except (OSError, ValueError, KeyError, DatasetsError) as error:
            said = (str(error) or repr(error)).splitlines()[0]
            reason = f"can't be read by `datasets`, split {self.split!r}: {said}"
            raise DepthLMError(
                self.source, reason, "save it with Dataset.save_to_disk, or as Parquet", "no source"
            ) from error
        of = str(found.split or self.split)  # what was saved alone, not as a dictionary, may still know
        if of.partition("[")[0] != self.split.partition("[")[0]:
            raise DepthLMError(self.source, f"holds split {of!r}, not {self.split!r}", f"--split {of}", "another split")
        for name in (self.image, self.depth):
            if name in found.features and isinstance(found.features[name], Image):
                found = found.cast_column(name, Image(decode=False))
        return found

    def _check_inside(self, files: Iterable[str]) -> None:
        """A table of files that came with the data may name any."""
        for file in files:
            inside(Path(self.source), file)

    def _check_columns(self) -> None:
        there = list(self._rows.features)
        for option in ("image", "depth", "intrinsics", "pose", "scene", "id", "timestamp"):
            column = getattr(self, option)
            if column is not None and column not in there:
                raise DepthLMError(
                    f"{option}={column}", "no such column", f"the dataset has {', '.join(there)}", "missing column"
                )
        if not isinstance(self._rows.features[self.image], Image):
            raise DepthLMError(f"image={self.image}", "is no column of images", "", "missing column")
        if len(self._rows):
            try:
                self._values(self._rows[0][self.depth], "row 0")
            except DepthLMError as error:
                if error.kind == "no unit":  # other faults of the first row are its own
                    raise

    def keys(self) -> Sequence[str]:
        """Row numbers."""
        return [str(number) for number in range(len(self._rows))]

    def read(self, key: str) -> Frame:
        """The frame of a row.

        Raises:
            DepthLMError: an image, map or asked-for value that is missing or unreadable, intrinsics or a pose that are
                none.
        """
        row, where = self._rows[int(key)], f"row {key}"
        image = self._bytes(row[self.image], where, "image")
        camera = self._camera(row, where, *image_size(image, where))
        z = self._depth(row[self.depth], where)
        if self.depth_is == "distance":
            z = as_z(z, camera.scaled(z.shape[1], z.shape[0]))
        return Frame(
            id=frame_id(_text(row[self.id], where, "id")) if self.id else f"{int(key):08d}",
            image=image,
            camera=camera,
            **depth_fields(z, camera.width, camera.height, self.labels, key),
            scene=_text(row[self.scene], where, "scene") if self.scene else self.dataset,
            dataset=self.dataset,
            split=self.split,
            licence=self.licence,
            timestamp=None if self.timestamp is None else _seconds(row[self.timestamp], where),
        )

    def _bytes(self, cell: dict[str, Any] | None, where: str, what: str) -> bytes:
        """Of an image that is in the dataset, or in a file inside its folder."""
        if not cell or (cell.get("bytes") is None and not cell.get("path")):
            raise DepthLMError(where, f"has no {what}", "", f"missing {what}")
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        if self.hub:
            raise DepthLMError(
                where, f"its {what} is not in the dataset itself", "save it with its images", f"missing {what}"
            )
        return read_bytes(Path(self.source), cell["path"], what)

    def _camera(self, row: dict[str, Any], where: str, width: int, height: int) -> Camera:
        pose = None if self.pose is None else _array(row[self.pose], (4, 4), where, "pose")
        if self.fov_x_deg is not None:
            return Camera.from_fov(width, height, self.fov_x_deg, pose=pose)
        numbers: Sequence[Any] = self.numbers
        if self.intrinsics is not None:
            cell = row[self.intrinsics]
            if np.size(np.asarray(cell, dtype=object)) == 4:
                numbers = _array(cell, (4,), where, "intrinsics").tolist()
            else:
                k = _array(cell, (3, 3), where, "intrinsics")
                if not np.array_equal(k[2], [0, 0, 1]) or k[1, 0] != 0 or abs(k[0, 1]) > MAX_SKEW * abs(k[0, 0]):
                    reason = f"intrinsics {k.tolist()} are not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
                    raise DepthLMError(where, reason, "not transposed, no skew", "bad intrinsics")
                numbers = [k[0, 0], k[1, 1], k[0, 2], k[1, 2]]
        fx, fy, cx, cy = (float(number) for number in numbers)
        camera = Camera(width, height, fx, fy, cx, cy, pose=pose)
        wide = max(2 * math.degrees(math.atan(size / 2 / f)) for size, f in ((width, fx), (height, fy)))
        if wide > MAX_FOV_DEG:
            reason = f"fx={fx:g}, fy={fy:g} in an image of {width}x{height} px: a field of view of {wide:.1f} degrees"
            raise DepthLMError(where, reason, "give intrinsics in px of this image", "bad intrinsics")
        return camera

    def _depth(self, cell: Any, where: str) -> NDArray[np.float32]:
        values = self._values(cell, where)
        unit = 1.0 if self.unit_m is None else self.unit_m
        z = in_range(values * np.float64(unit), self.min_m, self.max_m)
        if values.dtype.kind == "f":  # 65.535 is another number in float32, which a list does not show
            z[np.isin(values.astype(np.float32), np.asarray(self.invalid, np.float32))] = 0
        else:
            z[np.isin(values, self.invalid)] = 0
        return z

    def _values(self, cell: Any, where: str) -> NDArray[Any]:
        """(H, W) as the dataset has them."""
        if isinstance(self._rows.features[self.depth], Image):
            values = decode_depth_image(self._bytes(cell, where, "depth"), where)
        elif cell is None:
            raise DepthLMError(where, "has no depth", "", "missing depth")
        else:
            try:
                values = np.asarray(cell)
                if values.ndim == 3:  # one channel, last or first
                    values = values.reshape(values.shape[:2] if values.shape[2] == 1 else values.shape[1:])
                if values.ndim != 2 or values.dtype.kind not in "fiu":
                    raise ValueError(f"{values.dtype} of shape {values.shape}")
            except ValueError as error:
                raise DepthLMError(where, f"its depth is no map (H, W): {error}", "", "unreadable depth") from error
        if values.dtype.kind in "iu" and self.unit_m is None:
            raise DepthLMError(
                "unit_m",
                "is not given, and the depth is whole numbers",
                "--set unit_m=0.001 for millimetres",
                "no unit",
            )
        return values


def _array(cell: Any, shape: tuple[int, ...], where: str, what: str) -> NDArray[np.float64]:
    try:
        return np.asarray(cell, np.float64).reshape(shape)
    except (TypeError, ValueError) as error:
        raise DepthLMError(where, f"its {what} are not numbers of shape {shape}: {error}", "", f"bad {what}") from error


def _seconds(cell: Any, where: str) -> float:
    try:
        seconds = float(cell)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise DepthLMError(where, f"its timestamp {cell!r} is no number of seconds", "", "bad timestamp")
    return seconds


def _text(cell: Any, where: str, what: str) -> str:
    if cell is None or cell == "":
        raise DepthLMError(where, f"has no {what}", "", f"missing {what}")
    return str(cell)
