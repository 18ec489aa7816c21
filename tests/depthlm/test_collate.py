"""The loss sees the answers and nothing else; training sees the tokens and positions that generation sees."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_frame

from depthlm.errors import DepthLMError
from depthlm.models.loading import load_model, load_processor
from depthlm.models.nano import make_nano
from depthlm.profiles import PROFILES
from depthlm.questions import KINDS
from depthlm.sample import Sample, Turn, make_sample
from depthlm.training.collate import IGNORED, Collator
from depthlm.training.dense_targets import GRID, MARK_COLOURS, dense_targets

NANO = PROFILES.get("nano")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_nano(tmp_path_factory.mktemp("nano") / "m", dtype="float32")


@pytest.fixture(scope="module")
def processor(folder):
    return load_processor(str(folder))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder), dtype="float32").eval()


def sample_of(kinds: list[str], frames: int = 1, seed: int = 0) -> Sample:
    views = [make_frame(f"v{i}", offset_m=0.5 * i, dense=True) for i in range(frames)]
    return make_sample(views, [KINDS.get(k) for k in kinds], np.random.default_rng(seed), NANO, dense=True)


@pytest.mark.parametrize(
    ("kinds", "frames"),
    [(["distance"], 1), (["distance", "speed", "axis_distance"], 1), (["camera_motion"], 2)],
)
def test_only_answers_are_supervised(processor, kinds, frames):
    sample = sample_of(kinds, frames)
    batch = Collator(processor)([sample])
    labels = batch["labels"][0]
    text = processor.tokenizer.decode(labels[labels != IGNORED])
    assert text == "".join(turn.answer + "<|im_end|>" for turn in sample.turns)
    supervised = labels != IGNORED
    assert (batch["input_ids"][0][supervised] == labels[supervised]).all()
    assert not (batch["mm_token_type_ids"][0][supervised] == 1).any()


def test_prompt_is_what_generation_gets(processor):
    sample = sample_of(["distance"])
    batch = Collator(processor)([sample])
    messages = sample.messages(upto=0)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    generation = processor(text=[text], images=sample.images, return_tensors="pt")
    length = generation["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][:, :length], generation["input_ids"])
    assert torch.equal(batch["mm_token_type_ids"][:, :length], generation["mm_token_type_ids"])
    assert torch.equal(batch["pixel_values"], generation["pixel_values"])


def test_padding_and_mixed_sizes_change_nothing(processor, model):
    short, long = sample_of(["distance"]), sample_of(["camera_motion"], frames=2)
    collate = Collator(processor)
    both, alone = collate([short, long]), collate([short])
    length = alone["input_ids"].shape[1]
    assert both["attention_mask"][0].sum() == length
    with torch.no_grad():
        labels = {"labels", "dense_log_z", "dense_marks"}
        together = model(**{k: v for k, v in both.items() if k not in labels}).logits[0, :length]
        single = model(**{k: v for k, v in alone.items() if k not in labels}).logits[0]
    assert torch.allclose(together, single, atol=1e-4)


def test_rows_are_padded_on_the_right_to_a_multiple(processor):
    samples = [sample_of(["distance"]), sample_of(["distance", "speed"])]
    plain, padded = Collator(processor)(samples), Collator(processor, pad_to_multiple_of=64)(samples)
    length, longer = plain["input_ids"].shape[1], padded["input_ids"].shape[1]
    assert longer % 64 == 0 and longer - 64 < length < longer
    for name in ("input_ids", "attention_mask", "labels", "mm_token_type_ids"):
        assert torch.equal(padded[name][:, :length], plain[name])
    assert (padded["input_ids"][:, length:] == processor.tokenizer.pad_token_id).all()
    assert (padded["labels"][:, length:] == IGNORED).all() and not padded["attention_mask"][:, length:].any()


def test_later_prompts_are_what_generation_gets(processor):
    """In a conversation of several turns, and with a system prompt of its own."""
    sample = dataclasses.replace(sample_of(["distance", "speed", "axis_distance"]), system="Answer in metres.")
    ids = Collator(processor)([sample])["input_ids"]
    for turn in range(3):
        text = processor.apply_chat_template(sample.messages(upto=turn), tokenize=False, add_generation_prompt=True)
        generation = processor(text=[text], images=sample.images, return_tensors="pt")["input_ids"]
        assert torch.equal(ids[:, : generation.shape[1]], generation)


def test_positions_in_training_are_those_of_generation(processor, model):
    """Without mm_token_type_ids the positions are silently one-dimensional."""
    sample = sample_of(["distance"])
    batch = Collator(processor)([sample])
    text = processor.apply_chat_template(sample.messages(upto=0), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=sample.images, return_tensors="pt")
    with torch.no_grad():
        trained = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        generated = model.generate(
            **inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True, do_sample=False
        ).logits[0]
        flat = model(**{k: v for k, v in batch.items() if k not in ("labels", "mm_token_type_ids")}).logits
    last = inputs["input_ids"].shape[1] - 1
    assert torch.allclose(trained[0, last], generated[0], atol=1e-5)
    assert not torch.allclose(trained[0, last], flat[0, last], atol=1e-3)


def test_a_resized_image_is_refused(processor):
    sample = sample_of(["distance"])
    odd = Sample([sample.images[0][:50, :60]], sample.turns, "odd", "d", ["f"])
    with pytest.raises(DepthLMError, match="resized"):
        Collator(processor)([odd])


def test_dense_targets_follow_the_tokens_row_by_row():
    depth = np.zeros((56, 84), np.float32)
    depth[:28, 28:56] = 2.0
    depth[28:, 56:] = 5.0
    depth[28:30, 56:58] = 0.0  # unknown pixels do not count
    turn = Turn("distance", "?", "1.00", 1.0, "m", [])
    sample = Sample(
        [np.zeros((56, 84, 3), np.uint8)], [turn], "i", "d", ["f"], depths=[depth], marks=[[("blue", 30.0, 40.0)]]
    )
    log_z, marks = dense_targets([sample], 28)
    assert log_z.isnan().all(1).tolist() == [True, False, True, True, True, False]
    assert log_z[[1, 5]].exp() == pytest.approx(np.repeat([[2.0], [5.0]], GRID * GRID, 1))
    assert marks.nonzero().tolist() == [[4, MARK_COLOURS.index("blue")]]


def test_the_squares_of_a_token_are_told_row_by_row():
    depth = np.full((28, 56), 1.0, np.float32)
    depth[7:14, 28 + 21 :] = 4.0  # second row, last column of the second token
    depth[:7, 28:35] = 0.0
    turn = Turn("distance", "?", "1.00", 1.0, "m", [])
    image = np.zeros((28, 56, 3), np.uint8)
    log_z, _ = dense_targets([Sample([image], [turn], "i", "d", ["f"], depths=[depth], marks=[[]])], 28)
    assert log_z[0].tolist() == [0.0] * GRID * GRID
    assert log_z[1].isnan().nonzero().flatten().tolist() == [0]
    assert log_z[1].nonzero().flatten().tolist() == [0, GRID + 3]
    assert log_z[1, GRID + 3].exp().item() == pytest.approx(4.0)


def test_image_features_are_in_the_order_of_the_targets(processor, model):
    """Change one cell of the image: the token that changes most is that cell's."""
    image = np.full((84, 112, 3), 128, np.uint8)
    other = image.copy()
    other[28:56, 84:112] = 255  # row 1, column 3 of 3 x 4
    grids = [processor.image_processor(images=[i], return_tensors="pt") for i in (image, other)]
    with torch.no_grad():
        a, b = (model.model.visual(g["pixel_values"], grid_thw=g["image_grid_thw"]).pooler_output for g in grids)
    assert int((a - b).norm(dim=1).argmax()) == 1 * 4 + 3
