"""A frozen suite: a plain folder of questions, answers and what they are about, with a content hash.

``suite.json`` says what it is, ``questions.jsonl`` holds a row per question. What is asked about is either a frame of
``frames/``, a frame store with nothing but the labels that are asked: it is drawn in the form that a model wants when
it is asked (`depthlm.suite_view`). Or it is files of ``images/``, shown as they are. Anyone can open it without this
library: Parquet, JSON Lines and PNG.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from sys import intern
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.store import SCHEMA, replace_file, write_shard
from depthlm.store_index import INDEX_FILE, index_bytes

FORMAT_VERSION = 2
# The protocol of suites whose truths may be 0, or a choice's.
VSI_BENCH = "vsi-bench"
FRAMES = "frames"
FRAMES_PER_SHARD = 256
BYTES_PER_SHARD = 256 << 20  # of images and depth, as they are held until a shard is written
HASH_LENGTH = 24
# Folder of a training run with what was said each time a suite was asked. What begins with _ is not pushed to a hub.
ANSWERS = "_answers"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One frozen question.

    Args:
        question: as the suite's own profile asks it; another profile names its own marker.
        answer: the supervised text; ``truth`` the exact answer in ``unit``.
        frame_ids: frames of ``frames/`` with ``frame_hashes`` (see `frame_hash`); of stored images, what they show.
        labels: indices of the asked labels among those of the first frame.
        phrasing, given: see `depthlm.questions.Wording`.
        images: stored images, relative to the suite; empty where frames are asked about.
        points: the marked points: colour, ``source_xy`` in the original image, ``z`` and ``distance`` in metres.
        camera: of the first frame: width and height in px, ``fov_deg``; empty where it is not known.
        system: system prompt of stored images; frames get their profile's.
        image_paths: the stored images, absolute.
    """

    id: str
    kind: str
    dataset: str
    frame_ids: list[str]
    question: str
    answer: str
    truth: float
    unit: str
    frame_hashes: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    phrasing: str = ""
    given: float = 1.0
    images: list[str] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    camera: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    image_paths: list[Path] = field(default_factory=list)

    @property
    def image_count(self) -> int:
        """Images of the question."""
        return len(self.images) or len(self.frame_ids)


@dataclass(frozen=True)
class Suite:
    """A suite that was read: ``info`` is suite.json."""

    path: Path
    info: dict[str, Any]
    items: list[Item]

    @property
    def name(self) -> str:
        return str(self.info["name"])

    @property
    def hash(self) -> str:
        return str(self.info["hash"])

    @property
    def settings(self) -> dict[str, Any]:
        """How it was frozen."""
        return dict(self.info.get("settings") or {})


