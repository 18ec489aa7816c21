"""Qwen2.5-VL, Qwen3-VL and Pixtral in its LLaVA form: the same recipe trains each on exactly what it is asked later."""

import dataclasses
import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_frame
from peft import get_peft_model
from PIL import Image
from safetensors.torch import load_file
from suites import freeze_store
from tiny_models import ARCHITECTURES, LAYERS, PIXTRAL_LATER_TEMPLATE, make_tiny
from transformers import CLIPImageProcessor, GenerationMixin, LlavaProcessor
from trl import ModelConfig

from depthlm.camera import Camera
from depthlm.canonical import plan_view
from depthlm.errors import DepthLMError
from depthlm.models.architectures import freeze_vision, processed_sizes, render_prompt, token_side, visual_tokens
from depthlm.models.architectures import vision_modules as modules_before_language
from depthlm.models.loading import load_model, load_processor, merge_adapter
from depthlm.profiles import PROFILES
from depthlm.prompt import system_message, user_message
from depthlm.questions import KINDS
from depthlm.sample import Sample, make_sample
from depthlm.suite_view import SuiteView
from depthlm.training.arguments import lora
from depthlm.training.collate import IGNORED, Collator
from depthlm.training.dense_targets import HEAD

ROOT = Path(__file__).parents[2]
ENDS = {"qwen2.5-vl": "<|im_end|>", "qwen3-vl": "<|im_end|>", "pixtral": "</s>"}
CASES = {
    "one turn": (["distance"], 1),
    "three turns": (["distance", "speed", "axis_distance"], 1),
    "two images": (["camera_motion"], 2),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {name: make_tiny(tmp_path_factory.mktemp(name) / "m", name) for name in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def name(request) -> str:
    return request.param


@pytest.fixture
def folder(folders, name) -> Path:
    return folders[name]


@pytest.fixture
def processor(folder):
    return load_processor(folder)


@pytest.fixture
def model(folder):
    return load_model(folder, "float32")


def sample_of(profile: str, kinds: list[str], frames: int = 1, dense: bool = False) -> Sample:
    """At native scale: 320x240 frames give small images under the profile's own sizes."""
    views = [make_frame(f"v{i}", offset_m=0.5 * i, dense=dense) for i in range(frames)]
    asked = [KINDS.get(kind) for kind in kinds]
    return make_sample(views, asked, np.random.default_rng(0), PROFILES.get(profile), "text", dense=dense)


def wider(sample: Sample, cell: int) -> Sample:
    """The same with an image of another size."""
    height, width, _ = sample.images[0].shape
    image = np.random.default_rng(1).integers(0, 256, (height + cell, width + 3 * cell, 3), np.uint8)
    return dataclasses.replace(sample, images=[image, *sample.images[1:]])


def conversation(name: str, sample: Sample, upto: int) -> list[dict]:
    """The messages with their images, as each model's card writes them; Pixtral's first release in its own way."""
    key = "content" if name == "pixtral" else "text"
    out = [{"role": "system", "content": sample.system}] if sample.system else []
    for i, turn in enumerate(sample.turns[: upto + 1]):
        images = [{"type": "image", "image": Image.fromarray(image)} for image in sample.images] if i == 0 else []
        out.append({"role": "user", "content": [*images, {"type": "text", key: turn.question}]})
        out.append({"role": "assistant", "content": turn.answer})
    return out[:-1]


def generation_inputs(name: str, processor, chats: list[list[dict]], **options):
    settings = {"padding": True, **options}
    return processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=settings,
    )


def forward(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**{key: value for key, value in batch.items() if key != "labels"}).logits


@pytest.mark.parametrize("case", CASES)
def test_every_prompt_is_what_generation_gets(name, processor, case):
    sample = sample_of(name, *CASES[case])
    ids = Collator(processor)([sample])["input_ids"]
    for turn in range(len(sample.turns)):
        asked = generation_inputs(name, processor, [conversation(name, sample, turn)])["input_ids"]
        assert torch.equal(ids[:, : asked.shape[1]], asked)
        assert ids.shape[1] > asked.shape[1]


def test_a_system_prompt_is_what_generation_gets(name, processor):
    sample = dataclasses.replace(sample_of(name, ["distance"]), system="Answer in metres.")
    ids = Collator(processor)([sample])["input_ids"]
    asked = generation_inputs(name, processor, [conversation(name, sample, 0)])["input_ids"]
    assert torch.equal(ids[:, : asked.shape[1]], asked)
    assert "Answer in metres." in processor.tokenizer.decode(asked[0])


def test_a_batch_of_different_sizes_is_what_generation_gets(name, processor):
    samples = [sample_of(name, *CASES[case]) for case in CASES]
    samples.append(wider(samples[0], token_side(processor)))
    batch = Collator(processor)(samples)
    chats = [conversation(name, sample, 0) for sample in samples]
    asked = generation_inputs(name, processor, chats, padding_side="right")
    for ids, prompt, mask in zip(batch["input_ids"], asked["input_ids"], asked["attention_mask"], strict=True):
        length = int(mask.sum())
        assert torch.equal(ids[:length], prompt[:length])
    vision = set(asked) - {"input_ids", "attention_mask", "mm_token_type_ids"}
    assert "pixel_values" in vision and len(vision) == 2
    assert set(batch) - {"labels"} == set(asked)
    for key in vision:
        assert torch.equal(batch[key], asked[key]), key
    sizes = [image.shape[:2] for sample in samples for image in sample.images]
    assert processed_sizes(processor, batch) == sizes and len(set(sizes)) == 2


@pytest.mark.parametrize("case", CASES)
def test_only_answers_and_ends_of_turns_are_supervised(name, processor, case):
    sample = sample_of(name, *CASES[case])
    batch = Collator(processor)([sample, wider(sample, token_side(processor))])
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        supervised = labels != IGNORED
        text = processor.tokenizer.decode(labels[supervised])
        assert text == "".join(turn.answer + ENDS[name] for turn in sample.turns)
        assert torch.equal(ids[supervised], labels[supervised])


def test_logits_in_training_are_those_of_generation(name, processor, model):
    """In a padded batch of different sizes; generation pads on the other side and caches."""
    samples = [sample_of(name, ["camera_motion"], 2), wider(sample_of(name, ["distance"]), token_side(processor))]
    trained = forward(model, batch := Collator(processor)(samples))
    chats = [conversation(name, sample, 0) for sample in samples]
    inputs = generation_inputs(name, processor, chats, padding_side="left")
    generated = model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True).logits[0]
    for row, labels in enumerate(batch["labels"]):
        last = int((labels != IGNORED).nonzero()[0]) - 1
        assert torch.allclose(trained[row, last], generated[row], atol=1e-4)


