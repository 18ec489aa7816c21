"""The real command: trains, is killed, goes on with the same samples, and saves what the loaders take."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from suites import freeze_store
from torch.distributed.fsdp import StateDictType
from transformers import Qwen2_5_VLForConditionalGeneration
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser

from depthlm.answers import parse_answer
from depthlm.dataset import SampleDataset
from depthlm.errors import DepthLMError
from depthlm.models.loading import is_adapter, load_model, load_processor
from depthlm.models.nano import make_nano
from depthlm.prompt import user_message
from depthlm.suite_view import SuiteView
from depthlm.training.arguments import LANGUAGE_LAYERS, VISION_LAYERS, DataArguments, check, check_machine, lora
from depthlm.training.dense_targets import HEAD
from depthlm.training.run import causes_told, last_whole_checkpoint, same_run
from depthlm.training.suite_evaluation import evaluate_on

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    p for p in (ROOT / "recipes" / "configs").glob("*.yaml") if not p.name.startswith(("grpo", "nano_encoder"))
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_nano(tmp_path_factory.mktemp("base") / "nano", dtype="float32")


def train(monkeypatch, store: Path, model: Path | str, out: Path, **settings) -> None:
    """The recipe in this process."""
    arguments = command(store, Path(model), out, settings.pop("max_steps", 4))
    arguments = arguments[arguments.index("recipes/sft.py") :]
    for name, value in settings.items():
        arguments += [f"--{name}", str(value)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(ROOT / "recipes" / "sft.py"))["main"]()


def command(store: Path, model: Path, out: Path, steps: int = 6, *more: str) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
    settings = {
        "config": "recipes/configs/nano_cpu.yaml",
        "stores": store,
        "model_name_or_path": model,
        "output_dir": out,
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "dataloader_num_workers": 0,
    }
    return [*launch, "recipes/sft.py", *(str(v) for k, x in settings.items() for v in (f"--{k}", x)), *more]


def write_checkpoint(folder: Path) -> None:
    """The files of a whole checkpoint, in small."""
    folder.mkdir()
    save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
    torch.save({}, folder / "optimizer.pt")
    torch.save({}, folder / "scheduler.pt")
    (folder / "trainer_state.json").write_text("{}")


def losses(out: Path) -> list[float]:
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [row["loss"] for row in history if "loss" in row]


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(monkeypatch, store, tmp_path):
    model = make_nano(tmp_path / "base", dtype="float32")
    train(monkeypatch, store, model, tmp_path / "whole", max_steps=6)
    process = subprocess.Popen(
        command(store, model, tmp_path / "killed"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not last_whole_checkpoint(tmp_path / "killed") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert last_whole_checkpoint(tmp_path / "killed")
    train(monkeypatch, store, model, tmp_path / "killed", max_steps=6)

    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    load_model(str(tmp_path / "killed"), dtype="float32")


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on(monkeypatch, store, tmp_path):
    """No file may grow beyond 1 MB, less than the model: the first checkpoint can't be saved."""
    model, out = make_nano(tmp_path / "base", dtype="float32"), tmp_path / "out"
    whole = {"use_peft": "false", "save_merged": "false"}
    words = command(store, model, out, 2, *(word for name, value in whole.items() for word in (f"--{name}", value)))
    words = words[words.index("recipes/sft.py") :]
    code = (
        f"import resource, runpy, sys; sys.argv = {words!r}; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY)); "
        "runpy.run_path('recipes/sft.py', run_name='__main__')"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and last.startswith("sft.py: error:") and "can't be written" in last, ended.stderr
    assert "Traceback" not in ended.stderr and last_whole_checkpoint(out) is None
    train(monkeypatch, store, model, out, max_steps=2, **whole)
    assert len(losses(out)) == 2


def test_packing_is_refused_with_its_reason(monkeypatch, store, base, tmp_path):
    with pytest.raises(DepthLMError, match="packing: is not possible with images"):
        train(monkeypatch, store, base, tmp_path / "out", packing="true")


def test_out_of_memory_names_the_settings(monkeypatch, store, base, tmp_path):
    """Wherever it comes: a model that is loaded in 4 bits meets it first, and is not called broken."""

    def short_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    said = r"CUDA out of memory. Tried to allocate 2 GiB. \(halve per_device_train_batch_size"
    for owner, name in ((Qwen2_5_VLForConditionalGeneration, "from_pretrained"), (SFTTrainer, "training_step")):
        with monkeypatch.context() as patch, pytest.raises(DepthLMError, match=said):
            patch.setattr(owner, name, short_of_memory)
            train(patch, store, base, tmp_path / name)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="shape mismatch"), causes_told(tmp_path):
        raise RuntimeError("shape mismatch")


