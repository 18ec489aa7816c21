"""Qwen2.5-VL with a spatial encoder: what it sees, that it begins as its base, that no image reads of another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import get_peft_model
from tiny_models import open_fusion, tiny_encoder
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import ModelConfig

from depthlm.errors import DepthLMError
from depthlm.models.loading import load_model, load_processor, merge_adapter
from depthlm.spatial.attach import attached, encoder_name, prepare_spatial, settle_spatial
from depthlm.spatial.cache import FeatureCache, fingerprint
from depthlm.spatial.encoder import load_encoder
from depthlm.spatial.fusion import SpatialFusion, place_codes
from depthlm.spatial.model import SpatialQwen2_5_VLForConditionalGeneration
from depthlm.spatial.pixels import images_of
from depthlm.spatial.settings import SpatialSettings
from depthlm.training.arguments import lora

PIXELS = {"patch": 14, "merge": 2, "temporal": 2}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with random weights."""
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor("nano")


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def inputs_for(processor: Any, *conversations: list[NDArray[np.uint8]]) -> dict[str, torch.Tensor]:
    """Right padded inputs of one question about each list of images."""
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": "How far?"}]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for images in conversations
    ]
    return dict(processor(text=texts, images=list(conversations), padding=True, return_tensors="pt"))


def fused(encoder: Path, gate: bool = True, opened: float = 0.0) -> Any:
    torch.manual_seed(0)
    model = load_model("nano", "float32", spatial=SpatialSettings(str(encoder), gate=gate))
    if opened:
        open_fusion(model, opened)
    return model


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def visual(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output


def test_the_encoders_image_is_the_vlms_to_float_rounding(processor: Any) -> None:
    images = [noise(56, 84, 1), noise(112, 56, 2)]
    inputs = inputs_for(processor, images)
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    found = images_of(inputs["pixel_values"], inputs["image_grid_thw"].tolist(), **PIXELS, mean=mean, std=std)
    for image, pixels in zip(images, found, strict=True):
        want = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        assert (pixels.double() * 255 - want).abs().max() <= 4e-5


def test_patches_that_do_not_fit_their_grids_are_refused(processor: Any) -> None:
    inputs = inputs_for(processor, [noise(56, 84)])
    pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"].tolist()
    values = {"mean": [0.5] * 3, "std": [0.5] * 3}
    for broken in ((pixels[:-1], grid), (pixels[:, :-1], grid), (pixels, [*grid, grid[0]])):
        with pytest.raises(DepthLMError, match="pixel_values"):
            images_of(*broken, **PIXELS, **values)
    with pytest.raises(DepthLMError, match="multiples of 2"):
        images_of(pixels, [[1, 24, 1]], **PIXELS, **values)


def test_untrained_it_is_exactly_its_base(encoder: Path, processor: Any) -> None:
    base, model = load_model("nano", "float32"), fused(encoder)
    for conversations in ([[noise(56, 84)]], [[noise(56, 84), noise(112, 56, 1)], [noise(84, 84, 2)]]):
        inputs = inputs_for(processor, *conversations)
        assert torch.equal(logits(model, inputs), logits(base, inputs))
    assert not torch.equal(logits(fused(encoder, opened=0.5), inputs), logits(base, inputs))


def test_made_from_a_configuration_its_gate_is_closed_too(encoder: Path) -> None:
    config = fused(encoder).config
    model = SpatialQwen2_5_VLForConditionalGeneration(config)
    assert not model.model.fusion.second.weight.any() and not model.model.fusion.second.bias.any()
    assert model.model.fusion.first.weight.any()


def test_the_ungated_form_replaces_the_visual_tokens(encoder: Path, processor: Any) -> None:
    model = fused(encoder, gate=False)
    inputs = inputs_for(processor, [noise(56, 84)])
    for weight in model.model.fusion.second.parameters():
        weight.data.zero_()
    assert visual(model, inputs)[0].abs().max() == 0


def test_no_image_reads_of_another(encoder: Path, processor: Any) -> None:
    model = fused(encoder, opened=1.0)
    first, second, other = noise(56, 84, 1), noise(56, 84, 2), noise(56, 84, 3)
    small = noise(112, 56, 4)
    together = visual(model, inputs_for(processor, [first, second, small]))
    changed = visual(model, inputs_for(processor, [first, other, small]))
    alone = [visual(model, inputs_for(processor, [image]))[0] for image in (first, second, small)]
    assert torch.equal(together[0], changed[0]) and torch.equal(together[2], changed[2])
    assert not torch.allclose(together[1], changed[1])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_token_begins_by_looking_at_its_own_place() -> None:
    torch.manual_seed(0)
    fusion = SpatialFusion(32, 32, 64, 4)
    fine, coarse = fusion.place(place_codes(8, 12)), fusion.place(place_codes(4, 6))
    looked_at = (fine @ coarse.T).argmax(dim=1)
    rows, columns = looked_at // 6, looked_at % 6
    y, x = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    assert ((rows - (y.flatten() // 2)).abs() <= 1).float().mean() > 0.9
    assert ((columns - (x.flatten() // 2)).abs() <= 1).float().mean() > 0.9


def test_saved_and_loaded_again(encoder: Path, processor: Any, tmp_path: Path) -> None:
    model = fused(encoder, opened=0.7)
    model.save_pretrained(tmp_path)
    told = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert str(encoder) not in told and encoder_name(model) == encoder.name
    assert json.loads(told)["spatial_config"]["source"]["name"] == encoder.name
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="float32").eval()
    inputs = inputs_for(AutoProcessor.from_pretrained(tmp_path), [noise(56, 84), noise(84, 84, 1)])
    assert type(again) is type(model)
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    assert torch.equal(logits(load_model(tmp_path), inputs), logits(model, inputs))


@pytest.mark.parametrize(("base", "stored"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_loaded_again_the_encoder_has_the_dtype_that_is_asked_for(
    base: str, stored: str, encoder: Path, processor: Any, tmp_path: Path
) -> None:
    load_encoder(encoder).to(getattr(torch, stored)).save_pretrained(tmp_path / "encoder")
    model = load_model("nano", base, spatial=SpatialSettings(str(tmp_path / "encoder")))
    open_fusion(model, 0.1)
    model.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model", base)
    assert {w.dtype for w in again.parameters()} == {getattr(torch, base)}
    inputs = inputs_for(processor, [noise(56, 84)])
    assert torch.equal(logits(again, inputs), logits(model, inputs))


def test_autocast_does_not_change_what_is_kept(encoder: Path, tmp_path: Path) -> None:
    frozen = load_encoder(encoder, "float32")
    image = torch.rand(1, 3, 56, 84)
    with torch.no_grad():
        plain = frozen(image)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(frozen(image), plain)


def test_generation_goes_through_the_fusion(encoder: Path, processor: Any) -> None:
    model, base = fused(encoder, opened=3.0), load_model("nano", "float32")
    inputs = inputs_for(processor, [noise(56, 84)])
    spoken = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    step = inputs
    for _ in range(spoken.shape[1] - inputs["input_ids"].shape[1]):  # one by one, without a cache
        new = logits(model, step)[:, -1:].argmax(-1)
        step = {
            **step,
            "input_ids": torch.cat([step["input_ids"], new], 1),
            "attention_mask": torch.cat([step["attention_mask"], torch.ones_like(new)], 1),
            "mm_token_type_ids": torch.cat([step["mm_token_type_ids"], torch.zeros_like(new)], 1),
        }
    assert torch.equal(spoken, step["input_ids"])
    assert not torch.equal(logits(model, inputs), logits(base, inputs))


def test_an_adapter_has_the_fusion_with_it_and_merges(encoder: Path, processor: Any, tmp_path: Path) -> None:
    model = load_model("nano", "float32", spatial=SpatialSettings(str(encoder)), trainable=True)
    prepare_spatial(model, None)
    adapted = get_peft_model(model, lora(ModelConfig(use_peft=True, lora_r=4), fused=True))
    inputs = inputs_for(processor, [noise(56, 84)])
    optimizer = torch.optim.SGD([w for w in adapted.parameters() if w.requires_grad], lr=0.5)
    for _ in range(2):  # the last layer is zero at first, and lets the others learn only once it has moved
        adapted.train()
        adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    moved = {name for name, w in adapted.named_parameters() if w.grad is not None and w.grad.abs().max() > 0}
    assert any("fusion" in name and "second" in name for name in moved)
    assert any("fusion" in name and "adapter" in name for name in moved)
    assert any("lora_" in name for name in moved)
    assert not any("spatial_encoder" in name or ".visual." in name for name in moved)
    assert not model.model.spatial_encoder.training
    adapted.eval().save_pretrained(tmp_path / "adapter")
    attached(adapted).save(tmp_path / "adapter")
    again = load_model(tmp_path / "adapter", "float32")
    torch.testing.assert_close(logits(again, inputs), logits(adapted, inputs))
    merge_adapter(tmp_path / "adapter", tmp_path / "merged", dtype="float32")
    merged = load_model(tmp_path / "merged", "float32")
    torch.testing.assert_close(logits(merged, inputs), logits(adapted, inputs), rtol=1e-3, atol=1e-4)


def test_no_layer_that_a_user_names_puts_lora_into_the_encoder(encoder: Path) -> None:
    for layers in (["all-linear"], ["q_proj", "query", "fc1"]):
        model = load_model("nano", "float32", spatial=SpatialSettings(str(encoder)), trainable=True)
        prepare_spatial(model, None)
        words = ModelConfig(use_peft=True, lora_r=4, lora_target_modules=layers)
        adapted = get_peft_model(model, lora(words, fused=True))
        trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
        assert not any("spatial_encoder" in name for name in trained)
        assert not any("lora_" in name and "fusion" in name for name in trained)
        assert any("lora_" in name for name in trained)
        settle_spatial(adapted)
    adapted.get_base_model().model.spatial_encoder.requires_grad_(True)
    with pytest.raises(DepthLMError, match="reach into the frozen spatial encoder"):
        settle_spatial(adapted)


def test_over_a_bfloat16_base_the_fusion_is_trained_in_float32(encoder: Path, processor: Any) -> None:
    model = load_model("nano", "bfloat16", spatial=SpatialSettings(str(encoder)), trainable=True)
    prepare_spatial(model, None)
    adapted = get_peft_model(model, lora(ModelConfig(use_peft=True, lora_r=4), fused=True))
    settle_spatial(adapted)
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    inputs = inputs_for(processor, [noise(56, 84)])
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4, weight_decay=0.0)
    before = {name: weight.detach().clone() for name, weight in trained.items() if "fusion" in name}
    for _ in range(3):
        adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    for name in ("visual_norm.weight", "adapter.weight", "second.weight"):
        moved = [(trained[key] != value).float().mean() for key, value in before.items() if key.endswith(name)]
        assert moved and all(share > 0.9 for share in moved), name


def test_an_adapter_knows_its_encoder(encoder: Path, tmp_path: Path) -> None:
    model = load_model("nano", "float32", spatial=SpatialSettings(str(encoder)), trainable=True)
    adapted = get_peft_model(model, lora(ModelConfig(use_peft=True, lora_r=4), fused=True))
    adapted.save_pretrained(tmp_path / "adapter")
    noted = attached(adapted)
    replace(noted, encoder=str(tmp_path / "gone")).save(tmp_path / "adapter")
    with pytest.raises(DepthLMError, match=r"gone: is not a folder .*depthlm merge ADAPTER --encoder ENCODER"):
        load_model(tmp_path / "adapter")
    other = load_encoder(encoder)
    other.config.num_tokens = 20
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(DepthLMError, match="is another encoder than the adapter was trained with"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", encoder=tmp_path / "other")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged", encoder=encoder)
    assert load_model(tmp_path / "merged").model.spatial_encoder.config.num_tokens == 40


@pytest.mark.parametrize(
    "note", ['{"encoder": "x", "dtype": "foo"}', '{"encoder": "x", "width": "64"}', '{"width": 64}', "[]", "{"]
)
def test_a_note_that_is_none_is_refused(note: str, tmp_path: Path) -> None:
    (tmp_path / "spatial.json").write_text(note, encoding="utf-8")
    with pytest.raises(DepthLMError):
        SpatialSettings.of_adapter(tmp_path)


def test_the_cache_gives_what_the_encoder_gives_and_makes_it_once(
    encoder: Path, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plain = fused(encoder, opened=1.0), fused(encoder, opened=1.0)
    prepare_spatial(model, tmp_path / "cache")
    same = noise(56, 84)
    inputs = inputs_for(processor, [same], [same], [noise(84, 84, 1)])
    asked = []
    encode = model.model.spatial_encoder.forward
    monkeypatch.setattr(model.model.spatial_encoder, "forward", lambda x: asked.append(len(x)) or encode(x))
    want = logits(plain, inputs)
    torch.testing.assert_close(logits(model, inputs), want, rtol=1e-4, atol=1e-4)
    assert sum(asked) == 2  # two of the three are one image
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 2
    files[0].write_bytes(b"torn")
    first = logits(model, inputs)
    assert sum(asked) == 3  # the torn one again
    assert torch.equal(logits(model, inputs), first) and sum(asked) == 3


def test_a_cache_belongs_to_one_encoder(encoder: Path, tmp_path: Path) -> None:
    model = fused(encoder)
    frozen = model.model.spatial_encoder.requires_grad_(False)
    first = FeatureCache(tmp_path, frozen).folder
    assert FeatureCache(tmp_path, frozen).folder == first
    frozen.config.num_tokens = 20
    assert FeatureCache(tmp_path, frozen).folder != first
    frozen.config.num_tokens = 40
    next(frozen.parameters()).data.add_(1)
    assert FeatureCache(tmp_path, frozen).folder != first
    with pytest.raises(DepthLMError, match="is trained"):
        FeatureCache(tmp_path, frozen.requires_grad_(True))


def test_what_is_for_an_encoder_is_refused_where_there_is_none(tmp_path: Path) -> None:
    model = load_model("nano")
    prepare_spatial(model, None)
    with pytest.raises(DepthLMError, match="spatial_cache: is for a spatial encoder"):
        prepare_spatial(model, tmp_path)
    with pytest.raises(DepthLMError, match="spatial_dtype: is for a spatial encoder"):
        prepare_spatial(model, None, "bfloat16")


def test_a_fingerprint_is_of_weights_and_settings_alone(encoder: Path, tmp_path: Path) -> None:
    """Neither of the folder, nor of the release of transformers that wrote it."""
    first = fingerprint(load_encoder(encoder))
    shutil.copytree(encoder, tmp_path / "moved")
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8")) | {"transformers_version": "9.0"}
    config["backbone_config"] |= {"_name_or_path": "elsewhere", "transformers_version": "9.0"}
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert fingerprint(load_encoder(tmp_path / "moved")) == first
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config | {"num_tokens": 20}), encoding="utf-8")
    assert fingerprint(load_encoder(tmp_path / "moved")) != first


def test_what_does_not_go_together_is_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(DepthLMError, match=r"spatial_width: 64 is no multiple of 5 heads .*spatial_heads"):
        load_model("nano", spatial=SpatialSettings(str(encoder), width=64, heads=5))
    with pytest.raises(DepthLMError, match="not a folder"):
        load_model("nano", spatial=SpatialSettings(str(tmp_path / "none")))
    fused(encoder).save_pretrained(tmp_path / "fused")
    with pytest.raises(DepthLMError, match="spatial encoder goes with"):
        load_model(tmp_path / "fused", spatial=SpatialSettings(str(encoder)))
