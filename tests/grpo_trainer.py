"""TRL's GRPO trainer over a few questions about a store, as the recipe sets it up, on the CPU."""

from pathlib import Path
from typing import Any

from trl import GRPOConfig, GRPOTrainer

from depthlm.dataset import DataConfig, SampleDataset
from depthlm.training.rewards import reward_functions
from depthlm.training.run import as_prompts

SEED = 3  # by which the questions have one image and two, and images of two sizes
ANSWERS = 2  # to each question
TOKENS = 8  # of an answer, at most


def trainer_of(
    model: Any, processor: Any, store: Path, out: Path, mix: dict[str, float], questions: int = 4, **more: Any
) -> GRPOTrainer:
    """A trainer that has not begun; ``more`` goes to GRPOConfig."""
    samples = SampleDataset(DataConfig([str(store)], mix=mix, profile="nano", seed=SEED), questions)
    functions, weights = reward_functions({"delta1": 1.0})
    args = GRPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=ANSWERS * questions,
        num_generations=ANSWERS,
        max_completion_length=TOKENS,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        reward_weights=weights,
        shuffle_dataset=False,
        remove_unused_columns=False,
        **more,
    )
    return GRPOTrainer(
        model=model, reward_funcs=functions, args=args, train_dataset=as_prompts(samples), processing_class=processor
    )
