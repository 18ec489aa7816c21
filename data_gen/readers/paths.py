"""The files of a dataset: opened only inside its root, and missed or unreadable in the same words in every reader."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from depthlm.camera import Floats
from depthlm.errors import DepthLMError
from depthlm.frame import pillow_says

ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height


def dataset_root(source: str | Path, expected: str) -> Path:
    """``source`` as an absolute path.

    Args:
        expected: what the user should give, e.g. ``"the folder that holds kv1, kv2, …"``.

    Raises:
        DepthLMError: it is no folder.
    """
    root = Path(source).resolve()  # "." has a name then, and worker processes may start elsewhere
    if not root.is_dir():
        raise DepthLMError(root, "no such folder", f"give {expected}", "no source")
    return root


def frame_id(key: str) -> str:
    """A key made of file names, as a frame's id: only letters, digits and ``._-/``."""
    return re.sub(r"[^A-Za-z0-9._/-]+", "_", key)


def inside(root: Path, name: str | Path) -> Path:
    """``root / name`` with links followed.

    Raises:
        DepthLMError: it lies outside ``root``: an absolute path, ``..``, or a link that leads out.
    """
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DepthLMError(str(name), f"lies outside {root}", "keep the dataset in one folder", "path outside root")
    return path


def read_bytes(root: Path, name: str | Path, what: str) -> bytes:
    """The bytes of ``root / name``.

    Args:
        what: ``"image"``, ``"depth"``, ``"pose"``, …; the error's kind is ``missing WHAT`` or ``unreadable WHAT``.

    Raises:
        DepthLMError: outside the root, not there, or not readable.
    """
    path = inside(root, name)
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DepthLMError(path, f"no such {what} file", "restore it", f"missing {what}") from error
    except OSError as error:
        raise DepthLMError(path, f"{what} can't be read: {error.strerror}", "", f"unreadable {what}") from error


def read_numbers(
    root: Path, name: str | Path, what: str, shape: tuple[int, ...], delimiter: str | None = None
) -> Floats:
    """The numbers of a text file, float64; -1 in ``shape`` is any length; ``#`` starts a comment.

    Raises:
        DepthLMError: as `read_bytes`; or it holds other than so many numbers (kind ``bad WHAT``).
    """
    text = read_bytes(root, name, what)
    try:
        lines = text.decode().splitlines()
        words = [line.partition("#")[0].replace(delimiter or " ", " ").split() for line in lines]
        return np.array([float(word) for row in words for word in row]).reshape(shape)
    except ValueError as error:  # also bytes that are no UTF-8
        raise DepthLMError(
            root / name, f"is not {what} numbers of shape {shape}: {error}", "restore the file", f"bad {what}"
        ) from error


def image_size(data: bytes, where: str | Path) -> tuple[int, int]:
    """Width and height of an encoded image as it is shown (EXIF orientation applied), from its header alone.

    Raises:
        DepthLMError: it is no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception as error:  # Pillow raises many types for broken files
        raise DepthLMError(
            where, f"is no image: {pillow_says(error)}", "restore the file", "unreadable image"
        ) from error
