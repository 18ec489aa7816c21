"""A frozen suite: a plain folder of images, questions and answers with a content hash.

``suite.json`` says what it is, ``questions.jsonl`` holds a row per question, ``images/`` the marked PNGs named by their
content. Anyone can open it without this library.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.sample import Sample

FORMAT_VERSION = 1
# Folder of a training run with what was said each time a suite was asked. What begins with _ is not pushed to a hub.
ANSWERS = "_answers"


@dataclass(frozen=True)
class Item:
    """One frozen question.

    Args:
        image_paths: its marked images, absolute.
        truth: exact answer in ``unit``; ``answer`` is the supervised text.
        points: the marked points (see `depthlm.sample.Turn`).
    """

    id: str
    kind: str
    dataset: str
    frame_ids: list[str]
    images: list[str]
    question: str
    answer: str
    truth: float
    unit: str
    points: list[dict[str, Any]]
    system: str
    image_paths: list[Path]


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
                raise DepthLMError(path, "is not empty", "name a new folder; a frozen suite is never overwritten")
            (path / "images").mkdir(parents=True)
        except OSError as error:
            raise DepthLMError(path, f"can't be written: {error}", "check the path and its permissions") from error

    def add(self, sample: Sample) -> None:
        """Write the sample's images and a row for each of its turns (each is asked on its own)."""
        images = [self.write_image(pixels) for pixels in sample.images]
        for i, turn in enumerate(sample.turns):
            self.rows.append(
                {
                    "id": f"{sample.id}-{i}" if len(sample.turns) > 1 else sample.id,
                    "dataset": sample.dataset,
                    "frame_ids": sample.frame_ids,
                    "images": images,
                    "system": sample.system,
                    **asdict(turn),
                }
            )

    def write_image(self, pixels: NDArray[np.uint8]) -> str:
        """Write (H, W, 3) RGB as a PNG named by its content; its path in the suite."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        name = f"images/{hashlib.sha256(pixels.tobytes() + repr(pixels.shape).encode()).hexdigest()[:24]}.png"
        if not (self.path / name).exists():
            (self.path / name).write_bytes(buffer.getvalue())
        return name

    def finish(self, name: str, settings: dict[str, Any]) -> Suite:
        """Write questions.jsonl and, last, suite.json."""
        if not self.rows:
            raise DepthLMError(self.path, "no question could be made", "see the skip report of the frames")
        lines = [json.dumps(row, sort_keys=True, ensure_ascii=False) for row in self.rows]
        (self.path / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        info = {
            "format": FORMAT_VERSION,
            "name": name,
            "hash": content_hash(lines),
            "count": len(lines),
            "settings": settings,
        }
        temporary = self.path / "suite.json.tmp"
        temporary.write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path / "suite.json")
        return read_suite(self.path)


def content_hash(lines: Iterable[str]) -> str:
    """sha256 over the rows; images are named in them by their own hashes, so these count too."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]


def read_suite(path: str | Path) -> Suite:
    """Open a suite folder and check it against its hash.

    Raises:
        DepthLMError: no suite there, rows that don't match the hash, an image that is missing or outside the folder.
    """
    path = Path(path)
    try:
        info = json.loads((path / "suite.json").read_text(encoding="utf-8"))
        lines = (path / "questions.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise DepthLMError(path, f"is no suite: {error}", "make one with `depthlm data freeze`") from error
    if not isinstance(info, dict) or info.get("hash") != content_hash(lines):
        raise DepthLMError(path, "questions.jsonl does not match the hash in suite.json", "freeze or fetch it again")
    root = path.resolve()
    items = []
    for number, row in enumerate(rows, 1):
        try:
            paths = [(root / name).resolve() for name in row["images"]]
            item = Item(**row, image_paths=paths)
        except (KeyError, TypeError) as error:
            raise DepthLMError(
                f"{path}/questions.jsonl line {number}", f"bad row: {error}", "freeze it again"
            ) from error
        for image in paths:
            if not image.is_relative_to(root) or not image.is_file():
                raise DepthLMError(f"{path}/questions.jsonl line {number}", f"no image {image.name} in the suite", "")
        items.append(item)
    if len({item.id for item in items}) < len(items):
        raise DepthLMError(f"{path}/questions.jsonl", "two questions have the same id", "freeze it again")
    return Suite(path, info, items)
