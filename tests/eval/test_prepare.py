"""Questions made ready ahead of the requests: what is sent is what the profile shows, in whatever process."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from suites import freeze_store

from depthlm.errors import DepthLMError
from depthlm.serving.chat_request import ENCODINGS, ChatPacker
from depthlm.shown import Shown
from depthlm.suite import Item
from depthlm.suite_view import SuiteView
from eval.prepare import conversations, jobs, prepared


def item(name: str, frame: str = "a", points: int = 1, **more) -> Item:
    return Item(name, "distance", "d", [frame], "?", "1", 1.0, "m", ["h"], list(range(points)), **more)


def shape(found: list[list[Item]]) -> list[str]:
    return [" ".join(each.id for each in one) for one in found]


def test_questions_about_one_frame_come_together_and_share_a_conversation():
    items = [item("1"), item("2", "b"), item("3"), item("4"), item("5", "b")]
    assert shape(conversations(items)) == ["1", "3", "4", "2", "5"]
    assert shape(conversations(items, 2)) == ["1 3", "4", "2 5"]
    many = [item(str(i), points=2) for i in range(6)]
    assert max(sum(len(i.labels) for i in one) for one in conversations(many, 9)) <= 8
    alone = [replace(item("p", points=0), frame_ids=["a", "b"]), replace(item("q", points=0), frame_ids=["a", "b"])]
    stored = [item("s", images=["x.png"]), item("t", images=["x.png"])]
    assert shape(conversations([*alone, *stored], 4)) == ["p", "q", "s", "t"]


def test_a_job_holds_one_frame_and_is_bounded():
    found = list(jobs([[item(str(i))] for i in range(20)] + [[item("b", "b")]]))
    assert [len(job) for job in found] == [4] * 5 + [1]
    assert [one[0].id for job in found for one in job] == [str(i) for i in range(20)] + ["b"]


def collect(found, view, packer, workers):
    async def run():
        return [ready async for ready in prepared(found, view, packer, ahead=4, workers=workers)]

    return asyncio.run(run())


def body_of(packed, *answers):
    return json.loads(packed.body(answers))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_sent_is_what_is_shown(store, tmp_path, workers):
    mix = {"distance": 1.0, "two_point": 1.0, "camera_motion": 1.0}
    suite, _ = freeze_store(store, tmp_path / "suite", 12, mix)
    found = conversations(suite.items)
    view, packer = SuiteView(suite), ChatPacker("m", {"temperature": 0}, "bmp")
    ready = collect(found, view, packer, workers)
    assert [r.items for r in ready] == found and not any(r.error for r in ready)
    for one in ready:
        body = body_of(one.packed)
        assert list(body) == ["model", "messages", "temperature"] and body["model"] == "m"
        *pictures, text = body["messages"][-1]["content"]
        shown = view.show(*one.items)
        assert text == {"type": "text", "text": shown.texts[0]} and len(pictures) == one.items[0].image_count
        for part, pixels in zip(pictures, shown.images, strict=True):
            data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/bmp;base64,"))
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), pixels)


def test_a_question_that_cannot_be_shown_is_told_and_the_others_go_on(store, tmp_path):
    suite, _ = freeze_store(store, tmp_path / "suite", 6, {"distance": 1.0})
    items = [replace(suite.items[0], frame_hashes=["0" * 24]), *suite.items[1:]]
    ready = collect([[one] for one in items], SuiteView(suite), ChatPacker("m", {}), 0)
    assert [r.error is None for r in ready] == [False] + [True] * 5
    assert "not the one that was frozen" in str(ready[0].error)


def test_markers_without_room_beside_each_other_are_asked_one_by_one(store, tmp_path):
    suite, _ = freeze_store(store, tmp_path / "suite", 2, {"distance": 1.0})
    twice = [suite.items[0], replace(suite.items[0], id="again")]  # two markers on one pixel
    ready = collect([twice], SuiteView(suite), ChatPacker("m", {}), 0)
    assert [[one.id for one in r.items] for r in ready] == [[suite.items[0].id], ["again"]]
    assert not any(r.error for r in ready)


def shown(texts=("How far?",), **more) -> Shown:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 56, 3), np.uint8)
    return Shown([pixels], list(texts), **more)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_lose_nothing(encoding):
    question = shown()
    (part, _) = body_of(ChatPacker("m", {}, encoding)(question))["messages"][0]["content"]
    kind, data = part["image_url"]["url"].removeprefix("data:image/").split(";base64,")
    assert kind == encoding
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), question.images[0])
    with pytest.raises(DepthLMError, match="--encoding"):
        ChatPacker("m", {}, "jpeg")


def test_a_conversation_goes_on_after_its_answers():
    packed = ChatPacker("m", {"max_tokens": 8, "seed": None})(shown(["one?", 'two "2"?'], system="Be short."))
    first, second = body_of(packed), body_of(packed, "1.00 é")
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert first["messages"][0]["content"] == "Be short." and "seed" not in first and first["max_tokens"] == 8
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2] == {"role": "assistant", "content": "1.00 é"}
    assert second["messages"][3] == {"role": "user", "content": [{"type": "text", "text": 'two "2"?'}]}


def test_text_may_come_first_and_may_look_like_an_image():
    tricky = 'Is {"type": "image"} here?'
    content = body_of(ChatPacker("m", {})(shown([tricky], text_first=True)))["messages"][0]["content"]
    assert content[0] == {"type": "text", "text": tricky} and content[1]["type"] == "image_url"


class Deadly:
    """A packer whose process is killed, as one that needs too much memory is."""

    def __call__(self, shown: Shown) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_one_error(store, tmp_path):
    suite, _ = freeze_store(store, tmp_path / "suite", 6, {"distance": 1.0})
    with pytest.raises(DepthLMError, match="--workers"):
        collect(conversations(suite.items), SuiteView(suite), Deadly(), 2)
