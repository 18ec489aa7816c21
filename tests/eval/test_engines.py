"""Four ways to ask one model: transformers, vLLM's server, vLLM in process; the same prompts, the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from suites import freeze_store

from depthlm.cli import main
from depthlm.suite import Suite
from eval.answer_file import read_answers
from eval.ask import ask_suite
from eval.engines.transformers_engine import TransformersEngine
from eval.spread import estimate

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


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm", "vllm-offline"])
def test_vllm_says_what_transformers_says(frozen, tmp_path, engine, capfd):
    words = [str(frozen.path), "--model", "nano", "--engine", engine, "--parity", "9", "--max-model-len", "1024"]
    assert main(["eval", "run", *words, "--out", str(tmp_path / "out")]) == 0
    assert "parity: 9 of 9 answers are the same" in capfd.readouterr().out
    rows = [json.loads((tmp_path / f"out/nano-{name}/result.jsonl").read_text().splitlines()[1])
            for name in (engine, "transformers")]  # fmt: skip
    assert rows[0] == rows[1] and rows[0]["n"] == 9
