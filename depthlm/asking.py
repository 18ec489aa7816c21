"""Questions about photos whose depth is not known: points of the original image -> marked canonical images, as shown.

What a suite's questions and training samples are made of (canonical images, markers, wordings) makes these too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depthlm.camera import Camera, Floats
from depthlm.canonical import View, plan_view, render_view
from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS, Placement, draw_markers, place_markers
from depthlm.photo import Photo
from depthlm.profiles import Profile
from depthlm.prompt import Intrinsics, Pointing, camera_words, point_names, question_text
from depthlm.questions import Kind, Wording
from depthlm.shown import Shown

# Where the window lies in training and evaluation.
CENTRAL = (0.5, 0.5)


@dataclass(frozen=True, eq=False)
class Marked:
    """A photo in a model's form, with its points marked.

    Args:
        pixels: (h, w, 3) uint8 RGB canonical image.
        view: the maps from the photo to it.
        colours: of the points' markers.
        xy: (n, 2) the points in ``pixels``.
        source_xy: (n, 2) the points in the photo.
    """

    pixels: NDArray[np.uint8]
    view: View
    colours: tuple[str, ...]
    xy: Floats
    source_xy: Floats

    @property
    def points(self) -> list[dict[str, Any]]:
        """Of each point: its colour, ``xy`` and ``source_xy``."""
        return [
            {"colour": colour, "xy": [float(v) for v in xy], "source_xy": [float(v) for v in source]}
            for colour, xy, source in zip(self.colours, self.xy, self.source_xy, strict=True)
        ]


class Canvas:
    """A photo in the form of one profile, on which points are marked. Its central window and the last other
    are kept: many questions about a photo warp it once.

    Args:
        intrinsics: how the camera ambiguity is removed, as the model was trained.
        pointing: "coordinates": nothing is drawn.

    Raises:
        DepthLMError: kind "image too small", when it is less than the smallest canonical image.
    """

    def __init__(
        self, photo: Photo, profile: Profile, intrinsics: Intrinsics = "normalize", pointing: Pointing = "marker"
    ) -> None:
        self.photo, self.profile, self.intrinsics, self.pointing = photo, profile, intrinsics, pointing
        self._spec = profile.canonical(intrinsics)
        self._first = plan_view(photo.camera, self._spec, (0.0, 0.0))
        self._last = plan_view(photo.camera, self._spec, (1.0, 1.0))
        self._middle = plan_view(photo.camera, self._spec, CENTRAL)
        # window -> its pixels: the central one, and the last other
        self._drawn: dict[tuple[float, float], NDArray[np.uint8]] = {}

    @property
    def camera(self) -> Camera:
        """The canonical camera of the central window."""
        return self._middle.camera

    def mark(self, points: ArrayLike, colours: Sequence[str] | None = None) -> Marked:
        """Mark points (n, 2) of the photo.

        The window is the central one, as in training and evaluation, unless it has no room for them.

        Args:
            colours: of the markers; by default red, blue, green, … in this order.

        Raises:
            DepthLMError: kind "bad point": one lies outside the image or its undistorted part, or no window holds all
                of them with their markers; or there are more points than colours.
        """
        xy = self._inside(points)
        colours = tuple(COLOURS)[: len(xy)] if colours is None else tuple(colours)
        if len(colours) < len(xy):
            raise DepthLMError("points", f"{len(xy)} in one image, but only {len(COLOURS)} colours", "ask for fewer")
        crop, view = CENTRAL, self._middle
        at = view.to_canonical(xy)
        placed = self._place(at, view)
        if placed is None:
            crop = self._around(xy)
            view = plan_view(self.photo.camera, self._spec, crop)
            at = view.to_canonical(xy)
            placed = self._place(at, view)
        if placed is None:
            raise _no_room(len(xy))
        return Marked(draw_markers(self._window(crop, view), placed, colours[: len(placed)]), view, colours, at, xy)

    def _place(self, at: Floats, view: View) -> list[Placement] | None:
        """Markers for points of a window; None where they have no room."""
        if not view.camera.contains(at).all():
            return None
        if self.pointing != "marker":
            return []
        return place_markers(self.profile.marker, at, view.camera.width, view.camera.height)

    def _inside(self, points: ArrayLike) -> Floats:
        """The points, (n, 2) float64, once they are pixels of the photo."""
        xy = np.asarray(points, np.float64).reshape(-1, 2)
        camera = self.photo.camera
        for i, (x, y) in enumerate(xy.tolist()):
            if not camera.contains([(x, y)])[0]:  # NaN is nowhere
                reason = f"({x:g}, {y:g}) lies outside the {camera.width}x{camera.height} image"
                raise DepthLMError(
                    f"point {i + 1}", reason, "x goes right and y down, from the upper left", "bad point"
                )
        return xy

    def _around(self, xy: Floats) -> tuple[float, float]:
        """The window nearest to the central one that holds the points with room for their markers, or with as much as
        there is."""
        if len(xy) == 0:
            return CENTRAL
        size = np.array([self._first.camera.width, self._first.camera.height])
        at, slack = self._first.to_canonical(xy), np.maximum(self._slack(), 1e-9)
        # a point at p in the first window lies at p - t * slack in the window t
        low = (at.max(0) - (size - 1 - self._reach())) / slack
        high = (at.min(0) - self._reach()) / slack
        x, y = np.clip(np.where(low <= high, np.clip(0.5, low, high), (low + high) / 2), 0, 1)
        return float(x), float(y)

    def _window(self, crop: tuple[float, float], view: View) -> NDArray[np.uint8]:
        """A window's pixels without markers."""
        drawn = self._drawn  # never changed, only replaced: other threads draw other windows meanwhile
        if crop not in drawn:
            kept = {CENTRAL: drawn[CENTRAL]} if CENTRAL in drawn else {}
            drawn = self._drawn = {**kept, crop: render_view(self.photo.pixels, view)}
        return drawn[crop]

    def _slack(self) -> Floats:
        """How far the last window lies from the first, px in x and y."""
        first, last = self._first.camera, self._last.camera
        return np.array([first.cx - last.cx, first.cy - last.cy])

    def _reach(self) -> int:
        """How far a marker reaches from its point, px."""
        style = self.profile.marker
        return style.length + style.thickness // 2 + 1


