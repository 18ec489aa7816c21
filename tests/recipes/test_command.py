"""Recipes as commands: settings that can't be are one line with a mend, and a stop is a stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig, ModelConfig, SFTConfig

from depthlm.errors import DepthLMError
from depthlm.training.arguments import DataArguments
from depthlm.training.command import parse, run_command

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
CPU = ["--bf16", "false", "--use_cpu", "true"]
SFT: tuple[Any, ...] = (DataArguments, SFTConfig, ModelConfig)


@pytest.mark.parametrize(
    ("kinds", "words", "told"),
    [
        (SFT, ["--config", str(CONFIGS / "qwen2_5_vl_3b_lora_24g.yaml")], r"bf16.*\(on a machine without such a GPU"),
        (SFT, [*CPU, "--max_stepz", "3"], r"--max_stepz.*\(did you mean --max_steps\?\)"),
        (SFT, ["--config", "recipes/configs/none.yaml"], "--config recipes/configs/none.yaml: can't be read: No such"),
        (SFT, ["--config", "LIST"], "must contain a YAML mapping"),
        (SFT, ["--config", "TORN"], "--config: is no YAML"),
        (SFT, ["--config", "STRANGE"], r"spatial_encodr.*\(did you mean --spatial_encoder\?\)"),
        (SFT, [*CPU, "--spatial_gate", "maybe"], "^--spatial_gate: .*got maybe"),
        (SFT, [*CPU, "--max_steps", "ten"], "^--max_steps: invalid int value: 'ten'"),
        (SFT, [*CPU, "--spatial_encoder"], "^--spatial_encoder: expected one argument"),
        (SFT, ["--config", "WRONG"], "^--spatial_gate: .*got maybe"),
        (SFT, [*CPU, "word"], "^word: is no setting of this recipe"),
        (SFT, ["--config"], "--config: names no file"),
        ((DataArguments, GRPOConfig), [*CPU, "--num_generations", "7"], "must be divisible by num_generations"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    kinds: tuple[Any, ...],
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in (
        ("LIST", "- 1"),
        ("TORN", "a: [1"),
        ("WRONG", "spatial_gate: maybe\nbf16: false\nuse_cpu: true"),
        ("STRANGE", "spatial_encodr: x\nbf16: false\nuse_cpu: true"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    words = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in words]
    monkeypatch.setattr(sys, "argv", ["sft.py", "--output_dir", str(tmp_path / "out"), *words])
    with pytest.raises(DepthLMError, match=told) as error:
        parse(*kinds)
    assert "\n" not in str(error.value)
    assert not capsys.readouterr().err


def test_a_stop_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["recipes/sft.py"])

    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(stopped)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "sft.py: stopped; the same command goes on from its last whole checkpoint\n"

    def wrong() -> None:
        raise DepthLMError("stores", "no frame store given", "name one")

    with pytest.raises(SystemExit, match=r"sft\.py: error: stores: no frame store given"):
        run_command(wrong)
