"""Reinforce a vision-language model's metric answers with GRPO, on the questions that SFT draws from frame stores.

    accelerate launch recipes/grpo.py --config recipes/configs/grpo_qwen2_5_vl_3b.yaml --stores my-store

The arguments are TRL's GRPOConfig and ModelConfig, `depthlm.training.arguments.DataArguments` and the rewards. It
starts from a model, or from an SFT adapter's folder, which then goes on training. Run again after a stop, it goes on
from its last whole checkpoint. DepthLM found SFT to reach the same accuracy per sample in an eighth to a sixteenth of
the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import set_seed
from trl import GRPOConfig, GRPOTrainer, ModelConfig

from depthlm.dataset import SampleDataset
from depthlm.errors import DepthLMError
from depthlm.models.loading import adapter_base, is_adapter, load_processor, resolve, spatial_settings
from depthlm.spatial.attach import is_fused, settle_spatial
from depthlm.suite import Suite
from depthlm.training.arguments import DataArguments, check, check_machine, parse_mix
from depthlm.training.card import ADAPTER, FULL, Card, CardTrainer
from depthlm.training.command import parse, run_command
from depthlm.training.rewards import reward_functions
from depthlm.training.rollouts import UnexpandedPrompts, check_colocated
from depthlm.training.run import (
    StopOnNaN,
    as_prompts,
    causes_told,
    configure,
    last_whole_checkpoint,
    load_policy,
    new_adapter,
    same_run,
    save_run,
    settings,
)
from depthlm.training.suite_evaluation import SuiteEvaluation, evaluate_on, keep_best

# What makes two runs of GRPO different ones, beside what it shares with SFT.
DIFFERENT = ("num_generations", "num_iterations", "steps_per_generation", "beta", "temperature", "scale_rewards")


class SuiteGRPOTrainer(CardTrainer, SuiteEvaluation, GRPOTrainer):
    """GRPO with a suite asked in the middle, this package's model card, and images as colocated vLLM takes them."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        if is_colocated(self.args):
            generation, processor = self.vllm_generation, self.processing_class
            generation.llm = UnexpandedPrompts(generation.llm, processor.image_token_id)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        model = self.accelerator.unwrap_model(self.model if model is None else model)
        if isinstance(model, PeftModel):
            # With beta TRL keeps the start as a second adapter, in a folder of its own; the Trainer then loads folders
            # alone, and would go on from the start.
            weights = load_peft_weights(resume_from_checkpoint, device=str(self.args.device))
            set_peft_model_state_dict(model, weights, adapter_name="default")


@dataclass
class RewardArguments:
    """What an answer is worth."""

    rewards: str = field(
        default="negative_l1=1,format=0.2",
        metadata={"help": "rewards and weights, name=weight,…: see depthlm.training.rewards; delta1 is always logged"},
    )


def main() -> None:
    data_args, reward_args, args, model_args = parse(DataArguments, RewardArguments, GRPOConfig, ModelConfig)
    refuse(data_args, args, str(model_args.model_name_or_path))
    check(data_args, model_args)
    check_machine(args)
    mix = parse_mix(reward_args.rewards)
    rewards, args.reward_weights = reward_functions(mix if "delta1" in mix else mix | {"delta1": 0.0})
    set_seed(args.seed)
    samples = SampleDataset(data_args.data_config(), count=1)
    samples.count = prompts_needed(args, samples.epoch_length)
    configure(args)
    args.shuffle_dataset = False  # sample i is already a random one; resuming skips by index
    suite = evaluate_on(args, data_args)
    output = Path(args.output_dir)
    own = {name: getattr(args, name) for name in DIFFERENT} | {"rewards": reward_args.rewards}
    with args.main_process_first(desc="output folder"):
        if args.should_save:
            same_run(output, settings(data_args, model_args, args, suite, **own))
    with causes_told(output):
        reinforce(samples, suite, rewards, data_args, reward_args, args, model_args)


def reinforce(
    samples: SampleDataset,
    suite: Suite | None,
    rewards: Any,
    data_args: DataArguments,
    reward_args: RewardArguments,
    args: GRPOConfig,
    model_args: ModelConfig,
) -> None:
    """Load, train and save."""
    name = str(model_args.model_name_or_path)
    started_from_adapter = is_adapter(name)
    adapts = model_args.use_peft or started_from_adapter
    start = adapter_base(name) if started_from_adapter else resolve(name)
    checkpoint = last_whole_checkpoint(Path(args.output_dir))
    model = load_policy(name, model_args, args, data_args, checkpoint=None if adapts else checkpoint)
    if args.beta and is_fused(model) and not adapts:
        mend = "set beta to 0, or train an adapter: --use_peft true"
        raise DepthLMError("beta", "TRL can't load a model with a spatial encoder a second time as its reference", mend)
    model.config._name_or_path = start  # what TRL takes as the reference of beta: never a checkpoint
    processor = load_left_padded(name, model_args.model_revision)
    if is_colocated(args):
        check_colocated(processor)
        model.name_or_path = start  # what vLLM loads
    trainer = SuiteGRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=args,
        train_dataset=as_prompts(samples),
        processing_class=processor,
        peft_config=None if started_from_adapter else new_adapter(model, model_args, data_args),
        callbacks=[StopOnNaN()],
        suite=suite,
        profile=data_args.profile,
        card=Card(name, ADAPTER if adapts else FULL, "grpo", data_args, reward_args.rewards),
    )
    settle_spatial(trainer.model)
    trainer.train(resume_from_checkpoint=checkpoint)
    keep_best(trainer)
    save_run(trainer, data_args)


def refuse(data_args: DataArguments, args: GRPOConfig, start: str) -> None:
    """Settings that are SFT's alone, or are given another way.

    Args:
        start: the model, or adapter, that is trained.

    Raises:
        DepthLMError: naming the setting.
    """
    if data_args.points_per_image != 1:
        raise DepthLMError("points_per_image", f"is {data_args.points_per_image}", "GRPO asks one question a sample: 1")
    if data_args.dense_targets:
        raise DepthLMError("dense_targets", "are for supervised pretraining", "leave them out")
    fused = data_args.spatial_encoder is not None or (is_adapter(start) and spatial_settings(start) is not None)
    if args.use_vllm and fused:
        mend = "train it by sft.py, merge it (depthlm merge), and start from the merged folder: vLLM serves that"
        raise DepthLMError("use_vllm", "vLLM would load the base without the spatial encoder", mend)
    if args.reward_weights is not None:
        raise DepthLMError("reward_weights", "are given with the rewards", "--rewards name=weight,name=weight")


def is_colocated(args: GRPOConfig) -> bool:
    """Whether vLLM answers in the trainer's own process."""
    return bool(args.use_vllm and args.vllm_mode == "colocate")


def load_left_padded(name: str, revision: str = "main") -> Any:
    """The processor, padding on the left: TRL pads prompts there, and takes the image tokens' places as they come."""
    processor = load_processor(name, revision)
    processor.tokenizer.padding_side = "left"
    return processor


def prompts_needed(args: GRPOConfig, per_epoch: int) -> int:
    """Questions of the whole run; each is answered ``num_generations`` times, for ``num_iterations`` updates."""
    at_once = args.generation_batch_size // args.num_generations
    if args.max_steps <= 0:
        return math.ceil(per_epoch * args.num_train_epochs)
    batches = args.max_steps * args.gradient_accumulation_steps
    return at_once * math.ceil(batches / (args.steps_per_generation * args.num_iterations))


if __name__ == "__main__":
    run_command(main)
