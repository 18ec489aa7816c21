"""A tiny suite written by hand and a chat server whose faults are scripted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from eval_server import ChatServer, write_suite

from depthlm.suite import Suite


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return write_suite(tmp_path / "suite")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    chat = ChatServer()
    yield chat
    chat.close()
