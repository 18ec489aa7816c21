"""What the web page says, as HTML. What others say, models and errors, is escaped."""

from __future__ import annotations

import logging
from html import escape

import numpy as np
from PIL import Image

from depthlm.errors import DepthLMError, public_message
from depthlm.measuring import Measurement
from depthlm.questions import KINDS
from depthlm.serving.demo.picture import Picture
from depthlm.shown import Shown

logger = logging.getLogger(__name__)

QUESTIONS = {
    "distance": "Distance to a point",
    "axis_distance": "Depth straight ahead",
    "two_point": "Between two points",
    "speed": "Speed to get there",
    "travel_time": "Time to get there",
    "camera_motion": "Camera's motion",
}
HINTS = ("Add a second photo; no points are needed.", "Click a point on the photo.", "Click two points on the photo.")
CAMERAS = {"photo": "From the photo", "fov": "Field of view", "intrinsics": "Intrinsics"}
FORMS = ("Points (PLY)", "Points (GLB)", "Depth map (NPY)")
CAMERA_INFO = "From the photo: what its EXIF says; where it says nothing, an estimate or an assumption."
CLOUD_INFO = "<p>The model is asked how far each point of a grid is: the more points, the longer it takes.</p>"
EMPTY = '<p class="empty">Choose a question, click on the photo, ask.</p>'
OURS = "Something went wrong in the server, whose log tells more. It is no fault of your photo."


def points_text(picture: Picture | None, kind: str) -> str:
    """Where the points are; what to do, where some are missing."""
    most = KINDS.get(kind).points
    told = [] if picture is None else [f"{x:g}, {y:g}" for x, y in picture.points]
    marks = "".join(f'<span class="point p{i + 1}">{i + 1}</span> <span>{at} px</span> ' for i, at in enumerate(told))
    if picture is None:
        return "Drop a photo, or take an example."
    return marks + (HINTS[most] if not told else "Click the other." if len(told) < most else "")


def answer_text(measurement: Measurement) -> str:
    """The number, how sure it is, and what has to be known of it."""
    if measurement.value is None:
        number = f"<strong>No number</strong> <span>{escape(measurement.reason)}</span>"
    else:
        number = f'<strong id="value">{measurement.value:.2f} {measurement.unit}</strong>'
        if measurement.interval is not None:
            low, high = measurement.interval
            number += f'<span id="interval">90% of its answers: {low:.2f} to {high:.2f} {measurement.unit}</span>'
    told = "".join(f"<li>{escape(warning)}</li>" for warning in measurement.warnings)
    return f'<div class="answer">{number}</div><ul class="warnings">{told}</ul>'


def problem_text(error: Exception) -> str:
    """What is wrong, in one sentence."""
    if not isinstance(error, DepthLMError):
        logger.error("the page failed", exc_info=error)
        return f'<p class="problem" role="alert">{OURS}</p>'
    text = public_message(error)
    return f'<p class="problem" role="alert">{escape(text[:1].upper() + text[1:600])}.</p>'


def note(*texts: str) -> str:
    """Sentences."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def progress_text(done: int, known: int) -> str:
    """How far a point cloud is."""
    return f'<p><progress value="{done}" max="{max(known, 1)}"></progress> {done} of {known} points</p>'


def side_by_side(shown: Shown) -> Image.Image:
    """The images of a question in one."""
    gap = 8
    width = sum(each.shape[1] for each in shown.images) + gap * (len(shown.images) - 1)
    out, x = np.full((max(each.shape[0] for each in shown.images), width, 3), 255, np.uint8), 0
    for each in shown.images:
        out[: each.shape[0], x : x + each.shape[1]] = each
        x += each.shape[1] + gap
    return Image.fromarray(out)