def test_a_fault_found_by_a_loader_process_is_one_line(monkeypatch, store, base, tmp_path):
    model = shutil.copytree(base, tmp_path / "small-images")
    processor = load_processor(model)
    processor.image_processor.size = {"shortest_edge": 784, "longest_edge": 14 * 14 * 40}
    processor.save_pretrained(model)
    with pytest.raises(DepthLMError, match=r"^a sample: image processor: resized a canonical .*max_pixels") as told:
        train(monkeypatch, store, model, tmp_path / "out", dataloader_num_workers=1)
    assert "\n" not in str(told.value)


def test_a_disk_that_is_full_at_the_last_save_is_one_line(monkeypatch, store, base, tmp_path):
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: File too large (os error 27)")

    with monkeypatch.context() as patch, pytest.raises(DepthLMError, match=r"can't be written: I/O error.*free space"):
        patch.setattr(SFTTrainer, "save_model", full)
        train(patch, store, base, tmp_path / "out", max_steps=1, save_strategy="no")


def test_half_written_checkpoints_are_passed_over(tmp_path, caplog):
    for step in (2, 4):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors"):
        file = tmp_path / "checkpoint-4" / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2"), name
        assert f"half-written (no whole {name})" in caplog.text
        file.unlink()
        assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2"), name
        file.write_bytes(whole)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


def test_wrong_settings_are_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    arguments = command(tmp_path / "absent", Path("nano"), tmp_path / "out")
    monkeypatch.setattr(sys, "argv", arguments[arguments.index("recipes/sft.py") :])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path("recipes/sft.py", run_name="__main__")
    says = str(stopped.value.code)
    assert says.startswith("sft.py: error:") and str(tmp_path / "absent") in says and "\n" not in says


def test_resumed_runs_skip_samples_without_rendering_them(monkeypatch, store, base, tmp_path):
    out = tmp_path / "my-model"
    train(monkeypatch, store, base, out, save_merged=False)
    whole = losses(out)
    shutil.rmtree(out / "checkpoint-4")

    rendered = []
    render = SampleDataset.__getitem__
    monkeypatch.setattr(SampleDataset, "__getitem__", lambda self, i: rendered.append(i) or render(self, i))
    train(monkeypatch, store, base, out, save_merged=False)
    assert set(rendered) - {0} == {4, 5, 6, 7}  # 0: TRL looks at the first
    assert losses(out) == pytest.approx(whole, abs=1e-6) and len(whole) == 4

    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    load_model(out, "float32"), load_processor(out)
    card = (out / "README.md").read_text()
    assert "nano fine-tuned" in card and "LoRA adapter" in card and "# my-model" in card
    assert "base_model:" not in card  # a link to the hub, which this folder is not on
    assert f"{whole[0]:.3f} → {whole[-1]:.3f}" in card and "| seeds | 0 (training), 0 (samples) |" in card
    assert str(tmp_path) not in card
    assert not list(out.glob("*.bin"))


