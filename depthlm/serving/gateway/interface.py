"""The OpenAPI document: what FastAPI can't know of pages whose bodies it doesn't read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

from depthlm.serving.gateway.schema import (
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_PARTS,
    Spatial,
    example_image,
    measure_examples,
)

DESCRIPTION = """\
Metric distances from images, by a vision-language model. Points are pixels of the upright image as it is sent: x to the
right, y down, integer coordinates at pixel centres. Errors have the form of OpenAI's interface.
"""
ERRORS = {
    "400": "A request that says something impossible, or an image that can't be read.",
    "401": "No API key, or a wrong one.",
    "413": "A body or an image over the limit.",
    "422": "A field that is unknown, missing or of another type.",
    "429": "Too many requests under way; see Retry-After.",
    "503": "The model's server starts, or was lost; see Retry-After.",
    "504": "No answer in time.",
}
REF = "#/components/schemas/{model}"


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ImageUrl(_Open):
    """An image."""

    url: str = Field(description="`data:` URL; or a public http(s) address, where the server allows that.")


class ImagePart(_Open):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl
    spatial: Spatial | None = None


class TextPart(_Open):
    """A text of a message; `{name}` stands for the point of that name, `{a}`, `{b}`, … for those without."""

    type: Literal["text"]
    text: str


Parts = Annotated[list[ImagePart | TextPart], Field(max_length=MAX_PARTS)]


class Message(_Open):
    """A turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | Parts


class ChatRequest(_Open):
    """As OpenAI's interface; what isn't listed here is passed on."""

    model: str | None = Field(None, description="One of /v1/models.")
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool = False
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)


class ErrorTold(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """An error in the form of OpenAI's interface."""

    error: ErrorTold


def chat_examples() -> dict[str, dict[str, Any]]:
    """Name -> a chat request that runs as it stands, with whatever one model is served."""
    text = {"type": "text", "text": "How many metres away is {chair} from the camera?"}
    image = {"type": "image_url", "image_url": {"url": example_image()}}
    spatial = {"points": [{"x": 40, "y": 30, "name": "chair"}], "fov": 60}
    return {
        "a named point": {
            "messages": [{"role": "user", "content": [image | {"spatial": spatial}, text]}],
            "max_tokens": 32,
        },
        "text alone": {"messages": [{"role": "user", "content": "How many metres is a mile?"}], "max_tokens": 32},
        "as a stream": {
            "messages": [{"role": "user", "content": [image | {"spatial": spatial}, text]}],
            "max_tokens": 32,
            "stream": True,
        },
    }


def _named(examples: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in examples.items()}


CHAT_DOCUMENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": REF.format(model="ChatRequest")},
                "examples": _named(chat_examples()),
            }
        },
    }
}


def describe(app: FastAPI, open_paths: Collection[str], limited: Collection[str]) -> None:
    """Let ``app`` tell its whole interface at ``/openapi.json``.

    Args:
        open_paths: need no key.
        limited: reach the model's server, and may be refused for any of `ERRORS`; the others for their key alone.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            for model in (ChatRequest, Failure):
                own = model.model_json_schema(ref_template=REF)
                schemas |= own.pop("$defs", {}) | {model.__name__: own}
            measure = found["paths"]["/v1/spatial/measure"]["post"]
            measure["requestBody"]["content"]["application/json"]["examples"] = _named(measure_examples())
            failure = {"application/json": {"schema": {"$ref": REF.format(model="Failure")}}}
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, pages in found["paths"].items():
                for page in pages.values():
                    if path not in open_paths:
                        page["security"] = [{}, {"key": []}]  # a gateway may have no keys
                        for status in ERRORS if path in limited else ("401",):
                            page["responses"][status] = {"description": ERRORS[status], "content": failure}
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
