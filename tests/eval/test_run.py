"""``depthlm eval run`` on frozen suites: who answers, by which profile, and what is written."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_frame
from eval_server import ChatServer
from suites import freeze_store

from data_gen.freeze import Asking, Part, freeze
from depthlm.cli import build_parser, main
from depthlm.errors import DepthLMError
from depthlm.models.asked_as import AskedAs, profile_of
from depthlm.profiles import PROFILES
from depthlm.serving import chat_request
from depthlm.store import write_shard
from depthlm.suite import Suite
from depthlm.suite_view import SuiteView
from eval.answer_file import read_answers
from eval.commands import add
from eval.depth_maps import MapFolder
from eval.engines import depth_map
from eval.engines.vllm_offline import VLLMOfflineEngine
from eval.prepare import conversations
from eval.run import _check

ROOT = Path(__file__).parents[2]
MIX = {"distance": 1.0, "two_point": 1.0, "camera_motion": 1.0}


@pytest.fixture
def frozen(store: Path, tmp_path: Path) -> Suite:
    return freeze_store(store, tmp_path / "frozen", 12, MIX)[0]


def run(*words: object) -> int:
    return main(["eval", "run", *map(str, words)])


def result(folder: Path) -> tuple[dict, dict[str, dict]]:
    header, *rows = map(json.loads, (folder / "result.jsonl").read_text().splitlines())
    return header, {f"{row['by']} {row['key']}": row for row in rows}


PIXTRAL = {"model_type": "llava", "vision_config": {"model_type": "pixtral"}}


@pytest.mark.parametrize(
    ("name", "config", "profile"),
    [
        ("my-model", None, "general"),
        ("DepthLM", None, "depthlm"),
        ("Qwen2.5-VL-3B-Instruct", None, "qwen2.5-vl-base"),
        ("qwen3_vl", None, "qwen3-vl-base"),
        ("tuned", {"model_type": "qwen2_5_vl"}, "qwen2.5-vl-base"),
        ("tuned", PIXTRAL, "pixtral-base"),
        ("Pixtral-12B-2409", None, "pixtral-base"),
        ("DepthLM-12B", PIXTRAL, "depthlm"),
        ("tuned", {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}, "general"),
        ("tuned", {"model_type": "llava", "vision_config": "pixtral"}, "general"),
        ("other", {"model_type": "gemma3"}, "general"),
        # what an architecture says is no matter of names
        ("my-depthlm", {"model_type": "qwen2_5_vl"}, "qwen2.5-vl-base"),
        ("qwen3-vl-distilled", {"model_type": "qwen2_5_vl"}, "qwen2.5-vl-base"),
        ("pixtral-like", {"model_type": "gemma3"}, "general"),
        ("depthlm-llava", {"model_type": "llava"}, "general"),
    ],
)
def test_a_model_is_asked_as_its_name_or_architecture_tells(tmp_path, name, config, profile):
    folder = tmp_path / name
    folder.mkdir()
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    found, reason = profile_of(folder)
    assert found == profile and reason
    AskedAs("nano").save(folder)
    assert profile_of(folder)[0] == "nano", "what the folder says wins"
    assert profile_of(tmp_path / "adapter", folder)[0] == "nano" and profile_of(folder)[1]


def test_an_adapter_is_asked_as_its_base_s_architecture_or_name_tells(tmp_path):
    assert profile_of("my-depthlm-adapter", "Qwen/Qwen2.5-VL-3B-Instruct")[0] == "qwen2.5-vl-base"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    assert profile_of("my-depthlm-adapter", tmp_path) == ("qwen3-vl-base", "by its architecture, qwen3_vl")
    assert "number" in PROFILES.get("pixtral-base").instruction and not PROFILES.get("pixtral").instruction


def test_every_profile_shows_every_question(frozen):
    for name in PROFILES.names():
        profile = PROFILES.get(name)
        view = SuiteView(frozen, name)
        for item in frozen.items:
            shown = view.show(item)
            sizes = {pixels.shape[:2] for pixels in shown.images}
            assert all(
                h % profile.multiple == w % profile.multiple == 0 and h * w <= profile.max_pixels for h, w in sizes
            )
            assert shown.texts[0].endswith(profile.instruction.format(unit="metres"))


def code_of(document: Path, language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)
    return code


@pytest.mark.parametrize(("name", "status"), [("my-model", 0), ("other", 2)])
def test_a_profile_of_one_s_own_is_what_the_documentation_says(frozen, server, tmp_path, name, status):
    """Installed as pip would install it; text comes first, as no profile of the package has it."""
    document = ROOT / "docs/evaluation.md"
    points = tomllib.loads(code_of(document, "toml"))["project"]["entry-points"]
    info = tmp_path / "site" / "my_package-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    entries = "\n".join(f"{name} = {target}" for target in points["depthlm.profiles"].values())
    (info / "entry_points.txt").write_text(f"[depthlm.profiles]\n{entries}\n")
    (tmp_path / "site/my_package.py").write_text(code_of(document, "python"))
    words = ["--endpoint", server.url, "--model", "m", "--profile", name, "--out", str(tmp_path / "r")]
    command = [sys.executable, "-m", "depthlm.cli", "eval", "run", str(frozen.path), *words]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    if status:
        assert "profile 'other': calls itself 'my-model'" in done.stderr
        return
    contents = [body["messages"][-1]["content"] for body in server.bodies.values()]
    assert {tuple(part["type"] for part in content) for content in contents} == {
        ("text", "image_url"),
        ("text", "image_url", "image_url"),
    }
    assert all(content[0]["text"].endswith(", and nothing else.") for content in contents)
    assert result(tmp_path / "r" / "m")[0]["profile"] == "my-model"


def test_an_unknown_model_gets_the_general_profile_and_the_result_says_so(frozen, server, tmp_path, capsys):
    assert run(frozen.path, "--endpoint", server.url, "--model", "mystery", "--out", tmp_path / "r") == 0
    header, _ = result(tmp_path / "r" / "mystery")
    assert header["profile"] == "general" and any("unknown model" in note for note in header["notes"])
    told = capsys.readouterr().err
    assert told.count("unknown model") == 1 and told.count("the provider may resize images") == 1
    assert "asked by the profile general: unknown model\n" in told
    body = next(iter(server.bodies.values()))
    assert body["max_tokens"] == PROFILES.get("general").max_tokens
    assert run(frozen.path, "--endpoint", server.url, "--model", "x", "--profile", "nano", "--out", tmp_path / "r") == 0
    assert result(tmp_path / "r" / "x")[0]["notes"] == []


def test_answers_by_another_profile_are_not_mixed(frozen, server, tmp_path, capsys):
    words = (frozen.path, "--endpoint", server.url, "--model", "m", "--out", tmp_path / "r", "--profile")
    assert run(*words, "nano") == 0 and run(*words, "qwen2.5-vl") == 2
    assert "profile 'nano', this run has 'qwen2.5-vl'" in capsys.readouterr().err


def test_several_questions_in_one_conversation(store, tmp_path, server: ChatServer):
    suite, _ = freeze_store(store, tmp_path / "s", 12, {"distance": 1.0})
    seen: list[list[dict]] = []

    def choices(body: dict, text: str) -> list[dict]:
        seen.append(body["messages"])
        return [{"message": {"content": f"{len(body['messages'])}.5"}}]

    server.choices = choices
    words = (suite.path, "--endpoint", server.url, "--model", "m", "--profile", "nano", "--out", tmp_path / "r")
    assert run(*words, "--per-conversation", 2) == 0
    assert len(seen) == 12 and sorted(len(messages) for messages in seen) == [1] * 6 + [3] * 6
    for messages in (m for m in seen if len(m) == 3):
        assert "red arrow" in messages[0]["content"][-1]["text"] and "blue arrow" in messages[2]["content"][0]["text"]
        assert messages[1] == {"role": "assistant", "content": "1.5"}
        assert [part["type"] for part in messages[2]["content"]] == ["text"], "an image was sent twice"
    assert run(*words) == 2, "asked otherwise, under the same name"


def test_a_resumed_conversation_is_the_one_of_an_undisturbed_run(store, tmp_path, server: ChatServer):
    suite, _ = freeze_store(store, tmp_path / "s", 12, {"distance": 1.0})
    server.choices = lambda body, text: [{"message": {"content": f"{len(json.dumps(body))}.5"}}]
    words = (suite.path, "--endpoint", server.url, "--model", "m", "--profile", "nano", "--per-conversation", 2)
    assert run(*words, "--out", tmp_path / "whole") == 0
    answers = tmp_path / "whole" / "m" / "answers.jsonl"
    texts = read_answers(answers).texts
    header, session, *rows = answers.read_text().splitlines(keepends=True)
    broken = tmp_path / "broken" / "m" / "answers.jsonl"
    broken.parent.mkdir(parents=True)
    broken.write_text("".join([header, session, *rows[:3]]))  # a kill in the middle of the second conversation
    assert run(*words, "--out", tmp_path / "broken") == 0
    assert read_answers(broken).texts == texts
    ids = [row["id"] for row in map(json.loads, broken.read_text().splitlines()) if "id" in row]
    assert sorted(ids) == sorted(texts), "an answer is there twice"


@pytest.mark.parametrize("status", ["400", "503"])
def test_a_question_that_fails_takes_no_other_of_its_conversation_with_it(store, tmp_path, server, capsys, status):
    suite, _ = freeze_store(store, tmp_path / "s", 24, {"distance": 1.0})
    first = conversations(suite.items, 4)[0]
    assert len(first) == 4
    view = SuiteView(suite)
    whole, rest = view.show(*first), view.show(*first[2:])
    seen: list[tuple[list[str], bytes]] = []
    refuse = [True]

    def fault(question: str, attempt: int) -> str | None:
        messages = server.bodies[question]["messages"]
        texts = [message["content"][-1]["text"] for message in messages if message["role"] == "user"]
        url = messages[0]["content"][0]["image_url"]["url"]
        seen.append((texts, base64.b64decode(url.removeprefix("data:image/png;base64,"))))
        return status if refuse[0] and texts[1:] == whole.texts[1:2] and seen[-1][1] == encode(whole) else None

    def encode(shown) -> bytes:
        return chat_request.encode(shown.images[0], "png")

    server.fault = fault
    server.choices = lambda body, text: [{"message": {"content": f"{len(json.dumps(body))}.5"}}]
    words = (suite.path, "--endpoint", server.url, "--model", "m", "--profile", "nano", "--per-conversation", 4)
    words += ("--attempts", 1, "--concurrency", 1, "--out", tmp_path / "r")
    assert run(*words) == 1
    told = capsys.readouterr().err
    assert f"failed: {first[1].id}" in told and "1 questions have no answer" in told
    answers = read_answers(tmp_path / "r/m/answers.jsonl")
    assert set(answers.errors) == {first[1].id} and len(answers.texts) == 23
    assert [texts for texts, _ in seen[:4]] == [whole.texts[:1], whole.texts[:2], rest.texts[:1], rest.texts[:2]]
    assert [image for _, image in seen[2:4]] == [encode(rest)] * 2, "the rest has a conversation and markers of its own"
    refuse[0] = False
    seen.clear()
    kept = dict(answers.texts)
    assert run(*words) == 0
    assert [texts for texts, _ in seen] == [whole.texts[:2]], "more was asked again than what had failed"
    answers = read_answers(tmp_path / "r/m/answers.jsonl")
    assert len(answers.texts) == 24 and kept.items() <= answers.texts.items()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to ask"),
        (["--baseline", "truth", "--model", "m"], "--baseline and --model both"),
        (["--endpoint", "http://h", "--maps", "."], "--endpoint and --maps both"),
        (["--endpoint", "http://h", "--adapter", "a"], "--adapter: has no effect on --endpoint"),
        (["--baseline", "truth", "--max-tokens", "3"], "--max-tokens: has no effect on --baseline"),
        (["--model", "nano", "--engine", "transformers", "--timeout", "3"], "--timeout: has no effect on --engine tr"),
        (["--model", "nano", "--engine", "transformers", "--vllm-args=--x"], "--vllm-args: has no effect"),
        (["--model", "nano", "--batch", "3"], "--batch: has no effect"),
        (["--endpoint", "http://h", "--engine", "transformers"], "--engine"),
        (["--model", "m", "--samples", "3", "--logprobs"], "--logprobs"),
        (["--endpoint", "http://h", "--parity", "3"], "--parity"),
        (["--model", "nano", "--parity", "3", "--request-json", "{}"], "--request-json: changes what the server is"),
        (["--model", "nano", "--parity", "3", "--limit", "3"], "--limit: has no effect on --parity"),
        (["--model", "nano", "--parity", "3", "--samples", "2"], "--parity: compares greedy answers"),
        (["--endpoint", "http://h", "--request-json", "[1]"], "--request-json"),
        (["--endpoint", "http://h", "--profile", "qwen"], "profile 'qwen'"),
    ],
)
def test_arguments_that_do_not_go_together_are_one_line(frozen, tmp_path, capsys, words, says):
    assert run(frozen.path, *words, "--out", tmp_path / "r") == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert says in err[-1] and "Traceback" not in "".join(err)


def test_what_changes_no_question_goes_with_parity():
    words = ["--parity", "3", "--timeout", "9", "--attempts", "2", "--encoding", "png", "--batch", "4"]
    words = ["eval", "run", "s", "--model", "nano", "--out", "o", *words]
    assert _check(build_parser({"eval": lambda: add}).parse_args(words)) == "model"


@pytest.mark.parametrize(
    "words", [["--concurrency", "0"], ["--samples", "-1"], ["--timeout", "nan"], ["--parity", "0"]]
)
def test_numbers_that_can_not_be_are_refused(frozen, tmp_path, capsys, words):
    with pytest.raises(SystemExit) as ended:
        run(frozen.path, "--baseline", "truth", *words, "--out", tmp_path / "r")
    assert ended.value.code == 2 and words[0] in capsys.readouterr().err


@pytest.mark.parametrize(("on_cpu", "samples", "seed"), [(True, 2, None), (False, 2, 0), (True, 1, 0)])
def test_draws_of_vllm_on_a_cpu_have_no_seed(frozen, server, tmp_path, monkeypatch, on_cpu, samples, seed):
    class Server:
        """Stands for `VLLMServer`: what answers is the test's own chat server."""

        model_name, base_url = "served", server.url
        __enter__ = __exit__ = lambda *_: None

        def __init__(self, model, **options):
            self.on_cpu = on_cpu

    monkeypatch.setattr("depthlm.serving.vllm_process.VLLMServer", Server)
    server.choices = lambda body, text: [{"message": {"content": "3.5"}}] * body.get("n", 1)
    assert run(frozen.path, "--model", "nano", "--samples", samples, "--out", tmp_path / "r") == 0
    assert {body.get("seed") for body in server.bodies.values()} == {seed}
    header = read_answers(tmp_path / "r/nano/answers.jsonl").header
    assert header["settings"]["seed"] == seed, "what is written is what was asked"
    offline = VLLMOfflineEngine(Server("nano"), batch=1, max_tokens=8, samples=samples)
    assert offline.settings["seed"] == seed


