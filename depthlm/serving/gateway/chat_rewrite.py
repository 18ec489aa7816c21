"""A chat request as it goes to the model's server: where `spatial` stands beside an image, that is drawn anew."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from depthlm.asking import Marked
from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS
from depthlm.measuring import camera_told
from depthlm.prompt import camera_words, point_names
from depthlm.serving.chat_request import encode
from depthlm.serving.gateway.chat_images import ImagePart
from depthlm.serving.gateway.faults import BadRequest
from depthlm.serving.gateway.files import Files
from depthlm.serving.gateway.images import check_file, is_data
from depthlm.serving.spatial_model import SpatialModel

# Names that a warning tells.
MOST_MISSED = 5
_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9 _-]{1,40})\}")


@dataclass
class Prepared:
    """A request as it goes to the model's server.

    Args:
        body: its bytes.
        images: of each spatial image: ``camera`` as it was taken to be, ``points`` with their colours.
        warnings: what a reader of the answer has to know.
    """

    body: bytes
    images: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def prepare(
    raw: bytes,
    body: dict[str, Any],
    images: Sequence[ImagePart],
    files: Files,
    fetched: Mapping[str, bytes],
    model: SpatialModel,
    max_pixels: int,
    encoding: str = "bmp",
) -> Prepared:
    """The request for the model's server: ``raw`` itself where nothing had to be changed.

    Args:
        body: ``raw``, parsed; changed in place.
        files: of the images that ``body`` holds.
        fetched: files of the images that are elsewhere, by address.
        max_pixels: larger images are refused.
        encoding: of the images that are drawn, see `depthlm.serving.chat_request`.

    Raises:
        GatewayError, DepthLMError: an image that can't be read, or marked as it should be.
    """
    out, colours = Prepared(raw), list(COLOURS)
    marked: dict[int, list[tuple[ImagePart, Marked]]] = {}
    for image in images:
        elsewhere = not is_data(image.url)
        data = fetched[image.url] if elsewhere else files.read(image.url, image.param)
        if image.spatial is None:
            kind = check_file(data, image.param, max_pixels)
            if elsewhere:  # the model's server would fetch it itself, unchecked
                _replace(body, image, files.put(data, kind))
            continue
        shown = _mark(image, data, model, [colours.pop(0) for _ in image.spatial.points], out)
        _replace(body, image, files.put(encode(shown.pixels, encoding), f"image/{encoding}"))
        marked.setdefault(image.at[0], []).append((image, shown))
    says: dict[str, str] = {}
    for i, message in enumerate(body["messages"]):
        own, named = _names(i, marked.get(i, ()), model)
        says |= own  # what an earlier turn marked may be spoken of in later ones
        if says or i in marked:
            missed = _write(message, says, named, marked.get(i, ()), model)
            if missed:
                names = ", ".join(f"{{{name}}}" for name in missed[:MOST_MISSED]) + ", …" * (len(missed) > MOST_MISSED)
                out.warnings.append(f"messages.{i}: no point is called {names}")
    if marked or fetched:
        out.body = files.fill(json.dumps(body).encode())
    return out


def _mark(image: ImagePart, data: bytes, model: SpatialModel, colours: Sequence[str], out: Prepared) -> Marked:
    assert image.spatial is not None
    try:
        canvas = model.open(data, image.spatial.lens())
        marked = canvas.mark([(point.x, point.y) for point in image.spatial.points], colours)
    except DepthLMError as error:
        raise DepthLMError(f"{image.param}, {error.where}", error.reason, error.mend, error.kind) from error
    if canvas.photo.warning:
        out.warnings.append(f"{image.param}: {canvas.photo.warning}")
    points = [
        {"name": point.name or colour, "colour": colour, "x": point.x, "y": point.y}
        for point, colour in zip(image.spatial.points, colours, strict=True)
    ]
    out.images.append({"camera": camera_told(canvas.photo), "points": points})
    return marked


def _replace(body: dict[str, Any], image: ImagePart, url: str) -> None:
    """Put another image in an image's place; nothing else of its part changes."""
    part = body["messages"][image.at[0]]["content"][image.at[1]]
    part.pop("spatial", None)
    if isinstance(part["image_url"], dict):
        part["image_url"]["url"] = url
    else:
        part["image_url"] = url


def _write(
    message: dict[str, Any],
    says: Mapping[str, str],
    named: Sequence[str],
    shown: Sequence[tuple[ImagePart, Marked]],
    model: SpatialModel,
) -> list[str]:
    """Name the marked points in a message's texts, and say its images' cameras where the model was taught by words.

    Returns:
        What stands in braces there, in order, and is no point.
    """
    content: list[Any] | str | None = message.get("content")
    used: dict[str, None] = {}

    def said(found: re.Match[str]) -> str:
        used[found[1]] = None
        return says.get(found[1], found[0])

    if content is None or isinstance(content, str):
        message["content"] = _PLACEHOLDER.sub(said, content) if content else content
        return [name for name in used if name not in says]
    for j, part in enumerate(content):
        if isinstance(part, str):
            content[j] = _PLACEHOLDER.sub(said, part)
        elif isinstance(part.get("text"), str):
            part["text"] = _PLACEHOLDER.sub(said, part["text"])
    in_front = [f"{name} is {says[name]}." for name in named if name not in used]
    if shown and model.asked_as.intrinsics in ("text", "both"):
        in_front.insert(0, camera_words([marked.view.camera for _, marked in shown]))
    if in_front:
        _put_in_front(content, " ".join(in_front))
    return [name for name in used if name not in says]


def _names(
    index: int, shown: Sequence[tuple[ImagePart, Marked]], model: SpatialModel
) -> tuple[dict[str, str], list[str]]:
    """Name or letter of each point of a message -> how the model is told of it; and the names alone."""
    letters = iter(string.ascii_lowercase)
    says: dict[str, str] = {}
    named: list[str] = []
    for image, marked in shown:
        assert image.spatial is not None
        kind = model.profile.marker.kind
        words = point_names(model.asked_as.pointing, kind, marked.colours, marked.xy.tolist())  # type: ignore[arg-type]
        for point, word in zip(image.spatial.points, words, strict=True):
            name = point.name or next(letters)
            if name in says:
                raise BadRequest(f"two points are called {name!r}", param=f"messages.{index}")
            says[name] = word
            named += [name] if point.name else []
    return says, named


def _put_in_front(content: list[Any], text: str) -> None:
    """Before the first text of a message, or behind its images where it has none."""
    for j, part in enumerate(content):
        if isinstance(part, str):
            content[j] = f"{text} {part}"
            return
        if isinstance(part.get("text"), str):
            part["text"] = f"{text} {part['text']}"
            return
    content.append({"type": "text", "text": text})
