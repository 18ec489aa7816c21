"""The frame store: Parquet shards of frames that Hugging Face `datasets` reads without this code.

A store is a folder: ``frames-000000.parquet`` …, ``store.json`` (what made it), ``report.json`` (what was skipped) and
``index.arrow`` (which frame lies where).
One row is one frame: the original image file's bytes, intrinsics in px, camera-to-world pose in metres (16 numbers,
row by row), labelled pixels with z in metres, optionally a dense z map. The dense map is a float32 TIFF in metres, or a
16-bit PNG whose counts times ``depth_unit`` are metres; 0 is unknown in both.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import IMAGE_FORMATS, Frame, pillow_says
from depthlm.store_index import check_unique, open_index

ROWS_PER_GROUP = 16  # most rows that one random access has to read …
BYTES_PER_GROUP = 4 << 20  # … and about how many bytes, where images are large
CACHED_GROUPS = 4
OPEN_SHARDS = 16
# Metres of one count in the field's 16-bit depth maps: millimetres, centimetres, 1/256 (KITTI), and so on.
DEPTH_UNITS = (1 / 1000, 1 / 256, 1 / 512, 1 / 4000, 1 / 5000, 1 / 8000, 1 / 100)
ID_PATTERN = re.compile(r"[A-Za-z0-9._\-/]+")

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "image": _IMAGE,
    "width": pa.int32(),
    "height": pa.int32(),
    **dict.fromkeys(("fx", "fy", "cx", "cy"), pa.float64()),
    "distortion": pa.list_(pa.float64()),
    "pose": pa.list_(pa.float64()),
    **dict.fromkeys(("label_x", "label_y", "label_z"), pa.list_(pa.float32())),
    "depth": _IMAGE,
    "depth_unit": pa.float64(),
    **dict.fromkeys(("scene", "dataset", "split", "licence"), pa.string()),
    "timestamp": pa.float64(),
}
_DTYPE_NAMES = {pa.string(): "string", pa.int32(): "int32", pa.float32(): "float32", pa.float64(): "float64"}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """The column's type as `datasets` writes it into a Parquet file's metadata."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": _DTYPE_NAMES[kind], "_type": "Value"}


SCHEMA = pa.schema(
    list(_COLUMNS.items()),
    metadata={
        "huggingface": json.dumps({"info": {"features": {name: _feature(kind) for name, kind in _COLUMNS.items()}}})
    },
)


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all: temporary file, fsync, rename.

    Raises:
        DepthLMError: the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DepthLMError(
            path, f"can't be written: {error.strerror or error}", "free space, or choose another folder", "unwritable"
        ) from error


