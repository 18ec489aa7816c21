"""VSI-Bench's published files -> a suite folder: its questions word for word, its videos as evenly spaced frames.

Layout, as the dataset is published (Yang et al., "Thinking in Space"; nyu-visionx/VSI-Bench): ``test.jsonl`` or
``test*.parquet`` with ``id, dataset, scene_name, question_type, question, ground_truth, options``, and the unpacked
videos ``DATASET/SCENE_NAME.mp4``. How questions are asked, and which frames are taken, follows its own evaluation: n
frames from the first to the last at equal steps, the options under the question. Scored by `eval.vsi_bench`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from depthlm.errors import DepthLMError, SkipReport
from depthlm.suite import VSI_BENCH, Item, Suite, SuiteWriter

NUMERIC = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
CHOICES = (
    "object_rel_distance",
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "route_planning",
    "obj_appearance_order",
)
COLUMNS = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth")
INTRODUCTION = "These are frames of a video."
ASK_NUMBER = "Please answer the question using a single word or phrase."
ASK_CHOICE = "Answer with the option's letter from the given choices directly."
# What a published name may be made of: it becomes part of a path.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def make_suite(
    source: Path, out: Path, frames: int = 16, limit: int | None = None, name: str = VSI_BENCH
) -> tuple[Suite, SkipReport]:
    """Write a suite of the questions whose video is there; the others are counted.

    Args:
        source: folder with the question file and the videos.
        frames: taken from each video; Metric Anything's table 11 gives Qwen2.5-VL 16.
        limit: only so many questions, from the first.

    Raises:
        DepthLMError: no question file, a row that is not one, or no question with a video.
    """
    if frames < 1:
        raise DepthLMError("--frames", f"is {frames}", "give 1 or more")
    rows = list(_rows(source))[:limit]
    writer, report = SuiteWriter(out), SkipReport()
    shown: dict[str, list[str] | None] = {}
    for where, row in tqdm(rows, desc=f"freeze {name}", unit="question"):
        item = _item(where, row)
        video = f"{row['dataset']}/{row['scene_name']}.mp4"
        if video not in shown:
            try:
                shown[video] = [writer.write_image(pixels) for pixels in video_frames(source / video, frames)]
            except DepthLMError as error:
                report.add(error)
                shown[video] = None
        elif shown[video] is None:
            report.count("no video", item.id)
        images = shown[video]
        if images is not None:
            writer.add(replace(item, images=images))
    settings = {"protocol": VSI_BENCH, "frames": frames, "limit": limit, "skipped": report.to_dict()}
    return writer.finish(name, settings), report


def _rows(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines, tables = source / "test.jsonl", sorted(source.glob("test*.parquet"))
    if lines.is_file():
        for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{lines} line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DepthLMError(where, f"is not JSON: {error}", "download it again") from error
            yield where, _whole(where, row)
    elif tables:
        for path in tables:
            try:
                found = pq.read_table(path).to_pylist()
            except (pa.ArrowInvalid, OSError) as error:
                raise DepthLMError(path, f"can't be read: {error}", "download it again") from error
            for number, row in enumerate(found):
                yield f"{path} row {number}", _whole(f"{path} row {number}", row)
    else:
        raise DepthLMError(source, "holds neither test.jsonl nor test*.parquet", "give VSI-Bench's folder")


def _whole(where: str, row: Any) -> dict[str, Any]:
    missing = [column for column in COLUMNS if not isinstance(row, dict) or row.get(column) is None]
    if missing:
        raise DepthLMError(where, f"lacks {', '.join(missing)}", "download it again")
    for column in ("dataset", "scene_name"):
        if not NAME.fullmatch(str(row[column])):
            raise DepthLMError(where, f"{column} {row[column]!r} is no file name", "download it again")
    return row


def _item(where: str, row: dict[str, Any]) -> Item:
    """A question, without its images."""
    kind, answer = str(row["question_type"]), str(row["ground_truth"]).strip()
    if kind in NUMERIC:
        try:
            truth = float(answer)
        except ValueError as error:
            raise DepthLMError(where, f"ground_truth {answer!r} is no number", "download it again") from error
        unit, asked = "number", [ASK_NUMBER]
    elif kind in CHOICES:
        options = row.get("options") or []
        letters = [str(option)[:1].upper() for option in options]
        if answer.upper() not in letters:
            raise DepthLMError(where, f"ground_truth {answer!r} is none of its options", "download it again")
        truth = float(letters.index(answer.upper()) + 1)
        unit, asked = "choice", ["Options:", *map(str, options), ASK_CHOICE]
    else:
        known = ", ".join((*NUMERIC, *CHOICES))
        raise DepthLMError(where, f"question_type {kind!r} is not known", f"known: {known}")
    return Item(
        id=f"vsi-{row['id']}",
        kind=kind,
        dataset=str(row["dataset"]),
        frame_ids=[str(row["scene_name"])],
        question="\n".join([INTRODUCTION, str(row["question"]).strip(), *asked]),
        answer=answer,
        truth=truth,
        unit=unit,
    )


def video_frames(path: Path, count: int) -> list[NDArray[np.uint8]]:
    """``count`` frames of a video, (H, W, 3) RGB, from its first to its last at equal steps.

    Raises:
        DepthLMError: there is no such file, or it can't be decoded.
    """
    import av

    if not path.is_file():
        raise DepthLMError(path, "no such video", "unpack the dataset's archives here", "no video")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            total = stream.frames or sum(1 for _ in container.decode(stream))
            container.seek(0)
            wanted = [int(i) for i in np.linspace(0, total - 1, count)]
            found: dict[int, NDArray[np.uint8]] = {}
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    found[index] = frame.to_ndarray(format="rgb24")
                if index >= wanted[-1]:
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise DepthLMError(path, f"can't be decoded: {error}", "unpack it again", "broken video") from error
    if not found:
        raise DepthLMError(path, "has no frames", "unpack it again", "broken video")
    last = max(found)  # a container may promise a few frames more than it has
    return [found.get(index, found[last]) for index in wanted]
