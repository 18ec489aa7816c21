"""What the web page does: photos with clicked points -> questions, measurements, point clouds."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import wait
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.measuring import Measurement
from depthlm.questions import KINDS
from depthlm.serving.demo.cloud import CloudFiles, room_for, write_files
from depthlm.serving.demo.disk import Disk
from depthlm.serving.demo.picture import VIEW_SIDE, Form, Picture
from depthlm.serving.spatial_model import Question, SpatialModel
from depthlm.shown import Shown

MAX_PIXELS = 40_000_000
# How often a point cloud tells how far it is.
REPORT_SECONDS = 0.3
EXAMPLES = files("depthlm") / "assets" / "examples"


class Actions:
    """What the page's buttons do, for any number of visitors.

    Args:
        model: whom to ask; started inside ``portal``.
        portal: of the event loop in which the model is asked.
        disk: where uploaded, example and made files are.
    """

    def __init__(self, model: SpatialModel, portal: BlockingPortal, disk: Disk) -> None:
        self.model, self.portal, self.disk = model, portal, disk

    def examples(self) -> list[dict[str, Any]]:
        """The frames that come with the package, copied to the disk: ``file``, ``title``, ``intrinsics``, and
        ``second`` where there is another view of the same scene."""
        listed = json.loads((EXAMPLES / "cameras.json").read_text())
        for each in listed:
            for name in {"file", "second"} & set(each):
                copy = self.disk.examples / each[name]
                copy.write_bytes((EXAMPLES / each[name]).read_bytes())
                each[name] = copy
        return listed

    def load(self, path: str | Path) -> Picture:
        """Take a photo.

        Raises:
            DepthLMError: no image, too large a one, or none of the page's own files.
        """
        photo = self.model.photo(self.disk.read(path), where="photo")
        height, width = photo.pixels.shape[:2]
        scale = VIEW_SIDE / max(width, height)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = Image.fromarray(photo.pixels).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        return Picture(Path(path), width, height, buffer.getvalue())

    def ask(self, picture: Picture | None, form: Form) -> tuple[Measurement, Shown]:
        """Ask the question.

        Raises:
            DepthLMError: something is missing or wrong, or there is no answer.
        """
        kind = KINDS.get(form.kind)
        images = [self.disk.read(_loaded(picture).path)]
        if kind.images > 1:
            if form.second is None:
                raise DepthLMError("second image", "is missing", "add the photo that was taken from the other place")
            images.append(self.disk.read(form.second))
        points = _loaded(picture).points[: kind.points]
        if len(points) < kind.points:
            mend = "click on the photo" if not points else "click on the second one"
            raise DepthLMError("points", f"the question needs {_count(kind.points, 'point')}", mend, "bad question")
        given = form.given if kind.given else None
        question = Question(kind.name, images, [form.lens()] * len(images), points, given=given)
        return self.portal.call(self.model.measure_shown, question)

    def cloud(self, picture: Picture | None, form: Form, columns: int) -> Iterator[tuple[int, int] | CloudFiles]:
        """Ask for the distance of a grid of points: yields (done, all) again and again, and the files at last.

        Asking stops when the iterator is closed.

        Raises:
            DepthLMError: no photo, or the model does not answer.
        """
        from depthlm.serving.cloud.ask import CloudSettings, ask_cloud

        loaded, progress = _loaded(picture), [(0, 0)]
        photo = self.model.photo(self.disk.read(loaded.path), form.lens(), "photo")
        rows = min(max(round(columns * loaded.height / loaded.width), 2), 4 * columns)
        settings = CloudSettings((columns, rows), adaptive=False)

        async def run() -> Any:
            return await ask_cloud(self.model, photo, settings, on_progress=lambda *told: progress.append(told))

        asked = self.portal.start_task_soon(run)
        try:
            while wait([asked], REPORT_SECONDS).not_done:
                yield progress[-1]
            cloud = asked.result()
            yield write_files(cloud, self.disk.new_folder(room_for(cloud)))
        finally:
            asked.cancel()


def _loaded(picture: Picture | None) -> Picture:
    if picture is None:
        raise DepthLMError("photo", "is missing", "drop one, or take an example", "bad question")
    return picture


def _count(number: int, what: str) -> str:
    return f"{('no', 'one', 'two')[number]} {what}{'' if number == 1 else 's'}"