def test_dense_targets_from_random_weights(monkeypatch, store, tmp_path):
    """The extra layer learns, is not saved, and counts the same however the batch is split."""
    settings = {"dense_targets": True, "use_peft": False, "mix": "distance", "max_steps": 8, "save_merged": False}
    settings |= {"learning_rate": 1e-4, "warmup_steps": 0, "lr_scheduler_type": "constant"}
    train(monkeypatch, store, "nano-random", tmp_path / "one", per_device_train_batch_size=4, **settings)
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    train(monkeypatch, store, "nano-random", tmp_path / "two", **split, **settings)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-3)

    history = json.loads((tmp_path / "one" / "trainer_state.json").read_text())["log_history"]
    for name in ("dense_log_z", "dense_marks"):
        values = [row[name] for row in history if name in row]
        assert np.mean(values[-3:]) < np.mean(values[:3]), name
    assert "trained from random weights" in (tmp_path / "one" / "README.md").read_text()
    weights = load_file(tmp_path / "one" / "model.safetensors")
    assert not [name for name in weights if HEAD in name]
    before = load_file(tmp_path / "one" / "init" / "model.safetensors")
    assert weights.keys() == before.keys()
    assert not any(torch.equal(weights[name], before[name]) for name in weights if name.endswith("qkv.weight"))


def test_a_full_model_goes_on_from_its_checkpoint(monkeypatch, store, tmp_path):
    """Weights under the hub's key names, and the extra layer, are those of the checkpoint; not the base's again."""
    settings = {"dense_targets": True, "use_peft": False, "mix": "distance", "save_merged": False, "warmup_steps": 0}
    train(monkeypatch, store, "nano-random", tmp_path / "out", **settings)
    whole, weights = losses(tmp_path / "out"), load_file(tmp_path / "out" / "model.safetensors")
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    (tmp_path / "out" / "model.safetensors").unlink()
    train(monkeypatch, store, "nano-random", tmp_path / "out", **settings)
    assert losses(tmp_path / "out") == pytest.approx(whole, abs=1e-5)
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.allclose(again[name], weights[name], atol=1e-6) for name in weights)


