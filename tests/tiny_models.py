"""Tiny models with random weights of every architecture that the recipes train, each as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, processors
from transformers import (
    Dinov2Config,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from depthlm.models.nano import END, PAD, make_processor, make_tokenizer, nano_config, question_corpus
from depthlm.spatial.config import SpatialEncoderConfig
from depthlm.spatial.encoder import SpatialEncoder

ARCHITECTURES = ("qwen2.5-vl", "qwen3-vl", "pixtral")
LAYERS = 2  # of text and of vision each
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 8192}

# What Qwen3-VL's own writes of such chats: no system prompt where none is given.
QWEN3_VL_TEMPLATE = r"""
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""

# The traps of Pixtral's first template: a text under `content`, bare strings elsewhere, the system prompt in the last
# turn, and a beginning that its tokenizer adds as well.
PIXTRAL_TEMPLATE = r"""
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- set turns = messages[1:] if system else messages -%}
{{- bos_token -}}
{%- for message in turns -%}
    {%- if message.role == 'user' -%}
        {{- '[INST]' -}}
        {%- if loop.last and system -%}
            {{- system + '\n\n' -}}
        {%- endif -%}
        {%- if message.content is string -%}
            {{- message.content -}}
        {%- else -%}
            {%- for part in message.content -%}
                {{- '[IMG]' if part.type == 'image' else part.content -}}
            {%- endfor -%}
        {%- endif -%}
        {{- '[/INST]' -}}
    {%- else -%}
        {{- message.content + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
# Later releases read the usual form of a part; the rest is the same.
PIXTRAL_LATER_TEMPLATE = PIXTRAL_TEMPLATE.replace("part.content -", "part.text -")
PIXTRAL_TOKENS = ("<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")


def make_tiny(path: Path, architecture: str, seed: int = 0) -> Path:
    """Write a model, its tokenizer and its processor, as released checkpoints of the architecture have them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor, ends = MAKERS[architecture]()
    pad = processor.tokenizer.pad_token_id
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=pad)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def _qwen2_5_vl() -> tuple[Any, Any, list[int]]:
    tokenizer = make_tokenizer(question_corpus(), 512)
    config = nano_config(tokenizer)
    config.vision_config.depth = config.text_config.num_hidden_layers = LAYERS
    config.text_config.layer_types = config.text_config.layer_types[:LAYERS]
    model = Qwen2_5_VLForConditionalGeneration(config)
    return model, make_processor(tokenizer), tokenizer.convert_tokens_to_ids([END, PAD])


def _qwen3_vl() -> tuple[Any, Any, list[int]]:
    tokenizer = make_tokenizer(question_corpus(), 512)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision = {"depth": LAYERS, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64}
    # not as many as there are text layers: what is added to visual tokens after the last one nobody reads
    vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
    config = Qwen3VLConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "tie_word_embeddings": True},
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    mean = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    images = Qwen2VLImageProcessor(size=size, patch_size=16, merge_size=2, image_mean=mean, image_std=mean)
    processor = Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=QWEN3_VL_TEMPLATE)
    return Qwen3VLForConditionalGeneration(config), processor, [ids[END], ids[PAD]]


def _pixtral() -> tuple[Any, Any, list[int]]:
    backend = make_tokenizer(question_corpus(), 512).backend_tokenizer
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in PIXTRAL_TOKENS])
    begin = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )
    vision = {"model_type": "pixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS}
    vision |= {"num_attention_heads": 4, "image_size": 1024, "patch_size": 16}
    config = LlavaConfig(
        text_config=TEXT | {"model_type": "mistral", "vocab_size": len(tokenizer), "sliding_window": None},
        vision_config=vision,
        image_token_index=backend.token_to_id("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = PixtralProcessor(PixtralImageProcessor(), tokenizer, patch_size=16, chat_template=PIXTRAL_TEMPLATE)
    return LlavaForConditionalGeneration(config), processor, [tokenizer.eos_token_id]


MAKERS = {"qwen2.5-vl": _qwen2_5_vl, "qwen3-vl": _qwen3_vl, "pixtral": _pixtral}


def open_fusion(model: Any, scale: float = 1.0) -> None:
    """Let what the encoder knows through, always in the same way."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for weight in model.model.fusion.second.parameters():
            weight.data.normal_(std=scale)


def tiny_encoder(folder: Path) -> Path:
    """A spatial encoder with random weights, always the same; an image is cut into about 40 patches."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 84, "patch_size": 14}
    config = SpatialEncoderConfig(backbone_config=Dinov2Config(**sizes, mlp_ratio=2).to_dict(), num_tokens=40)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        SpatialEncoder(config).save_pretrained(folder)
    return folder