class SuiteWriter:
    """Writes a suite question by question; the folder is valid once ``finish`` has returned.

    Raises:
        DepthLMError: the folder already holds a suite or other files, or can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        try:
            if path.exists() and any(path.iterdir()):
                raise DepthLMError(path, "is not empty", _mend_full(path))
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DepthLMError(path, f"can't be written: {error}", "check the path and its permissions") from error

    def add(self, item: Item) -> None:
        """Write a question's row, without what says nothing."""
        row = {key: value for key, value in asdict(item).items() if value not in ([], {}, "")}
        row.pop("image_paths", None)
        self.rows.append({**row, "frame_ids": item.frame_ids})

    def write_image(self, pixels: NDArray[np.uint8]) -> str:
        """Write (H, W, 3) RGB as a PNG named by its content; its path in the suite."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        path = self.path / image_name(pixels)
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(buffer.getvalue())
        return image_name(pixels)

    def write_frames(self, frames: Iterable[Frame]) -> dict[str, str]:
        """Write the frames that are asked about into ``frames/``; id -> `frame_hash`."""
        folder, found, part, size, shards = self.path / FRAMES, {}, [], 0, 0
        folder.mkdir(exist_ok=True)
        for frame in frames:
            found[frame.id] = frame_hash(frame)
            part.append(frame)
            size += len(frame.image) + (0 if frame.depth is None else frame.depth.nbytes)
            if len(part) == FRAMES_PER_SHARD or size >= BYTES_PER_SHARD:
                write_shard(folder / f"frames-{shards:06d}.parquet", part)
                part, size, shards = [], 0, shards + 1
        if part:
            write_shard(folder / f"frames-{shards:06d}.parquet", part)
        replace_file(folder / INDEX_FILE, index_bytes(folder, SCHEMA.names))
        return found

    def finish(self, name: str, settings: dict[str, Any]) -> Suite:
        """Write questions.jsonl and, last, suite.json."""
        if not self.rows:
            raise DepthLMError(self.path, "no question could be made", "see the skip report of the frames")
        lines = [json.dumps(row, sort_keys=True, ensure_ascii=False) for row in self.rows]
        info = {
            "format": FORMAT_VERSION,
            "name": name,
            "hash": content_hash(lines, settings),
            "count": len(lines),
            "settings": settings,
        }
        replace_file(self.path / "questions.jsonl", ("\n".join(lines) + "\n").encode())
        replace_file(self.path / "suite.json", (json.dumps(info, indent=1) + "\n").encode())
        return read_suite(self.path)


def _mend_full(path: Path) -> str:
    if (path / FRAMES).is_dir() and not (path / "suite.json").exists():
        return "if it is a suite that was not finished, delete it; else name a new folder"
    return "name a new folder; a frozen suite is never overwritten"


def image_name(pixels: NDArray[np.uint8]) -> str:
    """Where a suite keeps a stored image, (H, W, 3) RGB: named by its content."""
    digest = hashlib.sha256(pixels.tobytes() + repr(pixels.shape).encode()).hexdigest()
    return f"images/{digest[:HASH_LENGTH]}.png"


def content_hash(lines: Iterable[str], settings: dict[str, Any] | None = None) -> str:
    """sha256 over the rows and over the settings: how they are asked, scored and compared. Frames and images are named
    in the rows by their own hashes. Two things change nothing of that and don't count: what was skipped on the way, and
    how the folders of the stores were called.
    """
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    kept = _without(settings or {}, "skipped")
    if isinstance(kept.get("parts"), list):
        kept["parts"] = [_without(part, "stores") if isinstance(part, dict) else part for part in kept["parts"]]
    digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


def frame_hash(frame: Frame) -> str:
    """sha256 over an image's bytes, its camera, its labels and its dense depth."""
    camera, digest = frame.camera, hashlib.sha256(frame.image)
    numbers = [camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion]
    for array in (np.array(numbers, np.float64), camera.pose, frame.xy, frame.z, frame.depth):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:HASH_LENGTH]