def encode_depth(depth: NDArray[np.float32]) -> tuple[bytes, float]:
    """(H, W) float32 z in metres -> an image file and the metres of one of its counts, lossless.

    A 16-bit PNG where every value is a count of a usual unit (half the time and size), else a float32 TIFF and 1.0.
    """
    buffer = io.BytesIO()
    for unit in DEPTH_UNITS:
        if (counts := _counts(depth, unit)) is not None:
            Image.fromarray(counts).save(buffer, "PNG", compress_level=1)
            return buffer.getvalue(), unit
    Image.fromarray(np.ascontiguousarray(depth, np.float32)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue(), 1.0


def _counts(depth: NDArray[np.float32], unit: float) -> NDArray[np.uint16] | None:
    """The map in counts of ``unit`` metres, None where that is not exact."""
    for values in (depth[:: max(1, len(depth) // 8)], depth):  # a few rows tell most maps from what is no count
        counts = np.rint(values / np.float64(unit))
        if counts.max(initial=0) > 65535 or not np.array_equal((counts * unit).astype(np.float32), values):
            return None
    return counts.astype(np.uint16)


def decode_depth(data: bytes, unit: float, where: str) -> NDArray[np.float32]:
    """A float32 TIFF or 16-bit PNG -> (H, W) float32 z in metres, stored values times ``unit``.

    Raises:
        DepthLMError: the bytes are no whole single-channel image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.mode != "F" and not image.mode.startswith("I"):
                raise ValueError(f"mode {image.mode} holds no depth")
            return (np.asarray(image, np.float64) * unit).astype(np.float32)
    except Exception as error:  # Pillow raises many types for broken files; each means the same to the user
        raise DepthLMError(
            where, f"depth map can't be decoded: {pillow_says(error)}", "curate again", "unreadable depth"
        ) from error


def frame_to_row(frame: Frame) -> dict[str, Any]:
    """A frame as one row of ``SCHEMA``.

    Raises:
        DepthLMError: its id holds other characters than letters, digits and ``._-/``.
    """
    if not ID_PATTERN.fullmatch(frame.id):
        raise DepthLMError(f"frame {frame.id!r}", "an id may hold letters, digits and ._-/ only", "", "bad id")
    camera, depth = frame.camera, None if frame.depth is None else encode_depth(frame.depth)
    return {
        "id": frame.id,
        "image": {"bytes": frame.image, "path": None},
        **{name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")},
        "distortion": list(camera.distortion),
        "pose": None if camera.pose is None else camera.pose.ravel().tolist(),
        "label_x": frame.xy[:, 0],
        "label_y": frame.xy[:, 1],
        "label_z": frame.z,
        "depth": None if depth is None else {"bytes": depth[0], "path": None},
        "depth_unit": None if depth is None else depth[1],
        **{name: getattr(frame, name) for name in ("scene", "dataset", "split", "licence", "timestamp")},
    }


def write_shard(path: Path, frames: Sequence[Frame]) -> None:
    """Write one shard whole or not at all; a file of that name is replaced.

    Raises:
        DepthLMError: two frames of one id, a bad id, or the folder can't be written.
    """
    check_unique([frame.id for frame in frames], path)
    rows = [frame_to_row(frame) for frame in frames]
    mean = sum(len(row["image"]["bytes"]) + len((row["depth"] or {}).get("bytes", b"")) for row in rows) / len(rows)
    group = int(np.clip(BYTES_PER_GROUP // max(mean, 1), 1, ROWS_PER_GROUP))
    buffer = io.BytesIO()
    # Images and depth maps are compressed already, and what remains is small: plain pages are the quickest to read.
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMA),
        buffer,
        row_group_size=group,
        compression="NONE",
        use_dictionary=["scene", "dataset", "split", "licence"],
        write_statistics=False,
    )
    replace_file(Path(path), buffer.getvalue())


class FrameStore:
    """Random and sequential access to the frames of a store folder; may be handed to DataLoader workers.

    A read loads one row group (up to 16 frames) and the last few stay in memory, so walking through the store in order
    reads each byte once, and memory does not grow with the store.

    Args:
        path: the store's folder.

    Raises:
        DepthLMError: no such folder, no frame in it, an unfinished curation, a shard that is damaged or of another
            layout, or an id that occurs twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise DepthLMError(self.path, "no such frame store", "make one with `depthlm data curate`", "no store")
        if (self.path / "store.json").exists() and not (self.path / "report.json").exists():
            raise DepthLMError(
                self.path, "its curation did not finish", "run the same command again: it resumes", "unfinished store"
            )
        self.index = open_index(self.path, SCHEMA.names)
        if not len(self.index.id):
            raise DepthLMError(self.path, "the frame store is empty", "see its report.json for why", "empty store")
        self._reset()

    @property
    def ids(self) -> list[str]:
        """Ids of all frames, in order."""
        return self.index.id.to_pylist()

    @property
    def scenes(self) -> dict[str, NDArray[np.int64]]:
        """Scene -> the indices of its frames, in order."""
        return self.index.scenes

    @cached_property
    def label_counts(self) -> NDArray[np.int64]:
        """(frames,) labelled pixels of each frame; of a dense map, which is not decoded for it, all its pixels."""
        counts = []
        for shard in self.index.shards:
            with pq.ParquetFile(self.path / shard.name) as file:
                table = file.read(columns=["label_z", "width", "height", "depth.path"])
            sparse = pc.fill_null(pc.list_value_length(table["label_z"]), 0).to_numpy()
            pixels = table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy()
            counts.append(np.where(table["depth"].is_valid().to_numpy(), pixels, sparse))
        return np.concatenate(counts)

    def __len__(self) -> int:
        return len(self.index.id)

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Frame:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a store of {len(self)}")
        index = int(index) % len(self)
        starts = self.index.groups[2]
        group = int(np.searchsorted(starts, index, "right")) - 1
        return _row_to_frame(self._group(group), index - int(starts[group]))

    def _group(self, number: int) -> pa.Table:
        if self._pid != os.getpid():  # a forked worker must not share file handles with its parent
            self._reset()
        if number not in self._cache:
            shards, within, _ = self.index.groups
            path = self.path / self.index.shards[shards[number]].name
            try:
                table = self._file(path).read_row_group(int(within[number]), use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise DepthLMError(path, f"shard can't be read: {error}", "curate again", "damaged shard") from error
            self._cache[number] = table
            if len(self._cache) > CACHED_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]

    def _file(self, path: Path) -> pq.ParquetFile:
        if path not in self._files:
            self._files[path] = pq.ParquetFile(path)
            if len(self._files) > OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._files: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameStore, (self.path,)  # another process maps the index itself


def _row_to_frame(table: pa.Table, row: int) -> Frame:
    values = {name: table[name][row] for name in SCHEMA.names}
    plain = {
        name: scalar.as_py()
        for name, scalar in values.items()
        if name not in ("label_x", "label_y", "label_z", "depth")
    }
    x, y, z = (values[name].values.to_numpy(zero_copy_only=False) for name in ("label_x", "label_y", "label_z"))
    pose, depth = plain["pose"], None
    if values["depth"].is_valid:
        unit = 1.0 if plain["depth_unit"] is None else plain["depth_unit"]
        depth = decode_depth(values["depth"]["bytes"].as_py(), unit, f"frame {plain['id']}")
    camera = Camera(
        **{name: plain[name] for name in ("width", "height", "fx", "fy", "cx", "cy")},
        distortion=tuple(plain["distortion"]),
        pose=None if pose is None else np.reshape(pose, (4, 4)),
    )
    return Frame(
        image=plain["image"]["bytes"],
        camera=camera,
        xy=np.stack([x, y], axis=1),
        z=z,
        depth=depth,
        **{name: plain[name] for name in ("id", "scene", "dataset", "split", "licence", "timestamp")},
    )