def test_a_loss_that_is_no_number_stops_the_run(monkeypatch, store, base, tmp_path):
    broken = shutil.copytree(base, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.down_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DepthLMError, match=r"step 1: loss is nan \(lower learning_rate"):
        train(monkeypatch, store, broken, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_another_runs_checkpoints_are_not_gone_on_with(tmp_path):
    same_run(tmp_path, {"stores": ["a"], "seed": 0})
    same_run(tmp_path, {"stores": ["b"], "seed": 0})  # nothing trained yet
    (tmp_path / "checkpoint-2").mkdir()
    same_run(tmp_path, {"stores": ["b"], "seed": 0})
    with pytest.raises(DepthLMError, match=re.escape("stores: ['b'], now ['c']")):
        same_run(tmp_path, {"stores": ["c"], "seed": 0})


def test_lora_layers():
    names = [name for name, _ in load_names()]
    language = {name for name in names if re.fullmatch(LANGUAGE_LAYERS, name)}
    both = lora(ModelConfig(use_peft=True), vision=True).target_modules
    vision = {name for name in names if re.fullmatch(both, name)} - language
    assert len(language) == 3 * 7 and all("language_model" in name for name in language)
    assert len(vision) == 4 * 5 and vision == {name for name in names if re.fullmatch(VISION_LAYERS, name)}
    assert lora(ModelConfig(use_peft=True)).target_modules == LANGUAGE_LAYERS
    assert lora(ModelConfig(use_peft=True, lora_target_modules=["q_proj"])).target_modules in ("q_proj", {"q_proj"})
    assert lora(ModelConfig()) is None


def load_names():
    from transformers import Qwen2_5_VLForConditionalGeneration

    from depthlm.models.nano import make_tokenizer, nano_config

    with torch.device("meta"):
        return list(Qwen2_5_VLForConditionalGeneration(nano_config(make_tokenizer(["a"], 270))).named_modules())


@pytest.mark.parametrize(
    ("data", "model", "says"),
    [
        ({}, {}, "model_name_or_path"),
        ({}, {"model_name_or_path": "m", "load_in_4bit": True}, "use_peft"),
        ({"save_merged": True}, {"model_name_or_path": "m", "load_in_4bit": True, "use_peft": True}, "save_merged"),
        ({"dense_targets": True}, {"model_name_or_path": "m", "use_peft": True}, "dense_targets"),
        ({"lora_vision": True}, {"model_name_or_path": "m"}, "lora_vision"),
        (
            {"lora_vision": True},
            {"model_name_or_path": "m", "use_peft": True, "lora_target_modules": ["q_proj", "k_proj"]},
            "lora_vision: has no part",
        ),
        ({"lora_merger": True}, {"model_name_or_path": "m"}, "lora_merger"),
        ({"freeze_vision": True}, {"model_name_or_path": "m", "use_peft": True}, "freeze_vision"),
    ],
)
def test_contradicting_settings(data, model, says):
    with pytest.raises(DepthLMError, match=f"^{says}"):
        check(DataArguments(**data), ModelConfig(**model))


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_sharded_weights_are_not_merged(monkeypatch, kind):
    data, model = DataArguments(save_merged=True), ModelConfig(model_name_or_path="m", use_peft=True)
    check(data, model)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(DepthLMError, match=r"^save_merged"):
        check(data, model)


def test_an_adapters_layers_are_its_own(base, tmp_path):
    settings = {"base_model_name_or_path": str(base), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    for name in ("lora_vision", "lora_merger", "dense_targets"):
        with pytest.raises(DepthLMError, match=f"^{name}"):
            check(DataArguments(**{name: True}), ModelConfig(model_name_or_path=str(tmp_path)))


@pytest.mark.parametrize(
    "setting", [{"resume_from_checkpoint": "x"}, {"load_best_model_at_end": True}, {"trust_remote_code": True}]
)
def test_what_would_be_ignored_is_refused(setting, tmp_path):
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, save_strategy="steps", eval_strategy="steps",
                     eval_steps=500, **setting)  # fmt: skip
    with pytest.raises(DepthLMError, match=f"^{next(iter(setting))}"):
        check_machine(args)


def test_one_process_a_gpu_and_one_push_at_the_end(tmp_path):
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, push_to_hub=True, hub_strategy="every_save")
    check_machine(args)
    assert args.hub_strategy == "end"
    args._n_gpu = 2
    with pytest.raises(DepthLMError, match=r"2 GPUs: in one process .*accelerate launch"):
        check_machine(args)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_understood(config, tmp_path):
    """Every key is a known argument, numbers are numbers, and the head says what it is for."""
    arguments = ["--config", str(config), "--output_dir", str(tmp_path), "--bf16", "false", "--use_cpu", "true"]
    data, args, model = TrlParser((DataArguments, SFTConfig, ModelConfig)).parse_args_and_config(arguments)
    check(data, model)
    assert isinstance(args.learning_rate, float) and not args.fp16
    text = config.read_text()
    assert all(word in text for word in ("# Hardware", "# Launch:", "# Override:", f"recipes/configs/{config.name}"))
    assert all((ROOT / path).is_file() for path in re.findall(r"recipes/accelerate/\w+\.yaml", text))
    assert yaml.safe_load(text)["report_to"] in ("none", "tensorboard")


