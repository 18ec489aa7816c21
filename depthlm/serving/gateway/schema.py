"""Types of the gateway's own requests and answers, with their limits: what its OpenAPI page shows."""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS
from depthlm.photo import Lens
from depthlm.questions import KINDS
from depthlm.serving.spatial_model import MAX_SAMPLES

# One colour for each.
MAX_POINTS = len(COLOURS)
MAX_MESSAGES = 256
MAX_PARTS = 256
MAX_CHOICES = 128
NAME_PATTERN = r"^[A-Za-z0-9_-](?:[A-Za-z0-9 _-]{0,38}[A-Za-z0-9_-])?$"
NAME_RULE = "at most 40 letters, digits, _, - and spaces inside"
DISTORTION_COUNTS = (0, 4, 5, 8, 12, 14)


@cache
def example_image() -> str:
    """A small picture as a data URL, so that the examples can be sent as they are."""
    grey = Image.linear_gradient("L").resize((96, 72))
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _known_kind(name: str) -> str:
    if name not in KINDS.names():
        raise ValueError(f"is no kind of question; known: {', '.join(KINDS.names())}")
    return name


def _checked_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"is no name: {NAME_RULE}")
    return name


Number = Annotated[float, Field(allow_inf_nan=False)]
KindName = Annotated[str, AfterValidator(_known_kind), Field(json_schema_extra={"enum": list(KINDS.names())})]
Name = Annotated[
    str,
    AfterValidator(_checked_name),
    Field(description=NAME_RULE, json_schema_extra={"pattern": NAME_PATTERN, "maxLength": 40}),
]


class Strict(BaseModel):
    """No field that isn't known, no text in a number's place, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Point(Strict):
    """A pixel of the upright image as it was sent; integer coordinates are pixel centres."""

    x: Number = Field(description="To the right, px.", examples=[48])
    y: Number = Field(description="Down, px.", examples=[36])
    name: Name | None = Field(None, description="What the point is called in texts and in the answer.")


class Known(Strict):
    """What is known of an image's camera; else EXIF tells, or it is estimated or assumed, with a warning."""

    intrinsics: list[Number] | None = Field(
        None,
        max_length=4,
        description="Focal length; or fx, fy; or fx, fy, cx, cy: px of the upright image.",
        examples=[[83.0]],
    )
    fov: Number | None = Field(
        None,
        gt=0,
        lt=180,
        description="Horizontal field of view, degrees; instead of the intrinsics.",
        examples=[60],
    )
    distortion: list[Number] | None = Field(
        None, max_length=14, description="OpenCV coefficients (4, 5, 8, 12 or 14), with the intrinsics only."
    )

    @model_validator(mode="after")
    def _fits(self) -> Known:
        try:
            self.lens()
        except DepthLMError as error:
            raise ValueError(f"{error.reason}: {error.mend}") from error
        if len(self.distortion or ()) not in DISTORTION_COUNTS:
            raise ValueError(f"has {len(self.distortion or ())} distortion coefficients: give 4, 5, 8, 12 or 14")
        return self

    def lens(self) -> Lens:
        """The same, as photos are read with."""
        return Lens(tuple(self.intrinsics or ()), self.fov, tuple(self.distortion or ()))


class Spatial(Known):
    """Beside ``image_url`` in an image part: the image is brought to the model's camera, its points are marked."""

    points: list[Point] = Field(default_factory=list, max_length=MAX_POINTS, description="To be marked, in order.")


class MeasureImage(Known):
    """An image with what is known of its camera."""

    url: str = Field(
        min_length=1,
        description="`data:` URL of an image file (JPEG, PNG, WebP, BMP, GIF, TIFF); or a public http(s) address, "
        "where the server allows that.",
    )


class MeasureRequest(Strict):
    """A question whose answer is a number."""

    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema.update(examples=list(measure_examples().values()))
    )

    kind: KindName = Field("distance", description="What is to be measured.")
    images: list[MeasureImage] = Field(
        min_length=1, max_length=2, description="One; two for camera_motion, in the order in which they were taken."
    )
    points: list[Point] = Field(
        default_factory=list, max_length=MAX_POINTS, description="In the first image, as many as the kind asks about."
    )
    time: Number | None = Field(None, gt=0, description="Seconds, with at most one decimal; for speed.")
    speed: Number | None = Field(None, gt=0, description="m/s, with at most one decimal; for travel_time.")
    samples: int = Field(
        1, ge=1, le=MAX_SAMPLES, description="Draw so many answers: the value is their median, the interval theirs."
    )
    return_images: bool = Field(False, description="Also return the images as the model saw them.")

    @model_validator(mode="after")
    def _one_number(self) -> MeasureRequest:
        if self.time is not None and self.speed is not None:
            raise ValueError("states a time and a speed: give one of them")
        given = self.speed if self.kind == "travel_time" else self.time
        if given is None and (self.time is not None or self.speed is not None):
            raise ValueError("travel_time states a speed, speed states a time")
        return self

    @property
    def given(self) -> float | None:
        """The number that the question states."""
        return self.time if self.time is not None else self.speed


class MeasuredPoint(BaseModel):
    """A marked point."""

    name: str
    colour: str
    x: float
    y: float


class MeasuredCamera(BaseModel):
    """The camera of an image as it was taken to be, px."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    known_from: Literal["given", "exif", "estimated", "assumed"]


class MeasureAnswer(BaseModel):
    """What was measured."""

    kind: str
    value: float | None = Field(description="In `unit`; null where the answer holds no number, see `reason`.")
    unit: str = Field(description="m, m/s or s.")
    interval: tuple[float, float] | None = Field(
        description="The central 90% of the model's answers: how sure it is, not how right."
    )
    text: str = Field(description="The model's answer as it came.")
    question: str = Field(description="As the model was asked.")
    model: str
    points: list[MeasuredPoint]
    cameras: list[MeasuredCamera]
    warnings: list[str] = Field(description="What a reader of the number has to know.")
    reason: str = Field(description="Why there is no value.")
    images: list[str] | None = Field(None, description="As the model saw them, PNG data URLs; on request.")


class KindTold(BaseModel):
    """A kind of question that can be asked."""

    name: str
    unit: str
    points: int
    images: int
    states: Literal["time", "speed"] | None = Field(description="The number that its question states.")


class SpatialTold(BaseModel):
    """Whom this gateway asks, and how."""

    object: Literal["spatial"] = "spatial"
    model: str
    profile: str
    intrinsics: str
    pointing: str
    notes: list[str] = Field(description="What a reader of the answers has to know of how the model is asked.")
    kinds: list[KindTold]
    limits: dict[str, float]


def measure_examples() -> dict[str, dict[str, Any]]:
    """Name -> a request that runs as it stands."""
    image = {"url": example_image(), "fov": 60}
    one, two = {"x": 40, "y": 30, "name": "chair"}, {"x": 60, "y": 44}
    return {
        "distance": {"kind": "distance", "images": [image], "points": [one]},
        "distance between two points": {"kind": "two_point", "images": [image], "points": [one, two]},
        "speed to be there in time": {"kind": "speed", "images": [image], "points": [one], "time": 2.5},
        "time at a speed": {"kind": "travel_time", "images": [image], "points": [one], "speed": 1.5},
        "way of the camera": {"kind": "camera_motion", "images": [image, image]},
        "by samples, with the images": {
            "images": [{"url": example_image(), "intrinsics": [83, 83, 47.5, 35.5], "distortion": [0.01, 0, 0, 0]}],
            "points": [one],
            "samples": 4,
            "return_images": True,
        },
    }