def test_another_engine_s_answers_are_not_taken(frozen, server, tmp_path, capsys):
    words = (frozen.path, "--label", "m", "--profile", "nano", "--max-tokens", 8, "--out", tmp_path / "r", "--model")
    assert run(*words, "m", "--endpoint", server.url) == 0
    assert run(*words, "nano", "--engine", "transformers") == 2
    assert "this run has" in capsys.readouterr().err


def test_fresh_asks_all_again(frozen, server, tmp_path):
    words = (frozen.path, "--endpoint", server.url, "--model", "m", "--profile", "nano", "--out", tmp_path / "r")
    assert run(*words) == 0 and run(*words) == 0
    assert sum(server.counts.values()) == len(frozen.items)
    assert run(*words, "--fresh") == 0
    assert sum(server.counts.values()) == 2 * len(frozen.items)


@pytest.fixture
def dense(tmp_path: Path) -> Suite:
    (tmp_path / "dense").mkdir()
    views = [make_frame("a", "s", 0.0, dense=True), make_frame("bb", "s", 1.5, dense=True)]
    write_shard(tmp_path / "dense" / "frames-000000.parquet", views)
    part = Part([tmp_path / "dense"], 12, MIX)
    return freeze([part], tmp_path / "suite", Asking("nano", dense=True))[0]