def read_suite(path: str | Path) -> Suite:
    """Open a suite folder and check it against its hash; its frames are checked when they are shown.

    Raises:
        DepthLMError: no suite there, one of an earlier format, rows that don't match the hash, an image that is missing
            or outside the folder.
    """
    path = Path(path)
    try:
        info = json.loads((path / "suite.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DepthLMError(path, f"is no suite: {error}", "make one with `depthlm data freeze`") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT_VERSION:
        found = info.get("format") if isinstance(info, dict) else None
        raise DepthLMError(path, f"is of format {found}, not {FORMAT_VERSION}", "freeze it again")
    if not (isinstance(info.get("name"), str) and isinstance(info.get("settings") or {}, dict)):
        raise DepthLMError(f"{path}/suite.json", "has no name, or settings that are none", "freeze or fetch it again")
    lines = _Lines(path / "questions.jsonl")
    if info.get("hash") != content_hash(lines, info.get("settings")):
        reason = "what it asks, or its settings, does not match the hash in suite.json"
        raise DepthLMError(path, reason, "freeze or fetch it again")
    settings = info.get("settings") or {}
    _check_settings(settings, path)
    root, positive = path.resolve(), settings.get("protocol") != VSI_BENCH
    items = [_item(path, root, number, line, positive) for number, line in enumerate(lines, 1)]
    if len({item.id for item in items}) < len(items):
        raise DepthLMError(f"{path}/questions.jsonl", "two questions have the same id", "freeze it again")
    if any(item.frame_hashes for item in items) and not (path / FRAMES).is_dir():
        raise DepthLMError(path, f"has no {FRAMES}/", "freeze or fetch it again")
    return Suite(path, info, items)


class _Lines:
    """The lines of a file, read anew each time: a hundred thousand questions are never all in memory as text."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        try:
            with self.path.open(encoding="utf-8", newline="\n") as file:
                for line in file:
                    yield line.rstrip("\n")
        except (OSError, ValueError) as error:
            raise DepthLMError(self.path.parent, f"is no suite: {error}", "freeze or fetch it again") from error


def _shared(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A row's object whose names, and values that many rows have, are held once for all rows."""
    return {intern(key): intern(value) if key in _REPEATED else value for key, value in pairs}


_REPEATED = ("kind", "dataset", "phrasing", "unit", "system", "colour")
_SAME = json.JSONDecoder(object_pairs_hook=_shared)
_TYPES: dict[str, tuple[tuple[type, ...], type | None]] = {
    "str": ((str,), None),
    "float": ((int, float), None),
    "list[str]": ((list,), str),
    "list[int]": ((list,), int),
    "list[dict[str, Any]]": ((list,), dict),
    "dict[str, Any]": ((dict,), None),
}
# Field -> the types of its value, and of that one's entries.
_ROW_TYPES = {entry.name: _TYPES[str(entry.type)] for entry in fields(Item) if entry.name != "image_paths"}


# Settings that are read when a suite is asked or scored, and their types.
_SETTING_TYPES = {
    **dict.fromkeys(("profile", "intrinsics", "pointing", "form", "protocol", "recipe"), str),
    "footnotes": dict,
    "parts": list,
}


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    for name, kind in _SETTING_TYPES.items():
        value = settings.get(name)
        good = value is None or isinstance(value, kind)
        if not good or (name == "parts" and not all(isinstance(part, dict) for part in value or [])):
            raise DepthLMError(f"{path}/suite.json", f"{name} is {value!r}", "freeze or fetch it again")


def _item(path: Path, root: Path, number: int, line: str, positive: bool) -> Item:
    """The question of a line; ``root`` is the suite's folder, resolved; ``positive``: no truth may be 0 or less."""
    where = f"{path}/questions.jsonl line {number}"
    try:
        row = _SAME.decode(line)
        if unknown := row.keys() - _ROW_TYPES.keys():
            raise KeyError(", ".join(sorted(unknown)))
        for name, value in row.items():
            _check_field(name, value)
        _check_content(row, positive)
        item = Item(**row, image_paths=[(root / name).resolve() for name in row.get("images", [])])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise DepthLMError(where, f"bad row: {error}", "freeze it again") from error
    for image in item.image_paths:
        if not image.is_relative_to(root) or not image.is_file():
            raise DepthLMError(where, f"no image {image.name} in the suite", "freeze or fetch it again")
    if not item.image_paths and len(item.frame_hashes) != len(item.frame_ids):
        raise DepthLMError(where, "names neither images nor frames with their hashes", "freeze it again")
    return item


def _check_field(name: str, value: Any) -> None:
    """Refuse a value of another type than the row's field has: a suite may come from anywhere."""
    types, entry = _ROW_TYPES[name]
    good = type(value) in types and (entry is None or all(type(one) is entry for one in value))
    if not good or (float in types and not math.isfinite(value)):
        raise TypeError(f"{name} is {value!r}")


def _check_content(row: dict[str, Any], positive: bool) -> None:
    """Refuse values that have the right type and can't be."""
    if positive and not row["truth"] > 0:
        raise ValueError(f"truth is {row['truth']}")
    if not row["frame_ids"]:
        raise ValueError("frame_ids is empty")
    for point in row.get("points", ()):
        xy = point["source_xy"]
        if not (_is_number(point["z"]) and isinstance(xy, list) and len(xy) == 2 and all(map(_is_number, xy))):
            raise ValueError(f"a point is {point}")
    camera = row.get("camera", {})
    fov = camera.get("fov_deg", [1])
    sizes = [camera.get("width", 1), camera.get("height", 1), *(fov if isinstance(fov, list) and fov else [None])]
    if not all(_is_number(size) and size > 0 for size in sizes):
        raise ValueError(f"camera is {camera}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def group_of(item: Item) -> str:
    """The image that a question is about: what is resampled for intervals and for comparisons."""
    return f"{item.dataset}/{(item.frame_ids or item.images)[0]}"


def evenly(items: Sequence[T], count: int) -> list[T]:
    """``count`` of the items, evenly spaced, or all where there are fewer."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
