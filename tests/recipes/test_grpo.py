"""GRPO on the real TRL: what is rolled out is what is trained, adapters take part, and runs go on after a stop."""

import copy
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from grpo_trainer import trainer_of
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from trl import GRPOConfig, ModelConfig, TrlParser

from data_gen.curate import curate
from data_gen.readers.procedural import ProceduralReader
from depthlm.errors import DepthLMError
from depthlm.models.loading import load_model, load_processor
from depthlm.models.nano import make_nano
from depthlm.training.arguments import LANGUAGE_LAYERS, DataArguments
from depthlm.training.rewards import reward_functions

ROOT = Path(__file__).parents[2]
GRPO = runpy.run_path(str(ROOT / "recipes" / "grpo.py"))
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("grpo*.yaml"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Frames of two shapes, so that one batch holds images of different sizes."""
    folder = tmp_path_factory.mktemp("scenes")
    curate(ProceduralReader(6, views=3, width=160, height=120, fov=(50, 60)), folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_nano(tmp_path_factory.mktemp("base") / "nano", dtype="float32")


def train(monkeypatch, store, model, out, **settings):
    """The recipe in this process."""
    words = ["grpo.py", "--config", "recipes/configs/grpo_nano.yaml", "--stores", str(store)]
    words += ["--model_name_or_path", str(model), "--output_dir", str(out)]
    usual = {"max_steps": 3, "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}
    for name, value in (
        usual | {"logging_steps": 1, "save_steps": 1, "dataloader_num_workers": 0, "warmup_steps": 0} | settings
    ).items():
        words += [f"--{name}", str(value)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words)
    GRPO["main"]()


def history(out):
    rows = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [row for row in rows if "loss" in row]


def one_by_one(model, processor, row, completion):
    """Log-probabilities of a completion under the plain model: one question, no padding."""
    text = processor.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=row["images"], return_tensors="pt")
    zeros = torch.zeros((1, len(completion)), dtype=torch.long)
    ids = torch.cat([inputs["input_ids"], torch.tensor([completion])], dim=1)
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=torch.cat([inputs["mm_token_type_ids"], zeros], dim=1),
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
        ).logits[0]
    logps = logits[-len(completion) - 1 : -1].float().log_softmax(dim=-1)
    return logps.gather(1, torch.tensor(completion)[:, None])[:, 0].numpy()


@pytest.mark.parametrize("mix", [{"distance": 1.0}, {"distance": 1.0, "camera_motion": 1.0, "speed": 1.0}])
def test_the_policy_is_scored_on_the_questions_it_was_asked(scenes, base, tmp_path, mix):
    """Questions of different lengths, with one image and with two, in one padded batch: as if asked one by one."""
    model, processor = load_model(base, dtype="float32"), GRPO["load_left_padded"](str(base))
    trainer = trainer_of(model, processor, scenes, tmp_path, mix, questions=6)
    rows = next(iter(trainer.get_train_dataloader()))
    lengths = {len(row["prompt"][-1]["content"][-1]["text"]) for row in rows}
    assert len(lengths) > 1 and len({len(row["images"]) for row in rows}) == (2 if "camera_motion" in mix else 1)
    batch = trainer._generate_and_score_completions(rows)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    fields = {k: batch[k] for k in ("pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images")}
    with torch.no_grad():
        scored, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, batch["completion_ids"].size(1), **fields
        )
    for row, found, kept, tokens in zip(rows, scored, batch["completion_mask"], batch["completion_ids"], strict=True):
        completion = tokens[kept.bool()].tolist()
        expected = one_by_one(trainer.model, load_processor(base), row, completion)
        np.testing.assert_allclose(found[kept.bool()].numpy(), expected, atol=2e-4)


def test_rollouts_come_from_the_adapter(scenes, base, tmp_path):
    """At almost no temperature they are what the merged model answers, and not what the model without it answers."""
    plain, processor = load_model(base, dtype="float32"), GRPO["load_left_padded"](str(base))
    adapted = get_peft_model(
        load_model(base, dtype="float32"),
        LoraConfig(r=4, target_modules=LANGUAGE_LAYERS, task_type="CAUSAL_LM"),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    trainer = trainer_of(adapted, processor, scenes, tmp_path, {"distance": 1.0}, questions=2, temperature=1e-4)
    rows = next(iter(trainer.get_train_dataloader()))
    batch = trainer._generate_and_score_completions(rows)
    merged = copy.deepcopy(adapted).merge_and_unload().eval()
    others = []
    for row, tokens, kept in zip(rows, batch["completion_ids"], batch["completion_mask"], strict=True):
        text = processor.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], images=row["images"], return_tensors="pt")
        said = tokens[kept.bool()].tolist()
        answers = [
            model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].size(1) :].tolist()
            for model in (merged, plain)
        ]
        assert answers[0][: len(said)] == said
        others.append(answers[1][: len(said)])
    assert any(
        other != tokens[: len(other)].tolist() for other, tokens in zip(others, batch["completion_ids"], strict=True)
    )


def test_it_trains_and_saves_an_adapter(monkeypatch, scenes, base, tmp_path):
    train(monkeypatch, scenes, base, tmp_path / "out")
    rows = history(tmp_path / "out")
    assert len(rows) == 3
    assert {"rewards/negative_l1/mean", "rewards/format/mean", "rewards/delta1/mean"} <= set(rows[0])
    assert isinstance(load_model(tmp_path / "out", dtype="float32"), PeftModel)
    card = (tmp_path / "out/README.md").read_text()
    assert "| training | 3 steps of 2 questions with 4 answers each, rewards negative_l1=1,format=0.2, " in card
    assert "| training reward, first and last logged |" in card and not (tmp_path / "out/training_args.bin").exists()


def test_it_goes_on_from_an_adapter_and_after_a_stop(monkeypatch, scenes, tmp_path):
    train(monkeypatch, scenes, "nano", tmp_path / "first", max_steps=1)  # one that answers: silence earns alike
    train(monkeypatch, scenes, tmp_path / "first", tmp_path / "second", max_steps=1, learning_rate=0.0)
    weights = [load_model(tmp_path / name, dtype="float32").state_dict() for name in ("first", "second")]
    adapters = [{k: v for k, v in w.items() if "lora" in k} for w in weights]
    assert adapters[0] and any(v.abs().max() > 0 for k, v in adapters[0].items() if "lora_B" in k)
    for name, value in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], value)
    train(monkeypatch, scenes, "nano", tmp_path / "first", max_steps=3)
    assert [row["step"] for row in history(tmp_path / "first")] == [1, 2, 3]


def test_a_resumed_run_with_a_reference_keeps_what_its_adapter_learnt(monkeypatch, scenes, tmp_path):
    """With beta TRL keeps the start as a second adapter, in a folder that the Trainer loads in the first's place."""
    still = {"lr_scheduler_type": "constant", "rewards": "negative_l1=1"}
    train(monkeypatch, scenes, "nano", tmp_path / "start", max_steps=1, learning_rate=1e-3, **still)
    out, settings = tmp_path / "out", still | {"beta": 0.05, "learning_rate": 0.05}
    train(monkeypatch, scenes, tmp_path / "start", out, max_steps=2, **settings)
    learnt = load_file(out / "checkpoint-2" / "adapter_model.safetensors")
    assert (out / "checkpoint-2" / "ref" / "adapter_model.safetensors").is_file()
    train(monkeypatch, scenes, tmp_path / "start", out, max_steps=3, **settings)
    start, after = (
        load_file(path / "adapter_model.safetensors") for path in (tmp_path / "start", out / "checkpoint-3")
    )
    moved = max(float((after[name] - learnt[name]).abs().max()) for name in learnt)
    whole = max(float((after[name] - start[name]).abs().max()) for name in learnt)
    assert moved < 0.06 < whole  # one step of Adam at that rate, and more than one


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"points_per_image": 3}, "GRPO asks one question"),
        ({"dense_targets": True}, "supervised pretraining"),
        ({"rewards": "l1=1"}, "reward 'l1': is not known"),
        ({"reward_weights": 1.0}, "are given with the rewards"),
    ],
)
def test_wrong_settings_are_one_line(monkeypatch, scenes, base, tmp_path, settings, said):
    with pytest.raises(DepthLMError, match=said):
        train(monkeypatch, scenes, base, tmp_path / "out", **settings)


