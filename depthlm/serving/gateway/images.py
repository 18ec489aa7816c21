"""Where a request's images come from: data URLs; on permission public addresses; never a file of this machine."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Protocol

import pybase64
from PIL import Image

from depthlm.frame import IMAGE_FORMATS, too_many_scans
from depthlm.serving.gateway.faults import BadRequest, GatewayError


class Remote(Protocol):
    """Fetches images from elsewhere, see `depthlm.serving.gateway.remote_images`."""

    async def fetch_all(self, wanted: Mapping[str, str]) -> dict[str, bytes]: ...


def is_data(url: str) -> bool:
    """Whether an address holds the image itself."""
    return url[:5].lower() == "data:"


async def fetch_all(urls: Sequence[tuple[str, str]], remote: Remote | None) -> dict[str, bytes]:
    """Bytes of the images that are elsewhere, by address; data URLs are left to `file_bytes`.

    Args:
        urls: (address, name of the field that holds it).
        remote: None: not allowed.

    Raises:
        GatewayError: an address that isn't allowed, or holds no image.
    """
    wanted = {url: param for url, param in reversed(urls) if not is_data(url)}
    if not wanted:
        return {}
    if remote is None:
        message = "only data: URLs are taken: send the image itself, as data:image/jpeg;base64,…"
        raise BadRequest(message, param=wanted.popitem()[1], code="remote_images_refused")
    return await remote.fetch_all(wanted)


def file_bytes(url: str, param: str) -> bytes:
    """The file in a base64 data URL. Its media type is not believed: the file itself tells what it is.

    Raises:
        GatewayError: no base64 data URL.
    """
    head, comma, content = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise BadRequest("is no base64 data URL: data:image/jpeg;base64,…", param=param, code="invalid_image")
    try:
        # strict: what is decoded here has to be what the model's server would decode
        return pybase64.b64decode(content, validate=True)
    except ValueError as error:  # also of letters beyond ASCII
        raise BadRequest("its base64 is broken", param=param, code="invalid_image") from error


def check_file(data: bytes, param: str, max_pixels: int) -> str:
    """Look at an image's header before someone else unpacks it; returns its media type.

    Raises:
        GatewayError: no image that is taken, or one that is too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            count = image.width * image.height
            size = f"{image.width}x{image.height}"
            kind = image.format or "PNG"
        with Image.open(io.BytesIO(data)) as image:  # as the model's server does: in whatever format comes first
            same = kind == image.format and size == f"{image.width}x{image.height}"
    except Image.DecompressionBombError as error:
        raise too_large(param, max_pixels) from error
    except Exception as error:  # Pillow raises many types for broken files
        message = f"is no image of a format that is taken: {', '.join(IMAGE_FORMATS)}"
        raise BadRequest(message, param=param, code="invalid_image") from error
    if count > max_pixels:
        raise too_large(param, max_pixels, f" of {size}")
    if not same:
        raise BadRequest("can be read as two formats", param=param, code="invalid_image")
    if too_many_scans(data, kind):
        raise BadRequest("is a JPEG of too many scans: save it anew", param=param, code="unreadable_image")
    return Image.MIME[kind]


def too_large(param: str, max_pixels: int, size: str = "") -> GatewayError:
    """The refusal of an image with too many pixels."""
    message = f"image{size} is over the limit of {max_pixels / 1e6:g} megapixels: shrink it"
    return GatewayError(413, message, param=param, code="image_too_large")
