"""The images of a chat request: found, and what is not to reach the model's server refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from depthlm.serving.gateway.faults import BadRequest, GatewayError, of_validation
from depthlm.serving.gateway.files import Files
from depthlm.serving.gateway.schema import MAX_CHOICES, MAX_MESSAGES, MAX_PARTS, MAX_POINTS, Spatial

TEXT_TYPES = ("text", "input_text", "output_text", "refusal", "thinking", "tool_reference")
# vLLM loads what stands under these, from wherever they point to; under a `uuid` it takes a cached image, whose ever
REFUSED = ("video_url", "audio_url", "input_audio", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds")
REFUSED += ("image_pil", "file", "uuid")
# Of the request, with what a client could do by them. Whatever begins with `guided_` is refused too.
_OTHERS, _GRAMMAR = "reaches into other requests", "can keep the whole server busy before it answers"
REFUSED_FIELDS = {
    "mm_processor_kwargs": "can make a small image as large as memory is",
    "media_io_kwargs": "can make a small image as large as memory is",
    "kv_transfer_params": _OTHERS,
    "ec_transfer_params": _OTHERS,
    "vllm_xargs": _OTHERS,
    "priority": _OTHERS,
    "request_id": _OTHERS,
    "session_id": _OTHERS,
    "chat_template": "is a program for the server",
    "logits_processors": "is a program for the server",
    "structured_outputs": _GRAMMAR,
    "use_beam_search": _GRAMMAR,
    "prompt_logprobs": _GRAMMAR,
}


@dataclass(frozen=True)
class ImagePart:
    """An image of a request.

    Args:
        at: indices of its message and of its part in there.
        url: of the image.
        spatial: what to do with it; None: nothing.
    """

    at: tuple[int, int]
    url: str
    spatial: Spatial | None = None

    @property
    def param(self) -> str:
        """The part's name, for errors."""
        return f"messages.{self.at[0]}.content.{self.at[1]}"


def read_json(raw: bytes, files: Files) -> dict[str, Any]:
    """A request's body as `parse_json` has it, with marks in the place of what is now in ``files``.

    Raises:
        GatewayError: no object in plain JSON.
    """
    text = files.take_out(raw)
    try:
        return parse_json(text)
    except GatewayError:
        if len(text) < len(raw):
            parse_json(raw)  # tells the place in what the client sent
        raise


def parse_json(data: bytes) -> dict[str, Any]:
    """A request's body. What two readers could understand differently is refused: it is read again behind the gateway.

    Raises:
        GatewayError: no object in plain JSON.
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError as error:
        raise BadRequest("the JSON is nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {str(error)[:120]}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise BadRequest("the body is no JSON object", code="invalid_json")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names a field twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def find_images(body: Mapping[str, Any], most: int) -> list[ImagePart]:
    """The images of a chat request, in order, ``most`` at most; nothing else makes the model's server load things.

    Raises:
        GatewayError: a part of another kind than text and images, or too much of anything.
    """
    _check_fields(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("is no list of messages", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"are {len(messages)}, over the limit of {MAX_MESSAGES}", param="messages")
    found = [image for at, part in _parts(messages) if (image := _image(at, part)) is not None]
    check_count(len(found), most, "messages")
    points = sum(len(image.spatial.points) for image in found if image.spatial)
    if points > MAX_POINTS:
        raise BadRequest(f"mark {points} points, over the limit of {MAX_POINTS}", param="messages")
    return found


def check_count(images: int, most: int, param: str) -> None:
    """Refuse a request of more images than the model's server takes.

    Raises:
        GatewayError: of which this is one.
    """
    if images > most:
        raise BadRequest(f"hold {images} images, over the limit of {most}", param=param)


def _check_fields(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        reason = _GRAMMAR if name.startswith("guided_") else REFUSED_FIELDS.get(name)
        if reason is not None and value is not None:
            raise BadRequest(f"is not taken by this gateway: it {reason}", param=name)
    form = body.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") not in ("text", "json_object")):
        raise BadRequest(f"is text or json_object with this gateway: another {_GRAMMAR}", param="response_format")
    count = body.get("n")
    # a text of digits too is a number to vLLM, a yes is one
    if count is not None and (type(count) is not int or not 1 <= count <= MAX_CHOICES):
        raise BadRequest(f"is no whole number from 1 to {MAX_CHOICES}", param="n")


def without_seed(body: dict[str, Any]) -> bool:
    """Take the seed away from a request whose answer is drawn; whether it had one."""
    return body.get("temperature") != 0 and body.pop("seed", None) is not None  # missing, it is 1


def _parts(messages: Sequence[Any]) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else ()
        if content is None or isinstance(content, str):
            continue
        if not isinstance(message, dict) or not isinstance(content, list):
            raise BadRequest("is no message with a text or a list of parts", param=f"messages.{i}")
        if len(content) > MAX_PARTS:
            raise BadRequest(f"has {len(content)} parts, over the limit of {MAX_PARTS}", param=f"messages.{i}")
        for j, part in enumerate(content):
            if isinstance(part, dict):
                yield (i, j), part
            elif not isinstance(part, str):
                raise BadRequest("is no part of a message", param=f"messages.{i}.content.{j}")


def _image(at: tuple[int, int], part: dict[str, Any]) -> ImagePart | None:
    """The image that a part holds; whatever its type says, for vLLM looks at its fields too."""
    name = f"messages.{at[0]}.content.{at[1]}"
    kind = part.get("type")
    for refused in REFUSED:
        if part.get(refused) is not None:
            raise BadRequest("only text and image_url are taken", param=f"{name}.{refused}")
    given = part.get("image_url")
    if given is None and kind in TEXT_TYPES:
        if part.get("spatial") is not None:
            raise BadRequest("belongs to an image_url part", param=f"{name}.spatial")
        return None
    if kind not in ("image_url", "input_image", None):
        raise BadRequest("is none of text and image_url", param=f"{name}.type")
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise BadRequest("holds no image's URL", param=f"{name}.image_url")
    if isinstance(given, dict) and given.get("spatial") is not None:
        raise BadRequest("belongs beside image_url, not inside", param=f"{name}.image_url.spatial")
    return ImagePart(at, url, _spatial(part, f"{name}.spatial") if part.get("spatial") is not None else None)


def _spatial(part: dict[str, Any], name: str) -> Spatial:
    try:
        return Spatial.model_validate(part["spatial"])
    except ValidationError as error:
        found = of_validation(list(error.errors(include_input=False, include_url=False)))
        param = f"{name}.{found.param}" if found.param else name
        raise GatewayError(found.status, f"{name}.{found.message}", param=param, code=found.code) from error
