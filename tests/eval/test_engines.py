"""Four ways to ask one model: transformers, vLLM's server, vLLM in process; the same prompts, the same answers."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from suites import freeze_store

from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.spread import estimate
from depthlm.suite import Suite
from depthlm.suite_view import SuiteView
from eval.answer_file import read_answers
from eval.ask import ask_suite
from eval.engines import Reply
from eval.engines.in_process import Asked, InProcess
from eval.engines.transformers_engine import TransformersEngine
from eval.engines.vllm_offline import VLLMOfflineEngine, engine_settings

MIX = {"distance": 1.0, "speed": 1.0, "camera_motion": 1.0}


@pytest.fixture
def frozen(store: Path, tmp_path: Path) -> Suite:
    return freeze_store(store, tmp_path / "frozen", 9, MIX)[0]


def ask(suite: Suite, out: Path, **options):
    engine = TransformersEngine("nano", "nano", **({"batch": 4, "max_tokens": 64} | options))
    summary = ask_suite(suite, engine, out, 8, progress=False)
    assert summary.failures == {}
    return read_answers(out)


def test_batches_change_no_answer(frozen, tmp_path):
    alone = ask(frozen, tmp_path / "1.jsonl", batch=1)
    together = ask(frozen, tmp_path / "4.jsonl", batch=4)
    assert alone.texts == together.texts and len(alone.texts) == len(frozen.items)
    assert len(set(alone.texts.values())) > 1, "the model looks at nothing"


def test_samples_and_log_probabilities_tell_how_sure_it_is(frozen, tmp_path):
    greedy = ask(frozen, tmp_path / "g.jsonl")
    sampled = ask(frozen, tmp_path / "s.jsonl", samples=6)
    told = ask(frozen, tmp_path / "l.jsonl", logprobs=True)
    assert told.texts == greedy.texts
    for item in (item for item in frozen.items if item.kind == "distance"):
        assert len(sampled.spreads[item.id]) == 6
        spread = told.spreads[item.id]
        assert spread[0][0] == greedy.texts[item.id] and sum(p for _, p in spread) == pytest.approx(1, abs=1e-4)
        found = estimate(spread, item.unit)
        assert found.bounds[0.9][0] <= found.median <= found.bounds[0.9][1]
        assert found.bounds[0.9][1] > found.bounds[0.9][0], "the model is never sure of two decimals"


def test_transformers_needs_no_vllm_and_knows_what_was_cut_off(frozen, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails
    item = frozen.items[0]
    asked = Asked(SuiteView(frozen).show(item), ())
    engine = TransformersEngine("nano", "nano", batch=1, max_tokens=64, logprobs=True)
    engine.load()
    (whole,) = engine.answer([asked])
    engine.max_tokens = 1
    (cut,) = engine.answer([asked])
    assert (whole.cut, cut.cut) == (False, True)
    assert whole.text.startswith(cut.text) and len(whole.text) > len(cut.text)


def test_the_token_that_ends_an_answer_is_told(frozen):
    from depthlm.models.answering import answer_batch, left_padded
    from depthlm.models.loading import load_model, load_processor

    shown = SuiteView(frozen).show(frozen.items[0])
    model, processor = load_model("nano", "float32"), left_padded(load_processor("nano"))
    (answer,) = answer_batch(model, processor, [(shown.messages(), shown.images)], 64, logprobs=True)
    assert "".join(text for text, *_ in answer.tokens) == answer.text
    text, logprob, others = answer.tokens[-1]
    assert text == "" and logprob <= 0 and len(others) > 1 and not answer.cut


class Scripted(InProcess):
    """An engine in this process whose faults are scripted."""

    fault = ""

    def __init__(self) -> None:
        super().__init__("scripted", batch=4, max_tokens=8)
        self.unloaded = 0

    def load(self) -> None:
        if self.fault == "load":
            raise RuntimeError("CUDA out of memory. Tried\nto allocate")

    def answer(self, batch):
        return [Reply("1", 0.0)] * (len(batch) - (self.fault == "count"))

    def unload(self) -> None:
        self.unloaded += 1


def test_a_wrong_count_of_answers_fails_and_does_not_hang(frozen, tmp_path):
    engine = Scripted()
    engine.fault = "count"
    with pytest.raises(DepthLMError, match="in a row failed"):
        ask_suite(frozen, engine, tmp_path / "a.jsonl", 4, failures_in_row=2, progress=False)
    assert engine.unloaded == 1


def test_a_model_that_cannot_be_loaded_is_one_error_and_leaves_nothing(frozen, tmp_path):
    engine = Scripted()
    engine.fault = "load"
    before = threading.active_count()
    with pytest.raises(DepthLMError, match=r"can't be loaded: RuntimeError: CUDA out of memory\. Tried \(free the acc"):
        ask_suite(frozen, engine, tmp_path / "a.jsonl", 4, progress=False)
    assert engine.unloaded == 1 and threading.active_count() <= before
    engine.fault = ""
    assert ask_suite(frozen, engine, tmp_path / "a.jsonl", 4, progress=False).failures == {}
    assert engine.unloaded == 2 and threading.active_count() <= before


def test_vllm_that_does_not_start_leaves_the_environment(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setenv("KEPT", "1")
    server = SimpleNamespace(model_name="m", environment=lambda: {"ADDED": "1", "KEPT": "2"}, extra_args=())
    engine = VLLMOfflineEngine(server, batch=1, max_tokens=8)
    with pytest.raises(DepthLMError, match="can't be loaded: "):
        asyncio.run(engine.start())
    assert "ADDED" not in os.environ and os.environ["KEPT"] == "1"


def test_vllm_in_process_reads_the_end_of_an_answer():
    def entry(text: str, p: float) -> SimpleNamespace:
        return SimpleNamespace(decoded_token=text, logprob=math.log(p))

    engine = VLLMOfflineEngine(SimpleNamespace(model_name="m"), batch=1, max_tokens=8, logprobs=True)
    steps = [{7: entry("4", 1.0)}, {2: entry("<|im_end|>", 0.6), 8: entry("5", 0.4)}]
    output = SimpleNamespace(text="4", token_ids=[7, 2], logprobs=steps, finish_reason="stop")
    reply = engine._read([output])
    assert dict(reply.spread) == pytest.approx({"4": 0.6, "45": 0.4}) and not reply.cut
    output.finish_reason = "length"
    assert engine._read([output]).cut


def test_arguments_of_vllm_reach_the_engine_in_this_process():
    pytest.importorskip("vllm")
    assert engine_settings([]) == {}
    words = ["--gpu-memory-utilization", "0.5", "--enforce-eager", "--limit-mm-per-prompt", '{"image": 3}']
    limits = {"image": 3}
    assert engine_settings(words) == {
        "gpu_memory_utilization": 0.5, "enforce_eager": True, "limit_mm_per_prompt": limits
    }  # fmt: skip
    for wrong in (["--api-key", "x"], ["--max-model-len"], ["--max-num-seqs", "many"]):
        with pytest.raises(DepthLMError, match="--vllm-args: "):
            engine_settings(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm", "vllm-offline"])
def test_vllm_says_what_transformers_says(frozen, tmp_path, engine, capfd):
    words = [str(frozen.path), "--model", "nano", "--engine", engine, "--parity", "9", "--max-model-len", "1024"]
    assert main(["eval", "run", *words, "--out", str(tmp_path / "out")]) == 0
    assert "parity: 9 of 9 answers are the same" in capfd.readouterr().out
    rows = [json.loads((tmp_path / f"out/nano-{name}/result.jsonl").read_text().splitlines()[1])
            for name in (engine, "transformers")]  # fmt: skip
    assert rows[0] == rows[1] and rows[0]["n"] == 9


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm", "vllm-offline"])
def test_vllm_draws_samples_also_where_prompts_are_read_in_parts(frozen, tmp_path, engine):
    words = [str(frozen.path), "--model", "nano", "--engine", engine, "--samples", "4", "--max-model-len", "1024"]
    words += ["--vllm-args", "--max-num-batched-tokens 160", "--out", str(tmp_path)]
    assert main(["eval", "run", *words]) == 0
    answers = read_answers(tmp_path / "nano/answers.jsonl")
    assert len(answers.texts) == 9 and {len(spread) for spread in answers.spreads.values()} == {4}
    assert any(len({text for text, _ in spread}) > 1 for spread in answers.spreads.values()), "nothing was drawn"
