"""The nano model: a real Qwen2.5-VL of four million parameters, made locally, so that nothing needs a model hub.

It has the architecture class, special tokens, chat template, one-token-a-digit rule and processor of the models it
stands for; a user changes only the name of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.cli import manual
from depthlm.errors import DepthLMError

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2Tokenizer

logger = logging.getLogger(__name__)

PAD = "<|endoftext|>"
END = "<|im_end|>"
# In the order of the published vocabulary; 256 byte tokens and the learned merges come before them.
SPECIAL_TOKENS = (
    PAD,
    "<|im_start|>",
    END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MIN_PIXELS = 3136
MAX_PIXELS = 12845056
MAX_POSITIONS = 8192

# Renders what Qwen2.5-VL's own template renders. Image and video parts are recognised by their type, or by the key
# that carries them in the OpenAI chat format. vLLM decides how to hand over images by looking for the inner loop.
CHAT_TEMPLATE = r"""
{%- set seen = namespace(images=0, videos=0) -%}
{%- if messages and messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
                {%- set seen.images = seen.images + 1 -%}
                {{- ('Picture ' ~ seen.images ~ ': ') if add_vision_id else '' -}}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part['type'] == 'video' or 'video' in part -%}
                {%- set seen.videos = seen.videos + 1 -%}
                {{- ('Video ' ~ seen.videos ~ ': ') if add_vision_id else '' -}}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""

# Words of the chat format itself, which no question holds.
FRAME_CORPUS = ("system\n", "user\n", "assistant\n", "You are a helpful assistant.")


def make_nano(
    path: str | Path,
    seed: int = 0,
    corpus: Iterable[str] | None = None,
    vocab_size: int = 1024,
    *,
    max_pixels: int = MAX_PIXELS,
    dtype: str = "bfloat16",
    overwrite: bool = False,
) -> Path:
    """Write a nano model with random weights, its tokenizer and its processor as a Hugging Face folder.

    The same arguments give the same bytes of weights and tokenizer.

    Args:
        path: the folder to write; made if absent.
        seed: of the weights.
        corpus: texts from which the tokenizer's merges are learned; None: the wording of the package's questions.
        vocab_size: at most so many tokens, special ones included; fewer when the corpus yields fewer merges.
        max_pixels: area above which the processor shrinks an image; Qwen2.5-VL's own limit by default.
        dtype: of the stored weights: "bfloat16" or "float32".
        overwrite: replace a model that is already there.

    Returns:
        The folder.

    Raises:
        DepthLMError: ``path`` is a file or holds a model already, or ``vocab_size`` or ``dtype`` is not possible.
    """
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    out = Path(path)
    _check(out, vocab_size, dtype, overwrite)
    tokenizer = make_tokenizer(question_corpus() if corpus is None else corpus, vocab_size)
    config = nano_config(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).to(getattr(torch, dtype))
    ends = tokenizer.convert_tokens_to_ids([END, PAD])
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=ends[1])
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    make_processor(tokenizer, max_pixels).save_pretrained(out)
    logger.info("wrote a nano model of %.2f M parameters to %s", model.num_parameters() / 1e6, out)
    return out


def _check(out: Path, vocab_size: int, dtype: str, overwrite: bool) -> None:
    """Refuse arguments of `make_nano` that cannot be met, before anything is written."""
    least = 256 + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise DepthLMError("vocab_size", f"{vocab_size} is too small", f"{least} hold the bytes and special tokens")
    if dtype not in ("bfloat16", "float32"):
        raise DepthLMError("dtype", f"{dtype!r} is not known", "bfloat16 or float32")
    if out.exists() and not out.is_dir():
        raise DepthLMError(out, "is a file", "give a folder")
    if (out / "config.json").exists() and not overwrite:
        raise DepthLMError(out, "holds a model already", "give another folder, or ask to overwrite")


def question_corpus() -> list[str]:
    """The texts of the package's own questions and answers, from which the tokenizer learns its words."""
    from depthlm.questions import corpus

    return corpus()


def make_tokenizer(corpus: Iterable[str], vocab_size: int = 1024) -> Qwen2Tokenizer:
    """Learn a byte-level BPE tokenizer with Qwen2's splitting rule: a digit is always a token of its own.

    All 256 bytes are tokens, so any text comes back as its NFC form (Qwen2 normalises to NFC).
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The class itself brings the normaliser, the splitting rule and the decoder; only the merges are learned here.
    learner = Qwen2Tokenizer(vocab={char: i for i, char in enumerate(alphabet)}).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    learner.train_from_iterator([*FRAME_CORPUS, *corpus], trainer)
    vocab, merges = _learned(learner)
    return Qwen2Tokenizer(
        vocab=vocab | {token: len(vocab) + i for i, token in enumerate(SPECIAL_TOKENS)},
        merges=merges,
        eos_token=END,
        pad_token=PAD,
        unk_token=None,
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def _learned(learner: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges of a trained `tokenizers.Tokenizer`, numbered from 0 without gaps."""
    import json

    model = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokens = [token for token in sorted(model["vocab"], key=model["vocab"].__getitem__) if token not in SPECIAL_TOKENS]
    return {token: i for i, token in enumerate(tokens)}, merges


def nano_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """The architecture: three text layers and four vision layers, both 192 wide, tied embeddings."""
    from transformers import Qwen2_5_VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        "bos_token_id": ids[PAD],
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 4,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_heads": 6,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
        "out_hidden_size": 192,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def make_processor(tokenizer: Qwen2Tokenizer, max_pixels: int = MAX_PIXELS) -> Qwen2_5_VLProcessor:
    """Image, video and text processing in one; an image's sides become multiples of 28 within the pixel budget."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    # `size` is given whole: the limits given singly would be written into the class's shared default.
    images = Qwen2VLImageProcessor(size={"shortest_edge": MIN_PIXELS, "longest_edge": max_pixels})
    videos = Qwen2VLVideoProcessor(size={"shortest_edge": MIN_PIXELS, "longest_edge": max_pixels})
    return Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=CHAT_TEMPLATE)


NANO = """\
Four million parameters in the architecture, chat format and processor of Qwen2.5-VL: for tests, and to pretrain from.
The name `nano` in place of a model's folder is the one that comes with the package, already trained.
"""
NANO_EXAMPLES = """\
  depthlm nano --out runs/nano-init --seed 1
"""


def add(subparsers: Any) -> None:
    """Add ``depthlm nano`` to the command line."""
    parser = manual(subparsers, "nano", "Make a nano Qwen2.5-VL with random weights.", NANO, NANO_EXAMPLES)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is already there")
    parser.set_defaults(run=lambda args: make_nano(args.out, args.seed, overwrite=args.overwrite))