def test_the_image_counts(name, processor, model):
    sample = sample_of(name, ["distance"])
    other = dataclasses.replace(sample, images=[255 - sample.images[0]])
    collate = Collator(processor)
    one, two = (forward(model, collate([each])) for each in (sample, other))
    assert not torch.allclose(one[0, -1], two[0, -1], atol=1e-4)


def test_the_loss_falls(name, processor, model):
    samples = [sample_of(name, *CASES[case]) for case in CASES]
    batch = Collator(processor)([*samples, wider(samples[0], token_side(processor))])
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]


ATTENTION = {f"self_attn.{x}_proj" for x in "qkvo"}
GATED = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
VISION = {
    "qwen2.5-vl": {"attn.qkv", "attn.proj"} | GATED,
    "qwen3-vl": {"attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"},
    "pixtral": {f"attention.{x}_proj" for x in "qkvo"} | {f"feed_forward.{x}_proj" for x in ("gate", "up", "down")},
}
BLOCKS = {
    "qwen2.5-vl": "visual.blocks",
    "qwen3-vl": "visual.blocks",
    "pixtral": "vision_tower.transformer.layers",
}
MERGER = {
    "qwen2.5-vl": {"visual.merger.mlp.0", "visual.merger.mlp.2"},
    "qwen3-vl": {f"visual.{merger}.linear_fc{i}" for merger in ("merger", "deepstack_merger_list.0") for i in (1, 2)},
    "pixtral": {"multi_modal_projector.linear_1", "multi_modal_projector.linear_2"},
}


