"""Folders that appear whole or not at all, and what a disk that can't be written to says."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from depthlm.errors import DepthLMError

UNWRITABLE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)
UNWRITABLE_WORDS = ("No space left", "File too large", "Disk quota exceeded", "failed writing file", "unexpected pos")


def is_unwritable(error: BaseException) -> bool:
    """Whether it tells of a full disk, in the words of Python, of safetensors or of torch.save."""
    return getattr(error, "errno", None) in UNWRITABLE or any(word in str(error) for word in UNWRITABLE_WORDS)


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which takes its name once all is done.

    It is made at once, so that a place that can't be written to is told before hours of work.

    Raises:
        DepthLMError: ``out`` holds something already, or can't be written.
    """
    out = Path(out).resolve()
    part = out.with_name(f"{out.name}.part{os.getpid()}")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DepthLMError(out, "exists already", "give a new folder")
        shutil.rmtree(part, ignore_errors=True)  # a killed process of this number left it
        part.mkdir(parents=True)
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error.strerror}", "give another folder") from error
    try:
        yield part
        part.replace(out)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_unwritable(error):
            raise
        reason = f"can't be written: {str(error).splitlines()[0]}"
        raise DepthLMError(out, reason, "free space, or give another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