def test_a_suite_is_asked_in_the_middle_and_the_best_is_kept(monkeypatch, store, tmp_path):
    """What is logged is what the saved model answers by itself; the best checkpoint is a model of its own."""
    mix = {"distance": 1.0, "camera_motion": 1.0}
    suite, _ = freeze_store(store, tmp_path / "suite", 8, mix=mix)
    out = tmp_path / "out"
    settings = {"save_steps": 1, "eval_suite": tmp_path / "suite", "save_merged": "false", "learning_rate": 1e-2}
    train(monkeypatch, store, "nano", out, max_steps=3, per_device_eval_batch_size=3, **settings)
    history = json.loads((out / "trainer_state.json").read_text())
    rows = [row for row in history["log_history"] if "eval_delta1" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all({"eval_delta1_distance", "eval_delta1_camera_motion", "eval_unparsable"} <= set(row) for row in rows)
    best = max(rows, key=lambda row: row["eval_delta1"])
    assert history["best_metric"] == best["eval_delta1"] and history["best_global_step"] == best["step"]
    model, processor = load_model(out / "best", dtype="float32"), load_processor(out / "best")
    right = 0
    view = SuiteView(suite)
    for item in suite.items:
        shown = view.show(item)
        text = processor.apply_chat_template(
            [user_message(shown.texts[0], len(shown.images))], add_generation_prompt=True, tokenize=False
        )
        inputs = processor(text=[text], images=shown.images, return_tensors="pt")
        said = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].size(1) :]
        value = parse_answer(processor.decode(said, skip_special_tokens=True), item.unit).value
        right += value is not None and max(value / item.truth, item.truth / value) < 1.25
    assert right / len(suite.items) == pytest.approx(best["eval_delta1"])
    assert not list((out / "best").glob("optimizer*")) and not list(out.rglob("training_args.bin"))
    card = (out / "README.md").read_text()
    assert f"`{suite.hash}`" in card and "| step | all | distance | camera motion |" in card
    assert f"| {best['step']} (best) | {best['eval_delta1']:.3f} |" in card
    assert "augmentation | none |" in card and "generated_from_trainer" not in card


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_a_step(monkeypatch, store, base, tmp_path, config):
    """On the nano model and a CPU; all else is as the config says: full, LoRA or 4 bits, schedule, checkpointing."""
    small = {"model_name_or_path": base, "profile": "nano", "stores": store, "output_dir": tmp_path / "out"}
    small |= {"use_cpu": "true", "bf16": "false", "dtype": "float32", "per_device_train_batch_size": 2, "max_steps": 1}
    small |= {"gradient_accumulation_steps": 1, "dataloader_num_workers": 0, "dataloader_persistent_workers": "false"}
    small |= {"report_to": "none", "logging_steps": 1}
    settings = yaml.safe_load(config.read_text())
    if "spatial_encoder" in settings:
        small["spatial_encoder"] = "nano-random"
    words = ["sft.py", "--config", str(config), *(str(word) for name, v in small.items() for word in (f"--{name}", v))]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / "recipes" / "sft.py"))["main"]()
    (loss,) = losses(tmp_path / "out")
    assert 0 < loss < 20
    assert (tmp_path / "out/adapter_config.json").is_file() == (
        settings.get("use_peft", False) and not settings.get("save_merged", False)
    )


def test_the_best_of_a_run_with_dense_targets_is_an_ordinary_model(monkeypatch, store, base, tmp_path):
    freeze_store(store, tmp_path / "suite", 4, mix={"distance": 1.0})
    settings = {"save_steps": 1, "eval_suite": tmp_path / "suite", "use_peft": "false", "save_merged": "false"}
    train(monkeypatch, store, base, tmp_path / "out", max_steps=1, dense_targets="true", **settings)
    assert any(HEAD in name for name in load_file(tmp_path / "out/checkpoint-1/model.safetensors"))
    weights = load_file(tmp_path / "out/best/model.safetensors")
    assert set(weights) == set(load_file(tmp_path / "out/model.safetensors"))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_understands_its_configs(path, monkeypatch):
    """accelerate itself passes over a misspelt key of the inner sections."""
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    inner = {**config.fsdp_config, **config.deepspeed_config}
    known = {option for action in launch_command_parser()._actions for option in action.option_strings}
    assert not [key for key in inner if f"--{key}" not in known]
    if config.distributed_type == "FSDP":
        for key, value in inner.items():
            name = key.upper().replace("TRANSFORMER_LAYER_CLS", "TRANSFORMER_CLS")
            monkeypatch.setenv(name, str(value) if isinstance(value, str) else str(value).lower())
        plugin = FullyShardedDataParallelPlugin()
        assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
        assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    if config.distributed_type == "DEEPSPEED":
        assert inner["zero_stage"] == 3 and inner["zero3_save_16bit_model"] is True


@pytest.mark.parametrize("optimizer", ["optimizer.bin", "optimizer_0/.metadata", "global_step4/states.pt"])
def test_checkpoints_of_sharded_runs_are_whole_too(tmp_path, optimizer):
    folder = tmp_path / "checkpoint-4"
    write_checkpoint(folder)
    (folder / "optimizer.pt").unlink()
    assert last_whole_checkpoint(tmp_path) is None
    (folder / optimizer).parent.mkdir(exist_ok=True)
    (folder / optimizer).write_text("sharded")
    assert last_whole_checkpoint(tmp_path) == str(folder)


