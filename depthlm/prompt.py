"""What is said beside the question: the name of a marked point, and the camera in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from depthlm.camera import Camera
from depthlm.questions import UNIT_WORDS, Kind, Wording

# How the camera ambiguity is removed: one focal length for all images, the intrinsics in words, both, or neither.
Intrinsics = Literal["normalize", "text", "both", "none"]
INTRINSICS_MODES: tuple[Intrinsics, ...] = ("normalize", "text", "both", "none")
# How a question points at a pixel: by a marker drawn on the image, or by its coordinates in words.
Pointing = Literal["marker", "coordinates"]
POINTINGS: tuple[Pointing, ...] = ("marker", "coordinates")


def point_name(marker: str, colour: str) -> str:
    """How a question names a marked point, e.g. ``the point at the red arrow``."""
    return f"the point at the {colour} {marker}"


def pixel_name(x: float, y: float) -> str:
    """How a question names a point without a marker: its pixel, counted from the upper left, in the image as shown."""
    return f"the point at pixel ({round(x)}, {round(y)})"


def point_names(pointing: Pointing, marker: str, colours: Sequence[str], xy: Sequence[Sequence[float]]) -> list[str]:
    """How a question names its points: by the markers' colours, or by their pixels (n, 2)."""
    if pointing == "marker":
        return [point_name(marker, colour) for colour in colours]
    return [pixel_name(*at) for at in xy]


def question_text(kind: Kind, wording: Wording, names: Sequence[str], instruction: str = "", camera: str = "") -> str:
    """A question as it is asked: the camera in words, the question, and how it is to be answered.

    Args:
        names: of its marked points, see `point_names`.
        instruction: with ``{unit}`` for the answer's unit in words.
        camera: see `camera_words`.
    """
    return " ".join(filter(None, [camera, wording.text(names), instruction.format(unit=UNIT_WORDS[kind.unit])]))


def camera_words(cameras: Sequence[Camera]) -> str:
    """Intrinsics of the images as the model sees them, in words: px and degrees."""
    sentences = []
    for i, camera in enumerate(cameras):
        which = f"Image {i + 1}" if len(cameras) > 1 else "The image"
        h, v = camera.fov_deg
        sentences.append(
            f"{which} is {camera.width} x {camera.height} pixels; its camera has a focal length of {camera.fx:.1f} "
            f"pixels, the principal point ({camera.cx:.1f}, {camera.cy:.1f}) and a field of view of {h:.1f} x {v:.1f} "
            "degrees."
        )
    return " ".join(sentences)


def user_message(text: str, images: int, text_first: bool = False) -> dict[str, Any]:
    """A user turn: its images, then the text; the other way round with ``text_first``."""
    shown, asked = [{"type": "image"}] * images, [{"type": "text", "text": text}]
    return {"role": "user", "content": asked + shown if text_first else shown + asked}


def assistant_message(text: str) -> dict[str, Any]:
    """An assistant turn."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def system_message(text: str) -> dict[str, Any]:
    """A system turn."""
    return {"role": "system", "content": [{"type": "text", "text": text}]}
