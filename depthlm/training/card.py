"""The model card: what was trained on what, with which seeds, and what it scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from depthlm.models.asked_as import AskedAs
from depthlm.spatial.attach import attached, encoder_name
from depthlm.spatial.settings import SPATIAL_FILE
from depthlm.suite import Suite
from depthlm.training.arguments import DataArguments

ADAPTER, FULL, MERGED = "LoRA adapter", "full model", "merged model"

# What of a run's folder is not pushed: notes of this machine, other models, event files that carry the host's name.
STAYS = ("_*", "checkpoint-*", "best/*", "init/*", "runs/*")

CARD = """\
---
{base_line}library_name: {library}
pipeline_tag: image-text-to-text
tags: [depthlm, metric-depth, {method}]
---
# {title}

{made}, to answer metric questions about marked pixels of an image, in metres, m/s and seconds.

| | |
|---|---|
| saved as | {form} |
| data | {stores} |
| question kinds | {mix} |
| points per image | {points} |
| asked with profile | `{profile}`, intrinsics `{intrinsics}` |
| augmentation | {augmentation} |
{spatial}| training | {steps} steps of {batch}, learning rate {rate:g} ({schedule}) |
| seeds | {seed} (training), {sample_seed} (samples) |
| training {measure}, first and last logged | {first} → {last} |

{scores}Ask it as it was trained: images of the profile's focal length with the profile's markers, which
`depthlm data freeze --profile {profile}` and `depthlm eval run` do. `trainer_state.json` holds the whole loss curve.
"""
SCORES = """\
δ1 on {count} questions of the suite `{suite}` (hash `{hash}`), asked by generation in the middle of training:

| step | {heads} |
|---|{rule}
{rows}

"""


@dataclass(frozen=True)
class Card:
    """What a model card tells beside what the trainer knows.

    Args:
        base: name of the model that was trained, of a folder only its last part is told; empty: from random weights.
        form: what is saved: ``ADAPTER``, ``FULL`` or ``MERGED``.
        method: "sft" or "grpo".
        rewards: of GRPO, with their weights.
    """

    base: str
    form: str
    method: str
    data: DataArguments
    rewards: str = ""


class CardTrainer:
    """Mixin before a TRL trainer: the card in every checkpoint, at the end and on the hub is this package's, no pickle
    of this machine's settings is saved (what is worth knowing of them is in _run.json), and what is pushed is one model
    that names no folder and no host of this machine."""

    def __init__(self, *args: Any, card: Card, **kw: Any) -> None:
        self.card = card
        super().__init__(*args, **kw)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        trainer: Any = self
        if trainer.is_world_process_zero():
            self._write_card(Path(trainer.args.output_dir))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **_: Any,
    ) -> Any:
        trainer: Any = self
        trainer.save_model(_internal_call=True)
        if not trainer.is_world_process_zero():
            return None
        return HfApi().upload_folder(
            repo_id=trainer.hub_model_id,
            folder_path=trainer.args.output_dir,
            commit_message=commit_message,
            token=token or trainer.args.hub_token,
            run_as_future=not blocking,
            ignore_patterns=list(STAYS),
            revision=revision or trainer.args.hub_revision,
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        trainer: Any = super()
        trainer._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)  # type: ignore[attr-defined]
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        self._write_card(folder)  # PEFT has just written its own
        settings = attached(self.model) if self.card.form == ADAPTER else None  # type: ignore[attr-defined]
        (folder / SPATIAL_FILE).unlink(missing_ok=True)  # an earlier run's would be taken for this one's
        if settings is not None:
            settings.save(folder)

    def _write_card(self, folder: Path) -> None:
        trainer: Any = self
        write_card(folder, self.card, trainer.args, trainer.state, trainer.suite, encoder_name(trainer.model))


def write_card(
    folder: Path,
    card: Card,
    args: TrainingArguments,
    state: TrainerState,
    suite: Suite | None = None,
    encoder: str | None = None,
) -> None:
    """Write the model card, ``README.md``, and for programs how the model wants to be asked, ``depthlm.json``.

    Args:
        suite: what was asked in the middle of training, if anything.
        encoder: name of the model's spatial encoder, if it has one.
    """
    measure = "reward" if card.rewards else "loss"  # the loss of a policy gradient tells nothing
    logged = [f"{float(row[measure]):.3f}" for row in state.log_history if measure in row] or ["–"]
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    answers = getattr(args, "num_generations", 1) if card.rewards else 1
    told = f"{batch} samples each" if answers == 1 else f"{batch // answers} questions with {answers} answers each"
    name = Path(card.base).name if Path(card.base).is_dir() else card.base
    data = card.data
    text = CARD.format(
        # the hub links it, and refuses a name that it does not know
        base_line=f"base_model: {name}\n" if "/" in name else "",
        made=f"{name} fine-tuned" if name else "A nano Qwen2.5-VL trained from random weights",
        library="peft" if card.form == ADAPTER else "transformers",
        title=Path(args.output_dir).resolve().name,
        form=card.form,
        method=card.method,
        stores=_shares([Path(store).resolve().name for store in data.stores], data.weights),
        mix=data.mix or "all six equally",
        points=data.points_per_image,
        profile=data.profile,
        intrinsics=data.intrinsics,
        augmentation=data.augmentation_words(),
        spatial=f"| spatial encoder | {encoder} |\n" if encoder else "",
        steps=state.global_step,
        batch=told + (f", rewards {card.rewards}" if card.rewards else ""),
        measure=measure,
        rate=args.learning_rate,
        schedule=getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type),
        seed=args.seed,
        sample_seed=data.sample_seed,
        first=logged[0],
        last=logged[-1],
        scores=_scores(state, suite) if suite else "",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text, encoding="utf-8")
    AskedAs(data.profile, data.intrinsics, data.pointing).save(folder)


def _shares(names: Sequence[str], weights: Sequence[float] | None) -> str:
    if not weights:
        return ", ".join(names)
    return ", ".join(f"{name} ({weight / sum(weights):.0%})" for name, weight in zip(names, weights, strict=True))


def _scores(state: TrainerState, suite: Suite) -> str:
    """The last evaluation, and the best one where that is another."""
    asked = [row for row in state.log_history if "eval_delta1" in row]
    if not asked:
        return ""
    best = max(asked, key=lambda row: row["eval_delta1"])
    keys = [key for key in asked[-1] if key.startswith("eval_delta1")]
    heads = [key.removeprefix("eval_delta1").strip("_").replace("_", " ") or "all" for key in keys]
    shown = [asked[-1]] if best is asked[-1] else [best, asked[-1]]
    rows = [
        f"| {row['step']}{' (best)' if row is best else ''} | {' | '.join(f'{row[key]:.3f}' for key in keys)} |"
        for row in shown
    ]
    return SCORES.format(
        count=len(suite.items),
        suite=suite.name,
        hash=suite.hash,
        heads=" | ".join(heads),
        rule="---|" * len(heads),
        rows="\n".join(rows),
    )
