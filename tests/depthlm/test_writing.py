"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from depthlm.errors import DepthLMError
from depthlm.writing import is_unwritable, new_folder


def test_a_folder_appears_once_all_is_written(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with new_folder(out) as part:
        (part / "weights").write_bytes(b"x")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "weights").read_bytes() == b"x"
    with pytest.raises(DepthLMError, match="exists already"), new_folder(out):
        raise AssertionError("the work was begun")


def test_what_a_killed_process_left_is_no_part_of_it(tmp_path: Path) -> None:
    left = tmp_path / f"out.part{os.getpid()}"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    with new_folder(tmp_path / "out"):
        pass
    assert not list((tmp_path / "out").iterdir())


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DepthLMError, match="out: can't be written: Not a directory"), new_folder(tmp_path / "file/out"):
        raise AssertionError("the work was begun")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64")])
def test_a_full_disk_is_one_line_and_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    assert is_unwritable(error)
    with pytest.raises(DepthLMError, match="out: can't be written"), new_folder(tmp_path / "out"):
        raise error
    assert not list(tmp_path.iterdir())


def test_other_errors_are_their_own(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "out"):
        raise KeyError("No space left for words")
    with pytest.raises(DepthLMError, match="weights: are torn"), new_folder(tmp_path / "out"):
        raise DepthLMError("weights", "are torn")
    assert not list(tmp_path.iterdir())