@pytest.mark.slow
def test_two_processes_do_what_one_does(monkeypatch, store, tmp_path):
    """Each step's samples are divided among them; the suite is divided too, each question asked once; one saves."""
    model = make_nano(tmp_path / "base", dtype="float32")
    freeze_store(store, tmp_path / "suite", 5, mix={"distance": 1.0})
    more = {"eval_suite": tmp_path / "suite", "save_steps": 3, "use_peft": "false"}
    train(monkeypatch, store, model, tmp_path / "one", max_steps=3, per_device_train_batch_size=4, **more)
    words = command(store, model, tmp_path / "two", 3, *(str(v) for k, x in more.items() for v in (f"--{k}", x)))
    words = [*words[words.index("recipes/sft.py") :], "--per_device_train_batch_size", "2", "--ddp_backend", "gloo"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*start, *words], cwd=ROOT, env=env, check=True, capture_output=True)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    history = [
        json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"] for name in ("one", "two")
    ]
    one, two = (next(row for row in rows if "eval_delta1" in row) for rows in history)
    assert one["eval_delta1"] == two["eval_delta1"] and one["eval_unparsable"] == two["eval_unparsable"]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-4) for k in weights[0])
    assert "3 steps of 4 samples each" in (tmp_path / "two" / "README.md").read_text()


def test_an_adapter_goes_on_and_is_not_mixed_with_a_merged_model(monkeypatch, store, base, tmp_path):
    settings = {"use_peft": "false", "warmup_steps": 0}
    train(monkeypatch, store, base, tmp_path / "first", max_steps=1, save_merged="false")
    more = tmp_path / "more"
    train(monkeypatch, store, tmp_path / "first", more, max_steps=1, save_merged="false", **settings)
    assert (more / "adapter_config.json").is_file() and "LoRA adapter" in (more / "README.md").read_text()
    first, second = (load_file(path / "adapter_model.safetensors") for path in (tmp_path / "first", more))
    assert first.keys() == second.keys() and any(not torch.equal(first[k], second[k]) for k in first)
    train(monkeypatch, store, tmp_path / "first", more, max_steps=2, save_merged="true", **settings)
    assert not list(more.glob("adapter_*")) and not is_adapter(more)
    assert "merged model" in (more / "README.md").read_text()


def test_the_suite_is_asked_greedily_and_at_the_end(monkeypatch, store, tmp_path):
    """Whatever the model's own sampling settings say; and a last part of an interval is not left out."""
    model = load_model("nano", "float32")
    model.generation_config.repetition_penalty = 5.0
    model.save_pretrained(tmp_path / "penalised")
    load_processor("nano").save_pretrained(tmp_path / "penalised")
    freeze_store(store, tmp_path / "suite", 8, mix={"speed": 1.0})
    settings = {"save_steps": 2, "eval_suite": tmp_path / "suite", "save_merged": "false", "learning_rate": 0.0}
    scores = []
    for name in ("nano", tmp_path / "penalised"):
        out = tmp_path / f"out-{len(scores)}"
        train(monkeypatch, store, name, out, max_steps=3, eval_on_start="true", **settings)
        rows = [
            row for row in json.loads((out / "trainer_state.json").read_text())["log_history"] if "eval_delta1" in row
        ]
        assert [row["step"] for row in rows] == [0, 2, 3]
        scores.append({row["eval_delta1"] for row in rows})
    assert scores[0] == scores[1] and len(scores[0]) == 1

    with pytest.raises(DepthLMError, match="save_steps"):
        train(monkeypatch, store, "nano", tmp_path / "odd", max_steps=3, eval_steps=3, **settings)


def test_a_suite_that_asks_otherwise_than_the_training_is_told(store, tmp_path, caplog):
    """It is asked all the same: another way of asking may be what is to be measured."""
    freeze_store(store, tmp_path / "suite", 4, mix={"distance": 1.0}, pointing="coordinates")
    args = SFTConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, save_steps=2)
    data = DataArguments(stores=[str(store)], profile="nano", eval_suite=str(tmp_path / "suite"))
    with caplog.at_level("WARNING"):
        assert len(evaluate_on(args, data).items) == 4
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("depthlm")]
    assert said.endswith("asks with pointing coordinates, the training with marker")
    assert args.eval_steps == 2 and args.do_eval
