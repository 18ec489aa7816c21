"""Paths that datasets name: always inside the dataset."""

from __future__ import annotations

from pathlib import Path

from depthlm.errors import DepthLMError


def inside(root: Path, name: str | Path) -> Path:
    """The file ``name`` of the dataset at ``root``; links are followed, and may not lead out either.

    Raises:
        DepthLMError: kind "path outside root", or "missing file".
    """
    text, base = str(name), root.resolve()
    if not text or "\0" in text:
        raise DepthLMError(root, f"names the path {text!r}", "", "bad row")
    path = (base / text).resolve()
    if not path.is_relative_to(base):
        raise DepthLMError(f"{root}: {text!r}", "lies outside the dataset", "restore the dataset", "path outside root")
    if not path.is_file():
        raise DepthLMError(path, "no such file", "restore the dataset", "missing file")
    return path


def read_inside(root: Path, name: str | Path) -> bytes:
    """The bytes of a file of the dataset.

    Raises:
        DepthLMError: as `inside`, or kind "unreadable file".
    """
    path = inside(root, name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DepthLMError(path, f"can't be read: {error.strerror}", "", "unreadable file") from error


def folder(root: Path, of: str) -> Path:
    """``root`` itself, checked to be a folder.

    Raises:
        DepthLMError: it is none.
    """
    if not root.is_dir():
        raise DepthLMError(root, "no such folder", f"give the folder of {of}", "no source")
    return root