def write_maps(suite: Suite, folder: Path, factor: float) -> None:
    view = SuiteView(suite)
    for item in suite.items:
        frame = view.frames(item)[0]
        path = folder / f"{frame.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, frame.depth * np.float32(factor))


def test_an_expert_s_maps_answer_at_the_marked_pixels_and_as_a_whole(dense, tmp_path, capsys):
    write_maps(dense, tmp_path / "maps", 1.1)
    assert run(dense.path, "--maps", tmp_path / "maps", "--label", "expert", "--out", tmp_path / "r") == 0
    header, rows = result(tmp_path / "r" / "expert")
    assert header["origin"] == "expert" and rows["kind distance"]["delta1"]["value"] == 1
    assert rows["kind distance"]["abs_rel"]["value"] == pytest.approx(0.1, rel=1e-6)
    assert rows["kind two_point"]["abs_rel"]["value"] == pytest.approx(0.1, rel=1e-6)
    assert rows["kind camera_motion"]["unparsable"] == 2 and rows["kind camera_motion"]["delta1"]["value"] == 0
    assert rows["dense all"]["abs_rel"]["value"] == pytest.approx(0.1, rel=1e-5)
    assert rows["dense all"]["rmse"]["value"] == pytest.approx(0.4, rel=1e-5)
    assert rows["dense all"]["n_images"] == 2 == len((tmp_path / "r/expert/dense.jsonl").read_text().splitlines())
    assert main(["eval", "leaderboard", str(tmp_path / "r"), "--out", str(tmp_path / "board")]) == 0
    assert "Whole depth maps" in (tmp_path / "board" / "leaderboard.md").read_text()


