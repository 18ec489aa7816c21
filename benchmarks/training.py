"""A step of our SFT against TRL's stock loop on the nano model, and how long training waits for data.

    python benchmarks/training.py --steps 30 --workers 2

The first part has samples decoded and rendered already: ours goes through our collator, the stock loop through TRL's
own for vision-language data, same model, same conversations, same batch. Rounds alternate; the ratio is of the medians
over all steps but the first five of each. The second part trains from a store, decoding and rendering in loader
processes, and gives the share of the time in which the trainer waited for its batch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from data_gen.curate import curate
from data_gen.readers.procedural import ProceduralReader
from depthlm.dataset import DataConfig, SampleDataset
from depthlm.models.loading import load_model, load_processor
from depthlm.training.arguments import DataArguments
from depthlm.training.card import FULL, Card
from depthlm.training.collate import Collator
from depthlm.training.run import as_training_data, configure
from depthlm.training.suite_evaluation import SuiteSFTTrainer

BATCH, WARM_UP = 16, 5
STOCK = "TRL's stock loop"


class Clock(TrainerCallback):
    """When each step began (its batch was there) and ended."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.ended: list[float] = []

    def on_step_begin(self, *args: Any, **kw: Any) -> None:
        self.began.append(time.perf_counter())

    def on_step_end(self, *args: Any, **kw: Any) -> None:
        self.ended.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of whole steps, data and all."""
        return [b - a for a, b in zip(self.ended[WARM_UP:-1], self.ended[WARM_UP + 1 :], strict=True)]

    def waiting(self) -> float:
        """Share of the time between a step's end and the next one's batch."""
        gaps = [b - a for a, b in zip(self.ended[WARM_UP:-1], self.began[WARM_UP + 1 :], strict=True)]
        return sum(gaps) / (self.ended[-1] - self.ended[WARM_UP])


def settings(folder: Path, steps: int, **more: Any) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=1000,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        **more,
    )


def ours(folder: Path, steps: int, data: Any, workers: int = 0) -> Clock:
    args = settings(folder, steps, dataloader_num_workers=workers)
    configure(args)
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    return run(SuiteSFTTrainer, args, data, data_collator=Collator(load_processor("nano")), card=CARD)


def stock(folder: Path, steps: int, samples: list[Any]) -> Clock:
    rows = [
        {"messages": sample.messages(), "images": [Image.fromarray(image) for image in sample.images]}
        for sample in samples
    ]

    def decoded(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {name: [rows[i][name] for i in batch["index"]] for name in rows[0]}

    data = Dataset.from_dict({"index": list(range(len(rows)))}).with_transform(decoded)
    kept = {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return run(SFTTrainer, settings(folder, steps, **kept), data)


CARD = Card("nano", FULL, "sft", DataArguments())


def run(kind: Any, args: SFTConfig, data: Any, **more: Any) -> Clock:
    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer = kind(
            model=load_model("nano", dtype="float32", trainable=True),
            args=args,
            train_dataset=data,
            processing_class=load_processor("nano"),
            callbacks=[clock],
            **more,
        )
        trainer.train()
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="steps of each run (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="times each is run (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of the second part (default: 2)")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stderr(io.StringIO()):
            curate(ProceduralReader(60, views=3, width=320, height=240), folder / "store")
        config = DataConfig([str(folder / "store")], profile="nano", points_per_image=3)
        samples = SampleDataset(config, args.steps * BATCH)
        rendered = [samples[i] for i in range(len(samples))]
        times: dict[str, list[float]] = {"ours": [], STOCK: []}
        for _ in range(args.rounds):
            times["ours"] += ours(folder / "out", args.steps, as_training_data(rendered)).seconds()
            times[STOCK] += stock(folder / "out", args.steps, rendered).seconds()
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        for name, median in medians.items():
            ratio = medians[STOCK] / median
            print(f"{name:18} {1000 * median:7.1f} ms a step of {BATCH}   x{ratio:.2f}")
        clock = ours(folder / "out", args.steps, as_training_data(samples), args.workers)
        print(f"from a store, {args.workers} loader processes: {clock.waiting():.1%} of the time waiting for data")


if __name__ == "__main__":
    main()