@pytest.mark.parametrize(("vision", "merger"), [(False, False), (True, False), (False, True), (True, True)])
def test_lora_hits_these_layers(name, model, vision, merger):
    wanted = {f"language_model.layers.{i}.{layer}" for i in range(LAYERS) for layer in ATTENTION | GATED}
    if vision:
        wanted |= {f"{BLOCKS[name]}.{i}.{layer}" for i in range(LAYERS) for layer in VISION[name]}
    if merger:
        wanted |= MERGER[name]
    linear = {key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {f"model.{layer}" for layer in wanted} <= linear
    if vision and merger:  # nothing but the head is left
        assert {f"model.{layer}" for layer in wanted} == linear - {"lm_head"}
    adapted = get_peft_model(model, lora(ModelConfig(use_peft=True), vision=vision, merger=merger))
    hit = [key.removesuffix(".lora_A.default") for key, _ in adapted.named_modules() if key.endswith("lora_A.default")]
    assert Counter(hit) == Counter(f"base_model.model.model.{layer}" for layer in wanted)


@pytest.mark.parametrize("adapted", [False, True])
def test_frozen_vision_is_all_before_the_language_model(name, model, processor, adapted):
    if adapted:
        model = get_peft_model(model, lora(ModelConfig(use_peft=True), vision=True, merger=True))
    freeze_vision(model)
    trained = {key.removeprefix("base_model.model.") for key, p in model.named_parameters() if p.requires_grad}
    assert trained and all(key.startswith(("model.language_model.", "lm_head.")) for key in trained)
    if not adapted:
        before = {key for key, _ in model.named_parameters()} - trained
        assert all(key.startswith(("model.visual.", "model.vision_tower.", "model.multi_modal_pro")) for key in before)
    model.train()
    model(**Collator(processor)([sample_of(name, ["distance"])])).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for _, p in model.named_parameters())


CAMERAS = [
    Camera.from_fov(width, height, fov)
    for width, height in ((640, 480), (1920, 1080), (1242, 375), (480, 640), (3000, 2000))
    for fov in (40, 70, 100)
]


@pytest.mark.parametrize("intrinsics", ["normalize", "none"])
def test_canonical_images_are_not_resized(name, processor, intrinsics):
    """With the processors' settings as they were released."""
    spec = PROFILES.get(name).canonical(intrinsics)
    assert spec.multiple == token_side(processor)
    seen = set()
    for camera in CAMERAS:
        view = plan_view(camera, spec).camera
        seen.add((view.height, view.width))
        if intrinsics == "normalize":
            assert view.fx == view.fy == spec.focal
        else:
            assert view.fx <= camera.fx
    images = [Image.new("RGB", (width, height)) for height, width in seen]
    for size, image in zip(seen, images, strict=True):
        inputs = processor.image_processor(images=[image], return_tensors="pt")
        assert processed_sizes(processor, inputs) == [size]
    assert len(seen) >= 5


def test_the_smallest_canonical_image_is_not_enlarged(name, processor):
    spec = PROFILES.get(name).canonical("none")
    side = spec.multiple * int(np.ceil(np.sqrt(spec.min_pixels) / spec.multiple))
    view = plan_view(Camera.from_fov(side, side, 60), spec).camera
    assert (view.width, view.height) == (side, side)
    inputs = processor.image_processor(images=[Image.new("RGB", (side, side))], return_tensors="pt")
    assert processed_sizes(processor, inputs) == [(side, side)]
    with pytest.raises(DepthLMError, match="less than the smallest canonical image"):
        plan_view(Camera.from_fov(side - 1, side, 60), spec)


@pytest.mark.parametrize("other", ["qwen3-vl", "pixtral"])
def test_another_models_profile_is_refused(folders, other):
    with pytest.raises(DepthLMError, match=r"resized a canonical 308x224 image to .*use this model's profile"):
        Collator(load_processor(folders[other]))([sample_of("qwen2.5-vl", ["distance"])])


