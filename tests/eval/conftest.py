"""A tiny suite written by hand, a chat server whose faults are scripted, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from eval_server import ChatServer, write_suite

from depthlm.suite import Suite

if TYPE_CHECKING:
    from browser import Browser


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return write_suite(tmp_path / "suite")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    chat = ChatServer()
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from browser import Browser, find_chromium  # what needs no browser runs without Playwright

    program = find_chromium()
    if not program:
        pytest.skip("no Chromium: install one, or name it in CHROMIUM")
    browser = Browser(program)
    yield browser
    browser.close()
