"""Reports on disk: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from depthlm.errors import DepthLMError
from depthlm.store import replace_file


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folder it is in where there is none.

    Raises:
        DepthLMError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DepthLMError(path, f"can't be written: {error.strerror}", "check --out and its permissions") from error
    replace_file(path, text.encode("utf-8", "replace"))  # an answer may hold what is no UTF-8