def test_pixtrals_later_template_says_the_same(folders):
    first, later = load_processor(folders["pixtral"]), load_processor(folders["pixtral"])
    later.chat_template = PIXTRAL_LATER_TEMPLATE
    sample = sample_of("pixtral", ["distance", "speed"])
    one, two = (Collator(p)([sample])["input_ids"] for p in (first, later))
    assert torch.equal(one, two)
    begin = first.tokenizer.bos_token_id
    assert (one == begin).sum() == 1 and one[0, 0] == begin


def test_a_template_that_rewrites_earlier_turns_is_refused(folders):
    """Pixtral's puts the system prompt into the last turn."""
    sample = dataclasses.replace(sample_of("pixtral", ["distance", "speed"]), system="Answer in metres.")
    with pytest.raises(DepthLMError, match="rewrites earlier turns"):
        Collator(load_processor(folders["pixtral"]))([sample])


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out 'Be short.'"),
        ("{{ raise_exception('no such roles') }}", "fails: no such roles"),
        ("{{ messages[0].content + 1 }}", "fails: "),
        (None, "fails: .*does not have a chat template"),
    ],
)
def test_an_unusable_template_is_one_error(folders, template, says):
    processor = load_processor(folders["qwen3-vl"])
    processor.chat_template = template
    with pytest.raises(DepthLMError, match=f"^chat template: {says}"):
        render_prompt(processor, [system_message("Be short."), user_message("How far?", 1)])


def test_an_unknown_form_is_refused(folders):
    tokenizer = load_processor(folders["pixtral"]).tokenizer
    clip = LlavaProcessor(CLIPImageProcessor(), tokenizer, patch_size=14, vision_feature_select_strategy="default")
    with pytest.raises(DepthLMError, match="LlavaProcessor: is of no known form"):
        Collator(clip)

    class Other(torch.nn.Module):
        model = torch.nn.Linear(1, 1)

    with pytest.raises(DepthLMError, match="Linear: has no vision tower of a known form"):
        freeze_vision(Other())


def test_visual_tokens_are_row_by_row(name, processor, model):
    """Change one cell of the second image: of all tokens that cell's changes most."""
    cell = token_side(processor)
    first = np.full((8 * cell, 9 * cell, 3), 90, np.uint8)
    image = np.full((9 * cell, 10 * cell, 3), 128, np.uint8)
    changed = image.copy()
    changed[2 * cell : 3 * cell, 7 * cell : 8 * cell] = 255
    seen = []
    modules_before_language(model)[-1].register_forward_hook(lambda m, a, output: seen.append(visual_tokens(output)))
    question = sample_of(name, ["camera_motion"], 2)
    for second in (image, changed):
        forward(model, Collator(processor)([dataclasses.replace(question, images=[first, second])]))
    assert seen[0].shape[0] == 8 * 9 + 9 * 10
    assert int((seen[0] - seen[1]).norm(dim=1).argmax()) == 8 * 9 + 2 * 10 + 7


