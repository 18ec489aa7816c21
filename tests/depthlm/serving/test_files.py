"""Images within a request's JSON: taken out before it is parsed, put back byte for byte."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest
from gateway_runs import file_of, picture

from depthlm.serving.gateway.chat_images import parse_json, read_json
from depthlm.serving.gateway.faults import GatewayError
from depthlm.serving.gateway.files import MOST, SHORTEST, Files

FILE = file_of(picture())
ENCODED = base64.b64encode(FILE).decode()
URL = f"data:image/png;base64,{ENCODED}"


def test_a_file_is_read_from_its_mark() -> None:
    files = Files()
    raw = json.dumps({"a": URL, "b": [URL, "é"]}).encode()
    taken = files.take_out(raw)
    found = json.loads(taken)
    assert len(taken) < 300
    assert found["a"].startswith("data:image/png;base64,<")
    assert [files.read(url, "a") for url in (found["a"], found["b"][0])] == [FILE, FILE]
    assert files.fill(taken) == raw
    assert files.fill(json.dumps(found["b"]).encode()) == json.dumps([URL, "é"]).encode()


def test_files_are_put_in() -> None:
    files = Files()
    text = json.dumps({"one": files.put(b"1", "image/bmp"), "two": files.put(FILE, "image/png")}).encode()
    assert json.loads(files.fill(text)) == {"one": "data:image/bmp;base64,MQ==", "two": URL}


@pytest.mark.parametrize("text", [
    f"data:image/png;base64,{ENCODED[:SHORTEST - 4]}",  # short
    f"data:image/png;base64,{ENCODED[:-1]}",  # cut off
    f"data:image/png;base64,{ENCODED[:2000]} {ENCODED[2000:]}",
    f"https://example.com/a;base64,{ENCODED}",
    f"data:image/png;{'x' * 300};base64,{ENCODED}",
    f"data:image/png;base64,<{'0' * 32}>",
    "data:;base64,data:;base64,",
    f'https://example.com/?q="{URL}',  # a file within another text
])  # fmt: skip
def test_what_is_no_file_stays(text: str) -> None:
    files = Files()
    raw = json.dumps({"text": text}).encode()
    assert files.take_out(raw) == raw
    assert files.fill(raw) == raw


@pytest.mark.parametrize("raw", [
    json.dumps({"a": URL}).replace("/", "\\/").encode(),  # as PHP writes it
    json.dumps({"a": f'say "{URL}" and "{URL}"'}).encode(),
    json.dumps({"a": URL, URL: URL}).encode(),
    f'{{"{URL}": 1, "{URL}" \n : 2}}'.encode(),
    json.dumps({"a": URL}).encode("utf-16"),
    f'{{"a": "data:\\u003bbase64,{ENCODED}"}}'.encode(),
    json.dumps({"a": URL}).encode()[:-2],
    json.dumps({"a": URL}).encode()[:-1],
    f'{{"a": "", data:;base64,{ENCODED}"}}'.encode(),
])  # fmt: skip
def test_whatever_the_text_it_is_understood_as_before(raw: bytes) -> None:
    def outcome(read: Any) -> Any:
        try:
            return read()
        except GatewayError as error:
            return error.body()

    files = Files()
    marked = outcome(lambda: read_json(raw, files))
    filled = outcome(lambda: parse_json(files.fill(json.dumps(marked).encode()))) if "error" not in marked else marked
    assert filled == outcome(lambda: parse_json(raw))
    assert files.fill(files.take_out(raw)) == raw


def test_most_files_of_a_request() -> None:
    files = Files()
    raw = json.dumps([f"data:;base64,{ENCODED[:SHORTEST]}"] * (MOST + 7)).encode()
    taken = files.take_out(raw)
    assert taken.count(ENCODED[:SHORTEST].encode()) == 7
    assert files.outside == len(taken) and files.fill(taken) == raw


def test_random_texts_come_back() -> None:
    rng = random.Random(0)
    pieces = [*'"\\<>{,é: ', "data:", ";base64,", '"data:;base64,', ENCODED[:1200], ENCODED[:1201]]
    for _ in range(3000):
        raw = "".join(rng.choices(pieces, k=rng.randint(1, 12))).encode()
        files = Files()
        assert files.fill(files.take_out(raw)) == raw


def test_an_error_tells_its_place_in_what_was_sent() -> None:
    raw = json.dumps({"a": URL}).encode()[:-1] + b" oops}"
    with pytest.raises(GatewayError) as told:
        read_json(raw, Files())
    assert f"char {len(raw) - 5}" in str(told.value)