def test_maps_of_another_model_are_not_taken_for_these(dense, tmp_path, capsys):
    for name, factor in (("a", 1.0), ("b", 2.0)):
        write_maps(dense, tmp_path / name / "predicted", factor)
    words = ("--out", tmp_path / "r")
    assert run(dense.path, "--maps", tmp_path / "a" / "predicted", *words) == 0
    assert run(dense.path, "--maps", tmp_path / "b" / "predicted", *words) == 2
    assert "fingerprint" in capsys.readouterr().err
    assert run(dense.path, "--maps", tmp_path / "b" / "predicted", *words, "--fresh") == 0
    assert result(tmp_path / "r" / "predicted")[1]["kind distance"]["delta1"]["value"] == 0


@pytest.mark.parametrize("name", ["p", ""])
def test_as_published_z_is_answered_by_the_map_s_own_z(dense, tmp_path, name):
    part = Part([tmp_path / "dense"], 8, {"distance": 1.0}, name, truth_is="z")
    suite, _ = freeze([part], tmp_path / "z", Asking("nano", dense=True), more={"form": "as-published"})
    assert {item.truth for item in suite.items} == {4.0}
    write_maps(suite, tmp_path / "maps", 1.0)
    assert run(suite.path, "--maps", tmp_path / "maps", "--label", "e", "--out", tmp_path / "r") == 0
    header, rows = result(tmp_path / "r" / "e")
    assert header["form"] == "as-published" and rows["all all"]["abs_rel"]["value"] == 0


