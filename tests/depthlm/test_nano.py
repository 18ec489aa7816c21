"""The nano model's folder, and the loading, adapting and merging of models."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import unicodedata
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

from depthlm.errors import DepthLMError
from depthlm.models import loading
from depthlm.models.loading import add_merge, load_model, load_processor, merge_adapter, resolve
from depthlm.models.nano import CHAT_TEMPLATE, SPECIAL_TOKENS, add, make_nano, make_tokenizer

CORPUS = ["How many metres away is the point under the red arrow?", "The distance is 12.50 m.", "12 34 56 12 34"] * 9


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano(tmp_path_factory.mktemp("models") / "nano", corpus=CORPUS)


@pytest.fixture(scope="module")
def processor(nano: Path) -> Any:
    return load_processor(nano)


@pytest.fixture(scope="module")
def adapter(nano: Path) -> Path:
    """A LoRA adapter on the nano model which changes its answers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    names = r".*language_model.*\.(q_proj|v_proj|down_proj)"
    tuned = get_peft_model(load_model(nano, "float32"), LoraConfig(r=4, target_modules=names, init_lora_weights=False))
    tuned.save_pretrained(nano.parent / "adapter")
    return nano.parent / "adapter"


def inputs_for(processor: Any, *images: Image.Image, text: str = "How many metres away is it?") -> Any:
    content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )


# Text that NFC leaves alone: Qwen's tokenizer normalises to that form.
nfc_text = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: unicodedata.normalize("NFC", text))


@settings(max_examples=200, deadline=None)
@given(text=nfc_text)
def test_any_text_comes_back(processor: Any, text: str) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_byte_and_digit_is_a_token(processor: Any) -> None:
    tokenizer = processor.tokenizer
    vocab = tokenizer.get_vocab()
    assert sorted(vocab.values()) == list(range(len(tokenizer)))
    assert sum(len(token) == 1 for token in vocab) == 256
    assert not [token for token in vocab if len(token) > 1 and any(char.isdigit() for char in token)]
    assert tokenizer.tokenize("12.50 m, 7") == ["1", "2", ".", "5", "0", "Ġm", ",", "Ġ", "7"]


def test_words_of_the_corpus_are_tokens(processor: Any) -> None:
    assert processor.tokenizer.tokenize("How many metres") == ["How", "Ġmany", "Ġmetres"]


