"""The recipes with a spatial encoder: what is trained, what is frozen, what is saved, and that it all loads again."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from suites import freeze_store
from tiny_models import tiny_encoder

from depthlm.errors import DepthLMError
from depthlm.models.loading import NANO, load_model, merge_adapter
from depthlm.models.nano import make_nano
from depthlm.spatial.config import FUSED
from depthlm.spatial.encoder import SpatialEncoder

ROOT = Path(__file__).parents[2]
CONFIGS = {"sft": "nano_cpu.yaml", "grpo": "grpo_nano.yaml"}
USUAL: dict[str, dict[str, Any]] = {
    "sft": {"per_device_train_batch_size": 2},
    "grpo": {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano(tmp_path_factory.mktemp("base") / "nano", dtype="float32")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def train(
    monkeypatch: pytest.MonkeyPatch, recipe: str, store: Path, model: Path, out: Path, steps: int = 2, **settings: Any
) -> None:
    """A recipe in this process."""
    words = [f"{recipe}.py", "--config", f"recipes/configs/{CONFIGS[recipe]}", "--stores", str(store)]
    common = {"model_name_or_path": model, "output_dir": out, "max_steps": steps, "save_steps": 1, "logging_steps": 1}
    usual = common | USUAL[recipe] | {"dataloader_num_workers": 0, "warmup_steps": 0, "learning_rate": 0.01}
    words += [word for name, value in (usual | settings).items() for word in (f"--{name}", str(value))]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"))["main"]()


def losses(out: Path) -> list[float]:
    rows = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row["loss"] for row in rows if "loss" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def test_lora_with_the_fusion_is_saved_goes_on_and_loads(
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    base: Path,
    encoder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    settings = {"spatial_encoder": encoder, "spatial_cache": tmp_path / "cache", "save_merged": "false"}
    freeze_store(store, tmp_path / "suite", 4, mix={"distance": 1})
    settings["eval_suite"] = tmp_path / "suite"
    settings["lr_scheduler_type"] = "constant"
    train(monkeypatch, "sft", store, base, tmp_path / "whole", 3, **settings)
    train(monkeypatch, "sft", store, base, tmp_path / "stopped", 2, **settings)
    settings["spatial_cache"] = tmp_path / "elsewhere"
    train(monkeypatch, "sft", store, base, tmp_path / "stopped", 3, **settings)
    assert losses(tmp_path / "stopped") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    torch.testing.assert_close(weights(tmp_path / "stopped"), weights(tmp_path / "whole"), rtol=1e-3, atol=1e-4)
    made = len(list((tmp_path / "cache").rglob("*.safetensors")))
    told = [message.split() for message in caplog.messages if message.startswith("features: ")]
    assert [int(words[1]) for words in told[:2]] == [made, 0] and all(int(words[3]) for words in told[:2])

    adapter = weights(tmp_path / "whole")
    assert adapter["base_model.model.model.fusion.second.weight"].any()
    assert not any("spatial_encoder" in name for name in adapter)
    assert any("lora_A" in name for name in adapter)
    for folder in (tmp_path / "whole", tmp_path / "whole" / "best", tmp_path / "whole" / "checkpoint-3"):
        model = load_model(folder, "float32")
        assert model.get_base_model().config.model_type == FUSED
    card = (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")
    assert f"| spatial encoder | {encoder.name} |" in card and "| training | 3 steps of 2 samples each, " in card

    usual = {"use_peft": "false", "save_merged": "false"}
    with pytest.raises(DepthLMError, match="spatial_gate: is for a new spatial encoder"):
        train(monkeypatch, "sft", store, tmp_path / "whole", tmp_path / "on", 1, **usual, spatial_gate="false")
    train(monkeypatch, "sft", store, tmp_path / "whole", tmp_path / "on", 1, **usual)
    merge_adapter(tmp_path / "on", tmp_path / "merged")
    train(monkeypatch, "sft", store, tmp_path / "merged", tmp_path / "further", 1, save_merged="false")
    for folder in ("on", "further"):
        assert f"| spatial encoder | {encoder.name} |" in (tmp_path / folder / "README.md").read_text(encoding="utf-8")
    merged = load_model(tmp_path / "merged")
    assert merged.config.model_type == FUSED
    gate = weights(tmp_path / "on")["base_model.model.model.fusion.second.weight"]
    torch.testing.assert_close(merged.model.fusion.second.weight, gate.to(merged.dtype))


def test_all_weights_but_the_encoders_are_trained(
    monkeypatch: pytest.MonkeyPatch, store: Path, base: Path, encoder: Path, tmp_path: Path
) -> None:
    settings = {"use_peft": "false", "save_merged": "false", "spatial_encoder": encoder, "spatial_gate": "false"}
    train(monkeypatch, "sft", store, base, tmp_path / "out", 1, **settings)
    train(monkeypatch, "sft", store, base, tmp_path / "out", 2, **settings)  # goes on from its whole checkpoint
    trained, before = weights(tmp_path / "out"), weights(encoder)
    for name, value in before.items():
        assert torch.equal(trained[f"model.spatial_encoder.{name}"], value)
    start = load_model(base, "float32").state_dict()
    moved = [name for name, value in start.items() if name in trained and not torch.equal(trained[name], value)]
    assert any(".visual." in name for name in moved) and any(".language_model." in name for name in moved)
    assert load_model(tmp_path / "out").config.model_type == FUSED


def test_grpo_rolls_out_and_trains_the_same_fused_model(
    monkeypatch: pytest.MonkeyPatch, store: Path, base: Path, encoder: Path, tmp_path: Path
) -> None:
    seen: list[bool] = []  # a forward pass that goes past the encoder would train another model than it samples
    forward = SpatialEncoder.forward
    monkeypatch.setattr(SpatialEncoder, "forward", lambda self, x: seen.append(self.training) or forward(self, x))
    train(monkeypatch, "grpo", store, base, tmp_path / "out", 1, spatial_encoder=encoder, save_merged="false")
    assert len(seen) >= 2 and not any(seen)  # generation, then the log-probabilities
    assert "base_model.model.model.fusion.adapter.weight" in weights(tmp_path / "out")
    load_model(tmp_path / "out")


def test_a_base_in_four_bits_keeps_encoder_and_fusion_whole(
    monkeypatch: pytest.MonkeyPatch, store: Path, base: Path, encoder: Path, tmp_path: Path
) -> None:
    settings = {"load_in_4bit": "true", "spatial_encoder": encoder, "save_merged": "false"}
    train(monkeypatch, "sft", store, base, tmp_path / "out", 2, **settings)
    assert weights(tmp_path / "out")["base_model.model.model.fusion.second.weight"].any()
    model = load_model(tmp_path / "out", "float32")
    assert model.get_base_model().model.spatial_encoder.dtype == torch.float32


def test_vllm_that_would_answer_without_the_encoder_is_refused(
    monkeypatch: pytest.MonkeyPatch, store: Path, base: Path, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DepthLMError, match="without the spatial encoder"):
        train(monkeypatch, "grpo", store, base, tmp_path / "a", 1, spatial_encoder=encoder, use_vllm="true")
    train(monkeypatch, "sft", store, base, tmp_path / "adapter", 1, spatial_encoder=encoder, save_merged="false")
    with pytest.raises(DepthLMError, match="without the spatial encoder"):
        train(monkeypatch, "grpo", store, tmp_path / "adapter", tmp_path / "b", 1, use_vllm="true", use_peft="false")


def test_a_reference_that_trl_cannot_load_is_refused(
    monkeypatch: pytest.MonkeyPatch, store: Path, base: Path, encoder: Path, tmp_path: Path
) -> None:
    settings = {"spatial_encoder": encoder, "use_peft": "false", "beta": 0.1, "save_merged": "false"}
    with pytest.raises(DepthLMError, match="beta: TRL can't load"):
        train(monkeypatch, "grpo", store, base, tmp_path / "out", 1, **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"spatial_encoder": "no/such/folder"}, "no/such/folder: is not a folder"),
        ({"spatial_width": 64}, "spatial_width: is for a new spatial encoder"),
        ({"spatial_gate": "false"}, "spatial_gate: is for a new spatial encoder"),
        ({"spatial_dtype": "bfloat16"}, "spatial_dtype: is for a spatial encoder"),
        ({"spatial_cache": "cache"}, "spatial_cache: is for a spatial encoder"),
        ({"spatial_encoder": "ENCODER", "spatial_heads": 7}, "no multiple of 7 heads"),
        ({"spatial_encoder": "ENCODER", "spatial_dtype": "int4"}, "spatial_dtype"),
        ({"spatial_encoder": NANO}, "no spatial encoder"),
    ],
)
def test_settings_that_cannot_be_end_before_training(
    monkeypatch: pytest.MonkeyPatch, store: Path, base: Path, encoder: Path, tmp_path: Path, settings: Any, told: str
) -> None:
    given = {name: encoder if value == "ENCODER" else value for name, value in settings.items()}
    with pytest.raises(DepthLMError, match=told):
        train(monkeypatch, "sft", store, base, tmp_path / "out", **given)
    assert not list((tmp_path / "out").glob("checkpoint-*"))
