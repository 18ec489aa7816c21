"""Questions as requests of an OpenAI-compatible chat interface, made once and sent as bytes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.prompt import assistant_message, user_message
from depthlm.shown import Shown

# All lossless. PNG is understood everywhere; BMP costs a tenth of its time on both sides, and three times its bytes.
ENCODINGS = ("png", "bmp", "webp")
_FLAGS: dict[str, list[int]] = {
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY],
    "bmp": [],
}
FORMATS = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"RIFF": "webp", b"BM": "bmp"}


@dataclass(frozen=True)
class ChatRequest:
    """A conversation's requests: the first is ``head + tail``, the next has the answers and questions in between.

    Args:
        head: from the body's beginning to the end of the first question.
        texts: the questions after the first.
        tail: from the end of the messages to the body's end.
    """

    head: bytes
    texts: tuple[str, ...]
    tail: bytes

    def body(self, answers: Sequence[str] = ()) -> bytes:
        """The request for the question after ``answers``."""
        turns = []
        for answer, text in zip(answers, self.texts, strict=False):
            turns += [_plain(assistant_message(answer)), user_message(text, 0)]
        return self.head + b"".join(b"," + json.dumps(turn).encode() for turn in turns) + self.tail


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """A system's or an assistant's message with its text as a bare string, as every server takes it."""
    return {"role": message["role"], "content": "".join(part["text"] for part in message["content"])}


@dataclass(frozen=True)
class ChatPacker:
    """Packs questions as requests for ``model`` with further ``settings``; images in ``encoding``.

    Raises:
        DepthLMError: an unknown encoding.
    """

    model: str
    settings: Mapping[str, Any]
    encoding: str = "png"

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise DepthLMError("--encoding", f"{self.encoding!r} is not known", f"one of {', '.join(ENCODINGS)}")

    def __call__(self, shown: Shown) -> ChatRequest:
        files = shown.stored or [encode(pixels, self.encoding) for pixels in shown.images]
        messages = json.dumps([_plain(m) if m["role"] == "system" else m for m in shown.messages()])
        # the images are put in as bytes: escaping them as JSON would take as long as encoding them
        *parts, last = messages.encode().split(b'{"type": "image"}')
        head = b"".join(part + _image_part(data) for part, data in zip(parts, files, strict=True)) + last
        settings = {key: value for key, value in self.settings.items() if value is not None}
        model = json.dumps(self.model).encode()
        tail = b"]" + b"".join(
            b"," + json.dumps(k).encode() + b":" + json.dumps(v).encode() for k, v in settings.items()
        )
        return ChatRequest(b'{"model":' + model + b',"messages":' + head[:-1], tuple(shown.texts[1:]), tail + b"}")


def _image_part(data: bytes) -> bytes:
    kind = next((name for magic, name in FORMATS.items() if data.startswith(magic)), "png")
    url = b"data:image/" + kind.encode() + b";base64," + base64.b64encode(data)
    return b'{"type":"image_url","image_url":{"url":"' + url + b'"}}'


def encode(pixels: NDArray[np.uint8], encoding: str) -> bytes:
    """(h, w, 3) RGB as the bytes of an image file, lossless."""
    if encoding == "webp":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=0, quality=0)
        return buffer.getvalue()
    return cv2.imencode(f".{encoding}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _FLAGS[encoding])[1].tobytes()
