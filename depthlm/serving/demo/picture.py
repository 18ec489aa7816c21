"""What a visitor of the web page has chosen: a photo with its clicked points, and what is asked about them."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS
from depthlm.photo import Lens

# Longer side of the photo as it is clicked on, px: fine enough to point with, quick to send at each click, and never
# enlarged to be shown: then Gradio would tell a click's place wrongly.
VIEW_SIDE = 1280


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
