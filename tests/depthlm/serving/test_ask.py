"""`depthlm ask` on the command line."""

from __future__ import annotations

import json
import re

import pytest
from conftest import make_frame
from gateway_runs import Running

from depthlm.cli import main
from depthlm.serving.ask import add
from depthlm.serving.gateway.upstream import Upstream


def ask(*words: object) -> int:
    return main(["ask", *map(str, words)], {"ask": lambda: add})


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(make_frame().image)
    return path


def test_it_prints_a_measurement(photo, server, capsys):
    server.choices = lambda body, _: [{"message": {"content": "3.25"}}]
    where = ("--endpoint", server.url, "--profile", "nano")
    assert ask(photo, "--point", "100,120", "--fov", 70, *where) == 0
    out = capsys.readouterr()
    assert out.out == "3.25 m\n"
    assert "log-probabilities" in out.err
    assert ask(photo, "--point", "door=100,120", "--point", "200,60.5", "--json", *where) == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert (found["kind"], found["value"]) == ("two_point", 3.25)
    assert [(p["name"], p["x"], p["y"]) for p in found["points"]] == [("door", 100, 120), ("blue", 200, 60.5)]
    assert found["cameras"][0]["known_from"] == "assumed"
    assert "67 degrees was assumed" in out.err
    assert ask(photo, photo, "--intrinsics", "300,300", "--distortion=-0.1,0,0,0", *where) == 0
    assert capsys.readouterr().out == "3.25 m\n"


def test_an_answer_without_a_number_makes_the_status_1(photo, server, capsys):
    server.choices = lambda body, _: [{"message": {"content": "I can't see it"}}]
    assert ask(photo, "--point", "100,120", "--endpoint", server.url, "--profile", "nano") == 1
    assert capsys.readouterr().out == "no distance: refusal\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--point", "100,120", "--model", "nano", "--endpoint", "http://h"], "drop one"),
        (
            ["--point", "100,120", "--kind", "speed", "--endpoint", "http://127.0.0.1:9"],
            "nothing answers|time in seconds",
        ),
        (["--point", "100,120", "--endpoint", "ftp://h"], "no http address"),
        (["more.png", "evenmore.png", "--point", "1,1"], "3 images"),
    ],
)
def test_bad_use_is_one_line(photo, words, told, capsys):
    assert ask(photo, *words) == 2
    err = capsys.readouterr().err
    assert re.search(told, err)
    assert "Traceback" not in err


@pytest.mark.parametrize("point", ["100", "a,b", "1,2,3", ""])
def test_a_point_that_is_none_is_refused(photo, point, capsys):
    with pytest.raises(SystemExit) as caught:
        ask(photo, "--point", point)
    assert caught.value.code == 2
    assert "320,240" in capsys.readouterr().err


def test_a_gateway_is_asked_too_also_one_that_serves_an_adapter(photo, model, capsys):
    """Its server then lists two models; which one it asks, the gateway knows."""
    model.names = ["base", "adapter"]
    with Running(Upstream(model.url + "/v1", "adapter")) as running:
        assert ask(photo, "--point", "100,120", "--fov", 70, "--endpoint", running.url, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["value"], found["model"], found["points"][0]["name"]) == (3.25, "adapter", "red")
    assert json.loads(model.bodies[0])["model"] == "adapter"