def train(monkeypatch, folder: Path, profile: str, store: Path, out: Path, **more) -> list[dict]:
    """The recipe in this process; what it logged."""
    settings = {"config": "recipes/configs/nano_cpu.yaml", "stores": store, "model_name_or_path": folder}
    settings |= {"output_dir": out, "profile": profile, "intrinsics": "text", "max_steps": 2, "save_steps": 1}
    settings |= {"per_device_train_batch_size": 2, "points_per_image": 2, "logging_steps": 1, "warmup_steps": 0}
    settings |= {"dataloader_num_workers": 0, "save_merged": "false", **more}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        sys, "argv", ["sft.py", *(str(word) for key, v in settings.items() for word in (f"--{key}", v))]
    )
    runpy.run_path(str(ROOT / "recipes" / "sft.py"))["main"]()
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def test_the_recipe_trains_an_adapter_asks_a_suite_and_it_merges(monkeypatch, name, folder, store, tmp_path):
    mix = {"distance": 1.0, "camera_motion": 1.0}
    suite, _ = freeze_store(store, tmp_path / "suite", 4, mix=mix, profile=name, intrinsics="text")
    asked: list[torch.Tensor] = []
    generate = GenerationMixin.generate
    spy = lambda model, **inputs: asked.extend(inputs["input_ids"]) or generate(model, **inputs)  # noqa: E731
    monkeypatch.setattr(GenerationMixin, "generate", spy)
    more = {"eval_suite": tmp_path / "suite", "per_device_eval_batch_size": 3, "gradient_checkpointing": "true"}
    more |= {"lora_vision": "true", "lora_merger": "true", "learning_rate": 1e-2, "save_steps": 2}
    out = tmp_path / "out"
    history = train(monkeypatch, folder, name, store, out, **more)
    assert [row["step"] for row in history if "eval_delta1_camera_motion" in row] == [2]
    assert all(np.isfinite(row["loss"]) for row in history if "loss" in row)
    processor = load_processor(folder)
    assert len(asked) == len(suite.items)
    view = SuiteView(suite)
    for item, ids in zip(suite.items, asked, strict=True):
        images = [Image.fromarray(pixels) for pixels in view.show(item).images]
        chat = [{"role": "user", "content": [{"type": "image", "image": image} for image in images]}]
        chat[0]["content"].append({"type": "text", "content" if name == "pixtral" else "text": item.question})
        wanted = generation_inputs(name, processor, [chat])["input_ids"][0]
        assert torch.equal(ids[ids != processor.tokenizer.pad_token_id].cpu(), wanted)

    weights = load_file(out / "adapter_model.safetensors")
    learnt = {key for key, value in weights.items() if "lora_B" in key and value.abs().max() > 0}
    assert learnt == {key for key in weights if "lora_B" in key}
    for part in ("language_model", BLOCKS[name], *MERGER[name]):
        assert any(f".{part}." in key for key in learnt), part

    merged = merge_adapter(out, tmp_path / "merged", dtype="float32")
    assert type(load_processor(merged)) is type(processor)
    batch = Collator(load_processor(merged))([sample_of(name, ["distance"])])
    whole, apart, base = (forward(load_model(path, "float32"), batch) for path in (merged, out, folder))
    assert torch.allclose(whole, apart, atol=1e-4) and not torch.allclose(whole, base, atol=1e-2)
    assert load_model(out / "best", "float32").peft_config


def test_the_recipe_trains_all_but_the_vision_tower(monkeypatch, name, folder, store, tmp_path):
    train(monkeypatch, folder, name, store, tmp_path / "out", use_peft="false", freeze_vision="true")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    vision = {key for key in before if re.search(r"visual|vision_tower|multi_modal_projector", key)}
    assert vision and not changed & vision
    assert {key for key in before if key.endswith("gate_proj.weight")} - vision <= changed


def test_dense_targets_fit_every_architecture(monkeypatch, name, folder, store, tmp_path):
    more = {"dense_targets": "true", "use_peft": "false", "mix": "distance", "max_steps": 3, "learning_rate": 1e-3}
    more |= {"lr_scheduler_type": "constant", "points_per_image": 1, "save_steps": 3}
    history = train(monkeypatch, folder, name, store, tmp_path / "out", **more)
    assert history[2]["dense_log_z"] < history[0]["dense_log_z"]
    assert not [key for key in load_file(tmp_path / "out" / "model.safetensors") if HEAD in key]


def test_a_suite_of_another_profile_is_asked_in_the_trainings_own(monkeypatch, folders, store, tmp_path):
    mix = {"distance": 1.0}
    suite, _ = freeze_store(store, tmp_path / "suite", 2, mix, profile="qwen2.5-vl", intrinsics="text")
    seen: list[list[int]] = []
    generate = GenerationMixin.generate
    spy = lambda model, **inputs: seen.extend(inputs["image_grid_thw"].tolist()) or generate(model, **inputs)  # noqa: E731
    monkeypatch.setattr(GenerationMixin, "generate", spy)
    train(monkeypatch, folders["qwen3-vl"], "qwen3-vl", store, tmp_path / "out", eval_suite=tmp_path / "suite")
    views = [SuiteView(suite, "qwen3-vl").show(item).images[0].shape for item in suite.items]
    own = [SuiteView(suite).show(item).images[0].shape for item in suite.items]
    shown = [[1, height // 16, width // 16] for height, width, _ in views]
    assert seen == 2 * shown and views != own, "asked after each of two steps"
