"""vLLM serves the fused model through the plugin: the same greedy tokens as transformers', with its caches on."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from conftest import encode_png
from numpy.typing import NDArray
from tiny_models import open_fusion
from transformers import DINOv3ViTConfig

from depthlm.models.loading import load_model, load_processor
from depthlm.serving.vllm_process import VLLMServer
from depthlm.spatial.config import SpatialEncoderConfig
from depthlm.spatial.encoder import SpatialEncoder
from depthlm.spatial.settings import SpatialSettings

TOKENS = 12


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano model with a tiny DINOv3 and a fusion that is wide open: without it the answers would be others."""
    folder = tmp_path_factory.mktemp("fused")
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    backbone = DINOv3ViTConfig(**sizes, patch_size=16, num_register_tokens=2, use_gated_mlp=True, hidden_act="silu")
    SpatialEncoder(SpatialEncoderConfig(backbone_config=backbone.to_dict(), num_tokens=40)).save_pretrained(
        folder / "encoder"
    )
    model = load_model("nano", "float32", spatial=SpatialSettings(str(folder / "encoder")))
    open_fusion(model)
    model.save_pretrained(folder / "model")
    load_processor("nano").save_pretrained(folder / "model")
    return folder / "model"


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


QUESTIONS: list[list[NDArray[np.uint8]]] = [
    [noise(112, 168, 1)],
    [noise(168, 112, 2), noise(112, 168, 1)],
    [noise(112, 168, 3)],
    [noise(112, 168, 1)],  # the first again: from the prefix cache
]


def by_transformers(folder: Path, images: list[NDArray[np.uint8]], spatial: bool = True) -> list[int]:
    processor = load_processor(folder)
    model = load_model(folder, "float32") if spatial else load_model("nano", "float32")
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": "How far is it?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=[text], images=[images], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def by_vllm(server: VLLMServer, images: list[NDArray[np.uint8]]) -> list[int]:
    urls = ["data:image/png;base64," + base64.b64encode(encode_png(image)).decode() for image in images]
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = {
        "model": server.model_name,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": "How far is it?"}]}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=300).raise_for_status().json()
    return list(answer["choices"][0]["token_ids"])


@pytest.mark.slow
def test_served_by_vllm_with_the_tokens_of_transformers(model_folder: Path, tmp_path: Path) -> None:
    """With chunked prefill (160 tokens at a time) and the prefix cache."""
    wanted = [by_transformers(model_folder, images) for images in QUESTIONS]
    assert wanted != [by_transformers(model_folder, images, spatial=False) for images in QUESTIONS]
    log = tmp_path / "vllm.log"
    arguments = ["--max-num-batched-tokens", "160", "--enable-prefix-caching", "--enable-chunked-prefill"]
    with VLLMServer(model_folder, max_model_len=512, extra_args=arguments, log=log) as server:
        found = [by_vllm(server, images) for images in QUESTIONS]
    assert found == wanted, log.read_text(encoding="utf-8")[-3000:]
