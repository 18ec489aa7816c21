"""What the web page does: photos with clicked points -> questions, measurements, point clouds."""

from __future__ import annotations

import io
import json
import math
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from anyio.from_thread import BlockingPortal
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS
from depthlm.measuring import Measurement
from depthlm.photo import Lens
from depthlm.questions import KINDS
from depthlm.serving.spatial_model import Question, SpatialModel
from depthlm.shown import Shown

MAX_PIXELS = 40_000_000
# Longer side of the photo as it is clicked on, px: fine enough to point with, quick to send at each click, and never
# enlarged to be shown: then Gradio would tell a click's place wrongly.
VIEW_SIDE = 1280
# How often a point cloud tells how far it is.
REPORT_SECONDS = 0.3
EXAMPLES = files("depthlm") / "assets" / "examples"


@dataclass(frozen=True)
class Picture:
    """The photo on the page, and what was clicked.

    Args:
        path: its file.
        width, height: px, upright.
        view: JPEG of it without marks, its longer side ``VIEW_SIDE`` px.
        points: (x, y) px of the photo, integer coordinates at pixel centres.
    """

    path: Path
    width: int
    height: int
    view: bytes
    points: tuple[tuple[float, float], ...] = ()

    def clicked(self, x: int, y: int, most: int) -> Picture:
        """With another point; the one after the last that the question asks about starts anew.

        Args:
            x, y: of the view, counted as browsers do: 0.0 is the view's left or upper edge.
        """
        places = zip((x, y), (self.width, self.height), _size(self.view), strict=True)
        at = tuple(round(min(max(value * side / seen - 0.5, 0.0), side - 1.0), 1) for value, side, seen in places)
        kept = self.points if len(self.points) < most else ()
        return replace(self, points=(*kept, at)[:most])  # type: ignore[arg-type]

    def pointed(self, points: tuple[tuple[float, float], ...]) -> Picture:
        """With these points instead."""
        return replace(self, points=points)

    def marked(self) -> Image.Image:
        """The view with a numbered ring round each point, in the colour of the question's marker."""
        image = Image.open(io.BytesIO(self.view)).convert("RGB")
        draw = ImageDraw.Draw(image)
        scale = image.width / self.width, image.height / self.height
        radius = max(8.0, max(image.size) / 70)
        font = ImageFont.load_default(radius * 1.7)
        for i, (point, colour) in enumerate(zip(self.points, COLOURS.values(), strict=False)):
            x, y = ((value + 0.5) * each for value, each in zip(point, scale, strict=True))
            _ring(draw, x, y, radius, colour)
            side = -1 if x > image.width - 5 * radius else 1
            text = (x + side * 2.1 * radius, y)
            draw.text(text, str(i + 1), colour, font, "mm", stroke_width=radius / 4, stroke_fill="white")
        return image


def _ring(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    """A ring with a white rim and a dot where the point is."""
    thin = max(2, round(radius / 4))
    for reach, paint, width in ((radius + thin, "white", 3 * thin), (radius, colour, thin)):
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=paint, width=width)
    dot = radius / 4
    draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=colour, outline="white")


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


@dataclass(frozen=True)
class Form:
    """What is chosen on the page beside the points.

    Args:
        kind: of question.
        given: time or speed, of the kinds that state one.
        camera: "photo", "fov" or "intrinsics": where the camera is known from.
        fov: horizontal field of view, degrees.
        intrinsics: f; or fx, fy; or fx, fy, cx, cy: as they were typed.
        second: the second image's file.
    """

    kind: str
    given: float | None = None
    camera: str = "photo"
    fov: float | None = None
    intrinsics: str = ""
    second: str | None = None

    def lens(self) -> Lens:
        """What the form says of the camera.

        Raises:
            DepthLMError: nothing that can be a camera.
        """
        if self.camera == "fov":
            if self.fov is None or not 1 <= self.fov <= 179:
                raise DepthLMError("camera", "has no such field of view", "give 1 to 179 degrees", "bad intrinsics")
            return Lens(fov_deg=float(self.fov))
        if self.camera != "intrinsics":
            return Lens()
        try:
            numbers = tuple(float(part) for part in re.split(r"[\s,;]+", self.intrinsics.strip()))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 2, 4) or not all(map(math.isfinite, numbers)):
            mend = "give fx, fy, cx, cy in px of this photo, or the focal length alone"
            raise DepthLMError("camera", "its intrinsics are no 1, 2 or 4 numbers", mend, "bad intrinsics")
        return Lens(numbers)