def _no_room(count: int) -> DepthLMError:
    what = "this point" if count == 1 else f"these {count} points"
    return DepthLMError(
        "points",
        f"the part of the image that the model sees has no room for {what} and the markers",
        "take points farther from the image's edge, farther from each other, or not as far apart",
        "bad point",
    )


def ask_about(canvases: Sequence[Canvas], kind: Kind, points: ArrayLike = (), given: float | None = None) -> Shown:
    """A question about photos as their model is asked it, in the first of the kind's phrasings.

    Args:
        canvases: of the photos, all of one profile; the points are marked on the first.
        points: (n, 2) px of the first photo, as many as the kind asks about.
        given: the number that the question states, seconds (speed) or m/s (travel_time).

    Raises:
        DepthLMError: kind "bad question": another number of photos or points than the kind asks about, or a number that
            can't be stated; "bad point", see `Canvas.mark`.
    """
    first = canvases[0]
    xy = np.asarray(points, np.float64).reshape(-1, 2)
    given = checked_question(kind, len(canvases), len(xy), given)
    marked = [first.mark(xy), *(canvas.mark(()) for canvas in canvases[1:])]
    names = point_names(first.pointing, first.profile.marker.kind, marked[0].colours, marked[0].xy.tolist())
    in_words = first.intrinsics in ("text", "both")
    words = camera_words([each.view.camera for each in marked]) if in_words else ""
    text = question_text(kind, Wording(kind.phrasings[0], given), names, first.profile.instruction, words)
    return Shown(
        [each.pixels for each in marked],
        [text],
        first.profile.system,
        first.profile.text_first,
        [marked[0].points],
        canonical=not first.profile.note,
    )


def checked_question(kind: Kind, photos: int, points: int, given: float | None) -> float:
    """The number that the question states, 1 where it states none.

    Raises:
        DepthLMError: kind "bad question", see `ask_about`.
    """
    if photos != kind.images:
        raise _bad_question(kind, f"is asked about {kind.images} image(s), there are {photos}")
    if points != kind.points:
        raise _bad_question(kind, f"is asked about {kind.points} point(s), there are {points}")
    if not kind.given:
        if given is not None:
            raise _bad_question(kind, "states no time or speed", "leave it out")
        return 1.0
    what = "speed in m/s" if kind.unit == "s" else "time in seconds"
    if given is None:
        raise _bad_question(kind, f"needs a {what}", "give it")
    if not 0.1 <= given <= 10_000 or abs(given * 10 - round(given * 10)) > 1e-6:
        reason = f"states its {what} with one decimal, which {given:g} can't be"
        raise _bad_question(kind, reason, "give 0.1 to 10000, with at most one decimal")
    return float(given)


def _bad_question(kind: Kind, reason: str, mend: str = "") -> DepthLMError:
    return DepthLMError(f"question {kind.name}", reason, mend, "bad question")