def test_special_tokens(nano: Path, processor: Any) -> None:
    tokenizer = processor.tokenizer
    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    assert len(set(ids.values())) == len(SPECIAL_TOKENS)
    for token, number in ids.items():
        assert tokenizer(f"a{token}b")["input_ids"][1] == number
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.decode(list(ids.values()), skip_special_tokens=True) == ""
    config = json.loads((nano / "config.json").read_text())
    assert config["image_token_id"] == ids["<|image_pad|>"] == processor.image_token_id
    assert config["video_token_id"] == ids["<|video_pad|>"] == processor.video_token_id
    assert config["vision_start_token_id"] == ids["<|vision_start|>"]
    assert config["vision_end_token_id"] == ids["<|vision_end|>"]
    generation = json.loads((nano / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [ids["<|im_end|>"], ids["<|endoftext|>"]]
    assert generation["pad_token_id"] == ids["<|endoftext|>"]
    assert generation["do_sample"] is False


def test_size_of_the_folder(nano: Path) -> None:
    with safe_open(nano / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(key).get_shape() for key in weights.keys()]
    count = sum(torch.Size(shape).numel() for shape in shapes)
    assert 3_000_000 < count < 4_500_000
    assert (nano / "model.safetensors").stat().st_size == pytest.approx(2 * count, rel=0.01)
    assert sum(file.stat().st_size for file in nano.iterdir()) < 12e6


def test_same_arguments_same_bytes(nano: Path, tmp_path: Path) -> None:
    def digest(folder: Path, name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    state = torch.get_rng_state()
    again, other = make_nano(tmp_path / "a", corpus=CORPUS), make_nano(tmp_path / "b", 1, corpus=CORPUS)
    assert torch.equal(state, torch.get_rng_state())
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert digest(again, name) == digest(nano, name)
    assert digest(other, "model.safetensors") != digest(nano, "model.safetensors")


def test_loads_by_the_auto_classes_and_generates(nano: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(nano)
    model = AutoModelForImageTextToText.from_pretrained(nano, dtype=torch.float32)
    assert type(model) is Qwen2_5_VLForConditionalGeneration
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    red, blue = (Image.new("RGB", (168, 112), colour) for colour in ("red", "blue"))
    one, two = inputs_for(processor, red), inputs_for(processor, blue, red)
    assert (one["input_ids"] == model.config.image_token_id).sum() == 6 * 4
    assert (two["input_ids"] == model.config.image_token_id).sum() == 2 * 6 * 4
    with torch.inference_mode():
        logits = model(**one).logits
        assert not torch.allclose(logits[0, -1], model(**inputs_for(processor, blue)).logits[0, -1], atol=1e-6)
        output = model.generate(**two, max_new_tokens=4)
    assert logits.shape == (1, one["input_ids"].shape[1], len(processor.tokenizer))
    assert two["input_ids"].shape[1] < output.shape[1] <= two["input_ids"].shape[1] + 4


def test_pixel_budget_is_kept(tmp_path: Path) -> None:
    folder = make_nano(tmp_path / "nano", corpus=[], max_pixels=28 * 28 * 12)
    grid = inputs_for(load_processor(folder), Image.new("RGB", (560, 560)))["image_grid_thw"][0]
    assert 0.5 * 12 <= int(grid.prod()) / 4 <= 12
    small = json.loads((folder / "processor_config.json").read_text())["image_processor"]["size"]
    assert small == {"shortest_edge": 3136, "longest_edge": 28 * 28 * 12}
    default = json.loads((make_nano(tmp_path / "b", corpus=[]) / "processor_config.json").read_text())
    assert default["image_processor"]["size"]["longest_edge"] == 12845056


IMAGE, VIDEO = {"type": "image"}, {"type": "video", "video": "a.mp4"}
TEXT = {"type": "text", "text": " how far? \n"}
CONVERSATIONS = {
    "string": [{"role": "user", "content": "How far?"}],
    "image": [{"role": "user", "content": [IMAGE, TEXT]}],
    "two images": [{"role": "user", "content": [IMAGE, {"type": "image_url", "image_url": {"url": "x"}}, TEXT]}],
    "image by key": [
        {"role": "user", "content": [{"type": "other", "image": "x"}, TEXT, {"type": "other", "text": "t"}]}
    ],
    "video": [{"role": "user", "content": [VIDEO, IMAGE, VIDEO, TEXT, {"type": "audio"}]}],
    "turns": [
        {"role": "user", "content": [IMAGE, TEXT]},
        {"role": "assistant", "content": [{"type": "text", "text": "4.20"}]},
        {"role": "user", "content": [IMAGE, TEXT]},
        {"role": "assistant", "content": "  5 < 6 & 'so'\n"},
    ],
    "own system": [{"role": "system", "content": "Be short."}, {"role": "user", "content": [IMAGE, TEXT]}],
    "system in parts": [{"role": "system", "content": [TEXT, TEXT]}, {"role": "user", "content": ""}],
    "late system": [{"role": "user", "content": []}, {"role": "system", "content": "Now."}],
}


@pytest.mark.parametrize("ask", [False, True])
@pytest.mark.parametrize("count", [False, True])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_chat_template_renders_as_qwens(processor: Any, name: str, count: bool, ask: bool) -> None:
    theirs = (files("trl") / "chat_templates" / "qwen2_5_vl.jinja").read_text(encoding="utf-8")
    assert processor.chat_template == CHAT_TEMPLATE
    ours, expected = (
        processor.tokenizer.apply_chat_template(
            CONVERSATIONS[name], chat_template=template, tokenize=False, add_generation_prompt=ask, add_vision_id=count
        )
        for template in (CHAT_TEMPLATE, theirs)
    )
    assert ours == expected


def test_bad_arguments_are_refused(nano: Path, tmp_path: Path) -> None:
    before = (nano / "model.safetensors").read_bytes()
    with pytest.raises(DepthLMError, match="holds a model already"):
        make_nano(nano, 7, corpus=[])
    assert (nano / "model.safetensors").read_bytes() == before
    with pytest.raises(DepthLMError, match="too small"):
        make_nano(tmp_path / "a", corpus=[], vocab_size=200)
    with pytest.raises(DepthLMError, match="float8"):
        make_nano(tmp_path / "a", corpus=[], dtype="float8")
    (tmp_path / "file").touch()
    with pytest.raises(DepthLMError, match="is a file"):
        make_nano(tmp_path / "file", corpus=[])
    assert not (tmp_path / "a").exists()


def test_vocabulary_is_limited() -> None:
    corpus = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)} other" for i in range(300)]
    assert len(make_tokenizer(corpus, 300)) == 300
    assert len(make_tokenizer([], 1024)) < 1024


def test_command_line(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    args = parser.parse_args(["nano", "--out", str(tmp_path / "nano"), "--seed", "3"])
    args.run(args)
    tokenizer = load_processor(tmp_path / "nano").tokenizer
    assert tokenizer.tokenize(" metres") == ["Ġmetres"], "the default corpus is the questions' own wording"
    assert len(tokenizer) <= 1024


def test_folders_without_a_vlm_are_refused(nano: Path, tmp_path: Path) -> None:
    def refused(reason: str, config: dict[str, object] | None) -> None:
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(DepthLMError, match=reason) as caught:
            load_model(tmp_path)
        assert caught.value.where == str(tmp_path)

    refused(r"has no config\.json", None)
    refused("no_such_type", {"model_type": "no_such_type"})
    refused("'qwen2'", {"model_type": "qwen2"})
    refused("no weights in safetensors", json.loads((nano / "config.json").read_text()))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DepthLMError):
        load_model(tmp_path)
    with pytest.raises(DepthLMError, match="has no processor"):
        load_processor(tmp_path)


def test_pickled_weights_are_not_read(nano: Path, tmp_path: Path) -> None:
    shutil.copytree(nano, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_model(nano).state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(DepthLMError, match="safetensors"):
        load_model(tmp_path / "pickled")


def test_broken_weights_are_named(nano: Path, tmp_path: Path) -> None:
    shutil.copytree(nano, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\x10\0\0\0")
    with pytest.raises(DepthLMError, match="broken: cannot be loaded"):
        load_model(tmp_path / "broken")


def test_a_text_tokenizer_is_not_a_processor(nano: Path, tmp_path: Path) -> None:
    shutil.copytree(nano, tmp_path / "text", ignore=shutil.ignore_patterns("processor_config.json"))
    with pytest.raises(DepthLMError, match="processor"):
        load_processor(tmp_path / "text")


def test_names(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "NANO", nano)
    assert resolve("nano") == str(nano)
    assert resolve("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"
    monkeypatch.setattr(loading, "NANO", tmp_path / "absent")
    for missing in ("nano", "./absent", "/a/b/c", "absent", tmp_path / "x"):
        with pytest.raises(DepthLMError):
            resolve(missing)


def test_dtype(nano: Path) -> None:
    assert load_model(nano).dtype == torch.bfloat16
    assert load_model(nano, torch.float32).dtype == torch.float32
    with pytest.raises(DepthLMError, match="fp7"):
        load_model(nano, "fp7")


def test_adapter_loads_and_merges(nano: Path, adapter: Path, processor: Any, tmp_path: Path) -> None:
    inputs = inputs_for(processor, Image.new("RGB", (56, 56), "green"))
    plain, tuned = load_model(nano, "float32"), load_model(adapter, "float32")
    trainable = load_model(nano, "float32", adapter=adapter, trainable=True)
    assert trainable.training
    assert any(weight.requires_grad for weight in trainable.parameters())
    assert not any(weight.requires_grad for weight in tuned.parameters())
    assert load_processor(adapter).chat_template == CHAT_TEMPLATE
    parser = argparse.ArgumentParser()
    add_merge(parser.add_subparsers())
    merged_folder = tmp_path / "merged"
    args = parser.parse_args(["merge", str(adapter), "--out", str(merged_folder), "--dtype", "float32"])
    args.run(args)
    merged = load_model(merged_folder, "float32")
    assert not (merged_folder / "adapter_config.json").exists()
    with torch.inference_mode():
        expected = tuned(**inputs).logits
        assert torch.allclose(merged(**inputs).logits, expected, atol=1e-4)
        assert not torch.allclose(plain(**inputs).logits, expected, atol=1e-2)
    assert load_processor(merged_folder).chat_template == CHAT_TEMPLATE
    assert [file.name for file in tmp_path.iterdir()] == ["merged"]
    with pytest.raises(DepthLMError, match="exists already"):
        merge_adapter(adapter, merged_folder)


def test_bad_adapters_are_refused(nano: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(DepthLMError, match="adapter_config"):
        merge_adapter(nano, tmp_path / "out")
    lost = shutil.copytree(adapter, tmp_path / "lost")
    settings_ = json.loads((lost / "adapter_config.json").read_text())
    (lost / "adapter_config.json").write_text(json.dumps(settings_ | {"base_model_name_or_path": "/gone/model"}))
    with pytest.raises(DepthLMError, match="/gone/model"):
        load_model(lost)
    (lost / "adapter_model.safetensors").unlink()
    with pytest.raises(DepthLMError, match=r"adapter_model\.safetensors"):
        load_model(nano, adapter=lost)