@pytest.mark.parametrize(
    ("settings", "prompts"),
    [
        ({"max_steps": 10}, 20),  # 2 questions a step
        ({"max_steps": 10, "gradient_accumulation_steps": 2}, 40),
        ({"max_steps": 10, "num_iterations": 2}, 10),
        ({"max_steps": 10, "steps_per_generation": 4}, 24),
        ({"num_train_epochs": 2.5}, 250),
    ],
)
def test_questions_of_a_whole_run(tmp_path, settings, prompts):
    args = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, use_cpu=True, bf16=False, **settings
    )
    assert GRPO["prompts_needed"](args, per_epoch=100) == prompts


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_understood(config, tmp_path):
    words = ["--config", str(config), "--output_dir", str(tmp_path), "--bf16", "false", "--use_cpu", "true"]
    parser = TrlParser((DataArguments, GRPO["RewardArguments"], GRPOConfig, ModelConfig))
    data, reward, args, model = parser.parse_args_and_config(words)
    GRPO["refuse"](data, args, str(model.model_name_or_path))
    assert reward_functions(GRPO["parse_mix"](reward.rewards))
    assert model.use_peft and args.num_generations >= 4
    # by each question's own deviation minus the error and minus the relative error would train alike
    assert args.scale_rewards == "batch"
    text = config.read_text()
    assert all(word in text for word in ("# Hardware", "# Launch:", "# Override:", f"recipes/configs/{config.name}"))
    assert all((ROOT / path).is_file() for path in re.findall(r"recipes/accelerate/\w+\.yaml", text))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_a_step(monkeypatch, scenes, base, tmp_path, config):
    """On the nano model and a CPU, answered by transformers; all else is as the config says."""
    small = {"model_name_or_path": base, "profile": "nano", "stores": scenes, "output_dir": tmp_path / "out"}
    small |= {"use_cpu": "true", "bf16": "false", "use_vllm": "false", "max_steps": 1, "max_completion_length": 6}
    small |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "dataloader_num_workers": 0}
    small |= {"report_to": "none", "logging_steps": 1}
    words = ["grpo.py", "--config", str(config), *(str(word) for name, v in small.items() for word in (f"--{name}", v))]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words)
    GRPO["main"]()
    assert len(history(tmp_path / "out")) == 1
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