def test_parts_with_and_without_z_are_told_apart_and_a_question_of_neither_is_refused(dense, tmp_path):
    parts = [Part([tmp_path / "dense"], 8, {"distance": 1.0}, name, truth_is=name) for name in ("z", "distance")]
    suite, _ = freeze(parts, tmp_path / "both", Asking("nano", dense=True))
    assert {item.truth == 4.0 for item in suite.items if item.id.startswith("distance/")} == {False}
    write_maps(suite, tmp_path / "maps", 1.0)
    engine = depth_map.DepthMapEngine(suite, "m", MapFolder(tmp_path / "maps"))
    for item in suite.items:
        assert float(asyncio.run(engine.ask(item, None, [])).text) == pytest.approx(item.truth, rel=1e-6)
    with pytest.raises(DepthLMError, match="belongs to none of the suite's parts, z, distance"):
        asyncio.run(engine.ask(replace(suite.items[0], id="distance-000000"), None, []))


@pytest.mark.parametrize("truth_is", ["distance", "z"])
def test_why_a_map_says_nothing_is_kept_and_is_no_number(dense, tmp_path, truth_is):
    mix = {"distance": 1.0} if truth_is == "z" else MIX
    part = Part([tmp_path / "dense"], 12, mix, "p", truth_is=truth_is)
    suite = freeze([part], tmp_path / "holes", Asking("nano", dense=True))[0]
    write_maps(suite, tmp_path / "maps", 1.0)
    item = next(item for item in suite.items if item.kind == "distance")
    path = tmp_path / "maps" / f"{item.frame_ids[0]}.npy"
    z = np.load(path)
    x, y = item.points[0]["source_xy"]
    z[round(y), round(x)] = 0
    np.save(path, z)
    assert run(suite.path, "--maps", tmp_path / "maps", "--label", "e", "--out", tmp_path / "r") == 0
    rows = {row["id"]: row for row in map(json.loads, (tmp_path / "r/e/predictions.jsonl").read_text().splitlines())}
    assert rows[item.id]["text"] == "unknown: the map has no depth there"
    silent = [row for row in rows.values() if row["text"].startswith("unknown")]
    assert all(row["value"] is None and row["reason"] == "no number" for row in silent)
    motion = {row["text"] for row in silent if row["kind"] == "camera_motion"}
    assert motion == (set() if truth_is == "z" else {"unknown: a depth map says nothing about this kind of question"})


