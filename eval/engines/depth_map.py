"""Dense depth models as answerers: what a depth map says at the marked pixels, through the image's own camera."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from depthlm.errors import DepthLMError
from depthlm.questions import KINDS
from depthlm.store import replace_file
from depthlm.suite import Item, Suite
from depthlm.suite_view import SuiteView
from eval.depth_maps import Map, MapAnswer, MapFolder, answer, values_at
from eval.depth_pipeline import DepthPipeline
from eval.engines import Reply

# Begins the answer where the map has nothing to say, before the reason. No number may be in either.
NO_ANSWER = "unknown"
NO_DEPTH = "the map has no depth there"
# Beside the maps: frame id -> the focal length that the model estimated, px of the image.
FOCALS = "focal_lengths.json"
# Estimated focal lengths are written once in so many images.
FOCALS_EVERY = 50


class DepthMapEngine:
    """Answers from maps of the original images, one for each frame of the suite.

    Args:
        model: whose maps they are.
        maps: the maps, see `eval.depth_maps.MapFolder`.
    """

    def __init__(self, suite: Suite, model: str, maps: MapFolder) -> None:
        self.model, self.maps, self.settings = model, maps, {"maps": True, "unit": maps.unit}
        self._view = SuiteView(suite)
        # Of as-published suites: parts whose "distance" is the depth z, which a map gives as it is.
        self._truth_is_z = {part.get("name"): part.get("truth_is") == "z" for part in suite.settings.get("parts") or []}
        self._map = lru_cache(2)(maps.read)

    async def start(self) -> None:
        """Nothing to make ready."""

    def packer(self) -> None:
        """The maps were made before."""

    async def ask(self, item: Item, packed: None, before: Sequence[str]) -> Reply:
        """What the map says.

        Raises:
            DepthLMError: a map is missing, damaged, or of another shape than the image; or it is not known what the
                question's truth is.
        """
        return Reply(self._answer(item), 0.0)

    def _answer(self, item: Item) -> str:
        if len(item.frame_ids) != 1 or not item.labels:
            return f"{NO_ANSWER}: a depth map says nothing about this kind of question"
        frame = self._view.frames(item)[0]
        z, xy = self._map(item.frame_ids[0]), frame.xy[item.labels]
        if self._asks_z(item):
            found = MapAnswer(float(values_at(z, xy, frame.camera)[0]), NO_DEPTH)
        else:
            found = answer(KINDS.get(item.kind), z, xy, frame.camera, item.given)
        if found.value is None or np.isnan(found.value):
            # the pixel that is named would be read as an answer
            return f"{NO_ANSWER}: {re.sub(r' at [(].*[)]', ' there', found.reason or NO_DEPTH)}"
        return f"{found.value:.9g}"

    def _asks_z(self, item: Item) -> bool:
        """Whether the truth is z, whatever the question calls it: as its part says, which begins its id."""
        if len(set(self._truth_is_z.values())) < 2:  # all parts, of which a single one needs no name, are the same
            return any(self._truth_is_z.values())
        name = item.id.partition("/")[0]
        if name not in self._truth_is_z:
            reason = f"belongs to none of the suite's parts, {', '.join(map(str, self._truth_is_z))}: is its truth z?"
            raise DepthLMError(f"question {item.id}", reason, "freeze or fetch the suite again")
        return self._truth_is_z[name]

    async def close(self) -> None:
        """Nothing to free."""


def predict_maps(suite: Suite, model: str, out: Path) -> str:
    """Write the depth map of each of the suite's frames, by a depth model of transformers; goes on where it was.

    Returns:
        What a reader of the scores has to know; "" for nothing.

    Raises:
        DepthLMError: it is no depth model, or ``out`` can't be written.
    """
    pipeline, view = DepthPipeline(model), SuiteView(suite)
    focals: dict[str, float] = read_focals(out)
    written = len(focals)
    try:
        for item in tqdm(one_per_frame(suite), desc="depth maps", unit="image"):
            path = out / f"{item.frame_ids[0]}.npy"
            # a process that was killed may have left maps without their focal lengths
            if path.is_file() and (not focals or item.frame_ids[0] in focals):
                continue
            found = pipeline.estimate(view.frames(item)[0].pixels(checked=True), item.frame_ids[0])
            if found.camera is not None:
                focals[item.frame_ids[0]] = found.camera.fx
                if len(focals) == 1 or len(focals) >= written + FOCALS_EVERY:
                    write(out / FOCALS, json.dumps(focals).encode())
                    written = len(focals)
            write(path, _npy(found.z))
    finally:
        if len(focals) > written:
            write(out / FOCALS, json.dumps(focals).encode())
    return pipeline.note


def one_per_frame(suite: Suite) -> list[Item]:
    """An item of each frame that questions with marked points are about."""
    return list({item.frame_ids[0]: item for item in suite.items if item.labels}.values())


def export_images(suite: Suite, out: Path) -> int:
    """Write the original image of each frame as ``FRAME.SUFFIX``, and ``cameras.json``; how many images.

    Raises:
        DepthLMError: ``out`` can't be written.
    """
    view, cameras = SuiteView(suite), {}
    for item in one_per_frame(suite):
        frame = view.frames(item)[0]
        with Image.open(io.BytesIO(frame.image)) as image:
            suffix = (image.format or "png").lower().replace("jpeg", "jpg")
        write(out / f"{item.frame_ids[0]}.{suffix}", frame.image)
        names = ("width", "height", "fx", "fy", "cx", "cy", "distortion")
        cameras[item.frame_ids[0]] = {name: getattr(frame.camera, name) for name in names}
    write(out / "cameras.json", json.dumps(cameras, indent=1).encode())
    return len(cameras)


def read_focals(maps: Path) -> dict[str, float]:
    """Estimated focal lengths beside maps, if any.

    Raises:
        DepthLMError: the file is no mapping of frame ids to positive numbers.
    """
    path = maps / FOCALS
    if not path.is_file():
        return {}
    try:
        found = {str(key): float(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
        if any(not value > 0 for value in found.values()):
            raise ValueError("a focal length is not positive")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DepthLMError(path, f"can't be read: {error}", "a mapping of frame ids to focal lengths in px") from error
    return found


def write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and its folders."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DepthLMError(path, f"can't be written: {error.strerror}", "check --out and its permissions") from error
    replace_file(path, data)


def _npy(z: Map) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, z.astype(np.float32), allow_pickle=False)
    return buffer.getvalue()
