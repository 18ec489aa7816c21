"""A chat server whose faults are scripted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from eval_server import ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    chat = ChatServer()
    yield chat
    chat.close()
