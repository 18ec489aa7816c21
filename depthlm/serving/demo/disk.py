"""The web page's files: which of them a visitor may name, and how much room they take."""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from depthlm.errors import DepthLMError

MOST_BYTES = 2 << 30
# What a file counts beside its bytes, so that their number is bounded too.
EACH_BYTES = 1 << 16


class Disk:
    """The folder of the page's files.

    Args:
        folder: in which ``examples`` and ``uploads`` are made; Gradio keeps its files in the latter.
        most: bytes of ``uploads``, None: ``MOST_BYTES``; beyond that the files that were longest unused are deleted.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        # resolved, as the paths that are held against them
        self.examples, self.uploads = folder.resolve() / "examples", folder.resolve() / "uploads"
        self.most = MOST_BYTES if most is None else most
        for each in (self.examples, self.uploads):
            each.mkdir(exist_ok=True)
        self._kept: set[Path] = set()
        self._lock = threading.Lock()

    def read(self, path: str | Path) -> bytes:
        """An uploaded file or an example. The path comes from the visitor, and Gradio does not always check it.

        Raises:
            DepthLMError: it is neither, or was deleted since: in the same words, which tell nothing of other files.
        """
        try:
            own = Path(path).resolve()
            if not (own.is_relative_to(self.uploads) or own.is_relative_to(self.examples)):
                raise ValueError("outside")
            os.utime(own)  # it is in use
            return own.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:
            raise DepthLMError("photo", "is no longer here", "drop it again", "unreadable image") from error

    def keep(self) -> None:
        """Never delete the files that are in ``uploads`` now: they are the page's own."""
        self._kept = set(_files(self.uploads))

    def new_folder(self, need: int) -> Path:
        """A folder in ``uploads``, whence Gradio serves without making a copy, for files of ``need`` bytes."""
        self.make_room(need)
        folder = self.uploads / secrets.token_hex(16)
        folder.mkdir()
        return folder

    def make_room(self, need: int = 0) -> None:
        """Delete the files that were longest unused, until ``need`` bytes more are within the limit."""
        with self._lock:
            found = []
            for path in _files(self.uploads):
                with suppress(FileNotFoundError):  # Gradio deletes and renames them meanwhile
                    told = path.stat()
                    found.append((told.st_ctime, told.st_size + EACH_BYTES, path))
            total = need + sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total <= self.most:
                    return
                if path not in self._kept:
                    path.unlink(missing_ok=True)
                    with suppress(OSError):  # others are in it
                        if path.parent != self.uploads:
                            path.parent.rmdir()
                    total -= size


def _files(folder: Path) -> list[Path]:
    return [Path(where) / name for where, _, names in os.walk(folder) for name in names]