class Actions:
    """What the page's buttons do, for any number of visitors.

    Args:
        model: whom to ask; started inside ``portal``.
        portal: of the event loop in which the model is asked.
        folder: for the files that are made.
    """

    def __init__(self, model: SpatialModel, portal: BlockingPortal, folder: Path) -> None:
        self.model, self.portal, self.folder = model, portal, folder

    def examples(self) -> list[dict[str, Any]]:
        """The frames that come with the package, copied to ``folder``: ``file``, ``title``, ``intrinsics``, and
        ``second`` where there is another view of the same scene."""
        listed = json.loads((EXAMPLES / "cameras.json").read_text())
        for each in listed:
            for name in {"file", "second"} & set(each):
                copy = self.folder / each[name]
                copy.write_bytes((EXAMPLES / each[name]).read_bytes())
                each[name] = copy
        return listed

    def load(self, path: str | Path) -> Picture:
        """Take a photo.

        Raises:
            DepthLMError: no image, or too large a one.
        """
        photo = self.model.photo(read_file(path), where="photo")
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
        images = [read_file(_loaded(picture).path)]
        if kind.images > 1:
            if form.second is None:
                raise DepthLMError("second image", "is missing", "add the photo that was taken from the other place")
            images.append(read_file(form.second))
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
        from depthlm.serving.cloud import CloudSettings, ask_cloud

        loaded, progress = _loaded(picture), [(0, 0)]
        photo = self.model.photo(read_file(loaded.path), form.lens(), "photo")
        rows = min(max(round(columns * loaded.height / loaded.width), 2), 4 * columns)
        settings = CloudSettings((columns, rows), adaptive=False)

        async def run() -> Any:
            return await ask_cloud(self.model, photo, settings, on_progress=lambda *told: progress.append(told))

        asked = self.portal.start_task_soon(run)
        try:
            while wait([asked], REPORT_SECONDS).not_done:
                yield progress[-1]
            yield write_files(asked.result(), Path(tempfile.mkdtemp(dir=self.folder, prefix="cloud-")))
        finally:
            asked.cancel()


@dataclass(frozen=True)
class CloudFiles:
    """A point cloud's files.

    Args:
        shown: GLB for the page.
        files: to be taken home.
        told: how many points there are, what was left out, and what has to be known of them.
        extent: diagonal of the box round the points, m.
    """

    shown: Path
    files: list[Path]
    told: list[str]
    extent: float


def write_files(cloud: Any, out: Path) -> CloudFiles:
    """Write a `depthlm.serving.cloud.Cloud` in the forms that the page offers."""
    from depthlm.point_cloud import write_glb, write_ply

    points, colours = cloud.points()
    if not len(points):
        raise DepthLMError("point cloud", f"no point has an answer: {cloud.skipped}", kind="no answer")
    ply, glb, depth, shown = (out / name for name in ("cloud.ply", "cloud.glb", "depth.npy", "shown.glb"))
    write_ply(ply, points, colours)
    write_glb(glb, points, colours)
    np.save(depth, cloud.depth_map())
    write_solid(shown, points, colours, cloud.photo.camera.width / cloud.grid.columns / cloud.photo.camera.fx)
    near, far = np.percentile(cloud.distance[np.isfinite(cloud.distance)], [5, 95])
    told = f"{len(points)} points, {near:.1f} to {far:.1f} m away, in {cloud.seconds:.0f} s."
    if cloud.skipped.total:
        told += " Left out: " + ", ".join(f"{n} × {kind}" for kind, n in cloud.skipped.counts.items()) + "."
    return CloudFiles(shown, [ply, glb, depth], [told, *cloud.warnings], float(np.linalg.norm(np.ptp(points, axis=0))))


def write_solid(path: Path, points: NDArray[np.float64], colours: NDArray[np.uint8], spacing: float) -> None:
    """A GLB in which each point is a small square that faces the camera: viewers draw bare points one pixel wide.

    Args:
        points: (n, 3) m, OpenCV's axes.
        colours: (n, 3) RGB.
        spacing: between neighbours, as seen from the camera: width over distance.
    """
    import trimesh

    half = 0.46 * spacing * points[:, 2]
    corners = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float64)
    vertices = (points[:, None] + corners * half[:, None, None]).reshape(-1, 3) * (1, -1, -1)
    faces = 4 * np.arange(len(points))[:, None, None] + np.array([(2, 1, 0), (3, 2, 0)])
    mesh = trimesh.Trimesh(vertices, faces.reshape(-1, 3), process=False)
    linear = 255 * (colours / 255.0) ** 2.2  # as glTF wants them
    mesh.visual.vertex_colors = np.repeat(np.rint(linear).astype(np.uint8), 4, axis=0)
    path.write_bytes(trimesh.Scene(mesh).export(file_type="glb", tree_postprocessor=_unlit))


def _unlit(tree: dict[str, Any]) -> None:
    """The photo's own colours, from both sides: no lamp of the viewer's shines on them."""
    tree["extensionsUsed"] = ["KHR_materials_unlit"]
    tree["materials"] = [{"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}]
    tree["meshes"][0]["primitives"][0]["material"] = 0


def read_file(path: str | Path) -> bytes:
    """An uploaded file.

    Raises:
        DepthLMError: it was thrown away since.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DepthLMError("photo", "is no longer here", "drop it again", "unreadable image") from error


def _loaded(picture: Picture | None) -> Picture:
    if picture is None:
        raise DepthLMError("photo", "is missing", "drop one, or take an example", "bad question")
    return picture


def _count(number: int, what: str) -> str:
    return f"{('no', 'one', 'two')[number]} {what}{'' if number == 1 else 's'}"
