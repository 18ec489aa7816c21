"""Servers whose faults are scripted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from eval_server import ChatServer
from gateway_runs import Model, Running, Serving


class Served(Model):
    """The model, and where it is served."""

    url: str


@pytest.fixture
def server() -> Iterator[ChatServer]:
    chat = ChatServer()
    yield chat
    chat.close()


@pytest.fixture
def model() -> Iterator[Served]:
    scripted = Served()
    with Serving(scripted) as serving:
        scripted.url = serving.url
        yield scripted


@pytest.fixture(scope="module")
def plain() -> Iterator[tuple[Running, Served]]:
    """A gateway with the default settings, for a whole module, and the model behind it."""
    scripted = Served()
    with Serving(scripted) as serving, Running(serving.url) as running:
        yield running, scripted


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The web page of nano."""
    from demo_page import at_page  # what needs no page runs without Gradio

    from depthlm.serving.demo.command import open_local

    with at_page(open_local, "nano") as url:
        yield url