def test_focal_lengths_are_not_written_for_each_image_and_not_lost(tmp_path, monkeypatch):
    made, writes, stop = [], [], 110

    class Pipeline:
        note = "a note"

        def __init__(self, model):
            pass

        def estimate(self, pixels, name):
            if len(made) == stop:
                raise KeyboardInterrupt
            made.append(name)
            return SimpleNamespace(z=np.ones((2, 2)), camera=SimpleNamespace(fx=float(len(made))))

    written = depth_map.write

    def write(path, data):
        writes.append(path.name)
        written(path, data)

    items = [SimpleNamespace(frame_ids=[f"f{i}"]) for i in range(120)]
    frame = SimpleNamespace(pixels=lambda checked: None)
    monkeypatch.setattr(depth_map, "DepthPipeline", Pipeline)
    monkeypatch.setattr(depth_map, "SuiteView", lambda suite: SimpleNamespace(frames=lambda item: [frame]))
    monkeypatch.setattr(depth_map, "one_per_frame", lambda suite: items)
    monkeypatch.setattr(depth_map, "write", write)
    with pytest.raises(KeyboardInterrupt):
        depth_map.predict_maps(None, "m", tmp_path)
    assert writes.count(depth_map.FOCALS) == 4 and len(depth_map.read_focals(tmp_path)) == 110
    kept = depth_map.read_focals(tmp_path)
    del kept["f7"]  # as after a kill, which leaves no time to write
    (tmp_path / depth_map.FOCALS).write_text(json.dumps(kept))
    stop = 1000
    assert depth_map.predict_maps(None, "m", tmp_path) == "a note"
    assert made[110:] == ["f7", *(f"f{i}" for i in range(110, 120))]
    assert len(depth_map.read_focals(tmp_path)) == 120


def test_images_for_depth_models_of_ones_own(dense, tmp_path):
    assert main(["eval", "images", str(dense.path), "--out", str(tmp_path / "images")]) == 0
    cameras = json.loads((tmp_path / "images" / "cameras.json").read_text())
    assert set(cameras) == {"s/a", "s/bb"} and cameras["s/a"]["width"] == 320
    view = SuiteView(dense)
    frame = view.frames(next(item for item in dense.items if item.frame_ids[0] == "s/a"))[0]
    assert (tmp_path / "images" / "s" / "a.png").read_bytes() == frame.image


def test_a_missing_map_is_named_and_makes_the_status_1(dense, tmp_path, capsys):
    write_maps(dense, tmp_path / "maps", 1.0)
    (tmp_path / "maps" / "s" / "bb.npy").unlink()
    assert run(dense.path, "--maps", tmp_path / "maps", "--label", "e", "--out", tmp_path / "r") == 2
    assert "s/bb" in capsys.readouterr().err
