"""What a fine-tuning recipe is told beyond TRL's own arguments."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field

from peft import LoraConfig
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import is_flash_attn_2_available
from trl import ModelConfig, get_peft_config

from depthlm.augment import Augmentation
from depthlm.dataset import DataConfig
from depthlm.errors import DepthLMError
from depthlm.models.architectures import LANGUAGE_LAYERS, MERGER_LAYERS, VISION_LAYERS
from depthlm.models.loading import is_adapter
from depthlm.pairs import PairRule
from depthlm.spatial.settings import FUSION, SpatialSettings

logger = logging.getLogger(__name__)

# What of a model with a spatial encoder no LoRA is put on, whatever layers a user names.
FROZEN_OR_WHOLE = r".*(spatial_encoder|fusion)\..*"


@dataclass
class SampleArguments:
    """Where the samples come from and how the model is asked."""

    stores: list[str] = field(default_factory=list, metadata={"help": "frame store folders"})
    weights: list[float] | None = field(
        default=None, metadata={"help": "share of samples from each store; default: by its number of frames"}
    )
    mix: str | None = field(
        default=None, metadata={"help": "question kinds and weights, kind=weight,…; default: all six equally"}
    )
    points_per_image: int = field(default=1, metadata={"help": "marked points asked in one conversation"})
    samples_per_image: int = field(
        default=1, metadata={"help": "samples made from one decoded image, spread over many batches; more decode less"}
    )
    pair_overlap: list[float] = field(
        default_factory=lambda: [PairRule.min_overlap, PairRule.max_overlap],
        metadata={"help": "two-image questions: least and largest share of points that both images see"},
    )
    pair_motion_m: float = field(
        default=PairRule.min_motion_m, metadata={"help": "two-image questions: least motion of the camera, metres"}
    )
    profile: str = field(
        default="qwen2.5-vl", metadata={"help": "how the model is asked: qwen2.5-vl, qwen3-vl, pixtral, nano"}
    )
    intrinsics: str = field(default="normalize", metadata={"help": "normalize, text, both or none"})
    pointing: str = field(default="marker", metadata={"help": "how a question points at a pixel: marker, coordinates"})
    reasoned: bool = field(
        default=True,
        metadata={"help": "speed and time: state the distance first, then divide; false: the number alone"},
    )
    sampling: str = field(
        default="image", metadata={"help": "image: all frames equally often; pixel: as often as they have labels"}
    )
    augment_flip: float = field(default=0.0, metadata={"help": "probability of a mirrored sample"})
    augment_crop: list[float] = field(
        default_factory=lambda: [1.0, 1.0], metadata={"help": "least and largest share of each side that is kept"}
    )
    augment_colour: list[float] = field(
        default_factory=lambda: [0.0, 0.0, 0.0],
        metadata={"help": "brightness, contrast, saturation: each times 1 ± up to so much"},
    )
    augment_jpeg: list[int] = field(default_factory=list, metadata={"help": "least and largest JPEG quality"})
    sample_seed: int = field(default=0, metadata={"help": "seed of the samples"})
    dense_targets: bool = field(
        default=False, metadata={"help": "pretraining a tiny model: also learn depth and markers per visual token"}
    )

    def data_config(self) -> DataConfig:
        """The dataset's own form.

        Raises:
            DepthLMError: pair_overlap is not two rising shares.
        """
        if len(self.pair_overlap) != 2:
            raise DepthLMError(
                "pair_overlap", f"got {len(self.pair_overlap)} numbers", "give the least and the largest"
            )
        return DataConfig(
            stores=self.stores,
            weights=self.weights,
            mix=parse_mix(self.mix) if self.mix else None,
            points_per_image=self.points_per_image,
            samples_per_image=self.samples_per_image,
            pairs=PairRule(*self.pair_overlap, self.pair_motion_m),
            profile=self.profile,
            intrinsics=self.intrinsics,
            pointing=self.pointing,
            reasoned=self.reasoned,
            sampling=self.sampling,
            seed=self.sample_seed,
            dense=self.dense_targets,
            augmentation=self._augmentation(),
        )

    def augmentation_words(self) -> str:
        """What of the augmentations is on, for the model card."""
        given = {name: getattr(self, f"augment_{name}") for name in ("flip", "crop", "colour", "jpeg")}
        usual = {name: getattr(SampleArguments(), f"augment_{name}") for name in given}
        return ", ".join(f"{name} {value}" for name, value in given.items() if value != usual[name]) or "none"

    def _augmentation(self) -> Augmentation:
        low, high = _numbers("augment_crop", self.augment_crop, 2)
        brightness, contrast, saturation = _numbers("augment_colour", self.augment_colour, 3)
        return Augmentation(self.augment_flip, (low, high), brightness, contrast, saturation, tuple(self.augment_jpeg))


@dataclass
class DataArguments(SampleArguments):
    """Where the samples come from, how the model is asked, and what of it is trained."""

    freeze_vision: bool = field(
        default=False, metadata={"help": "full fine-tuning: keep the vision tower and its projector as they are"}
    )
    lora_vision: bool = field(default=False, metadata={"help": "LoRA: adapt the vision tower's blocks as well"})
    lora_merger: bool = field(
        default=False,
        metadata={"help": "LoRA: adapt the projector from the vision tower to the language model as well"},
    )
    spatial_encoder: str | None = field(
        default=None,
        metadata={
            "help": "folder of a depth ViT (depthlm convert), or a DINOv2/DINOv3, whose features visual tokens read"
        },
    )
    spatial_width: int | None = field(
        default=None, metadata={"help": "width of the cross-attention; default: the vision tower's"}
    )
    spatial_heads: int | None = field(default=None, metadata={"help": "its heads; default: the vision tower's"})
    spatial_gate: bool = field(
        default=True, metadata={"help": "begin as exactly the base model; false: the paper's ungated form"}
    )
    spatial_dtype: str = field(default="auto", metadata={"help": "of the frozen encoder: auto, float32, bfloat16"})
    spatial_cache: str | None = field(
        default=None, metadata={"help": "folder where the encoder's features are kept, by the content of the images"}
    )
    eval_suite: str | None = field(
        default=None,
        metadata={"help": "frozen suite asked every eval_steps by generation; the best checkpoint's model is kept"},
    )
    save_merged: bool = field(default=False, metadata={"help": "LoRA: save the merged model instead of the adapter"})

    def spatial(self) -> SpatialSettings | None:
        """The spatial encoder asked for, if any."""
        if self.spatial_encoder is None:
            return None
        return SpatialSettings(
            self.spatial_encoder, self.spatial_width, self.spatial_heads, self.spatial_gate, self.spatial_dtype
        )


def _numbers(name: str, values: list[float], count: int) -> list[float]:
    if len(values) != count:
        raise DepthLMError(name, f"got {len(values)} numbers", f"give {count}")
    return values


def parse_mix(text: str) -> dict[str, float]:
    """``kind=weight,kind=weight`` -> a dict; a kind without a weight has weight 1.

    Raises:
        DepthLMError: a weight that is no number.
    """
    mix = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            mix[name] = float(weight or 1)
        except ValueError as error:
            raise DepthLMError("mix", f"{part!r} is not kind=weight", "e.g. distance=2,two_point=1") from error
    return mix


def check(data_args: DataArguments, model_args: ModelConfig) -> None:
    """Refuse settings that contradict each other, before anything is loaded.

    Raises:
        DepthLMError: naming the two settings.
    """
    if not model_args.model_name_or_path:
        raise DepthLMError("model_name_or_path", "is not given", "a folder, a hub name, nano or nano-random")
    quantized = model_args.load_in_4bit or model_args.load_in_8bit
    if quantized and not model_args.use_peft:
        raise DepthLMError("use_peft", "quantized weights cannot be trained themselves", "add --use_peft")
    if quantized and data_args.save_merged:
        raise DepthLMError(
            "save_merged", "an adapter is not merged into quantized weights", "save the adapter, then: depthlm merge"
        )
    if data_args.save_merged and sharding():
        raise DepthLMError("save_merged", "can't merge sharded weights", "save the adapter, then: depthlm merge")
    goes_on = is_adapter(model_args.model_name_or_path)
    adapts = model_args.use_peft or goes_on
    for name in ("lora_vision", "lora_merger"):
        if not getattr(data_args, name):
            continue
        if not adapts:
            raise DepthLMError(name, "is for an adapter", "add --use_peft, or leave it out")
        if goes_on:
            reason = f"is for a new adapter, and {model_args.model_name_or_path} has its own layers"
            raise DepthLMError(name, reason, "leave it out, or start from the base")
        if model_args.lora_target_modules:
            raise DepthLMError(name, "has no part in lora_target_modules", "name all layers there, or leave it out")
    for name in ("spatial_width", "spatial_heads", "spatial_gate"):
        if getattr(data_args, name) != getattr(DataArguments, name) and data_args.spatial_encoder is None:
            mend = "add --spatial_encoder FOLDER to a base model, or leave it out"
            raise DepthLMError(name, "is for a new spatial encoder, and there is none", mend)
    data_args.spatial()  # refuses what can't be
    if data_args.spatial_cache is not None and sharding():
        raise DepthLMError("spatial_cache", "does not go with sharded weights", "leave it out")
    if data_args.spatial_encoder is not None and goes_on:
        reason = f"is for a base model, and {model_args.model_name_or_path} keeps the one it was trained with"
        raise DepthLMError("spatial_encoder", reason, "leave it out, or start from the base")
    if data_args.freeze_vision and adapts:
        raise DepthLMError("freeze_vision", "is for training all weights", "an adapter leaves the vision tower alone")
    if data_args.dense_targets and adapts:
        raise DepthLMError("dense_targets", "are for training all weights", "leave out use_peft, or dense_targets")


def check_machine(args: TrainingArguments) -> None:
    """Refuse several GPUs in one process and what the recipes do in their own way; keep pickles from a hub.

    Raises:
        DepthLMError: the recipe was started without a launcher on a machine of several GPUs, or with a setting that
            would be ignored.
    """
    if getattr(args, "trust_remote_code", False):
        raise DepthLMError("trust_remote_code", "no code that comes with a model is run", "leave it out")
    if args.load_best_model_at_end:
        raise DepthLMError("load_best_model_at_end", "is not needed", "leave it out: eval_suite keeps OUTPUT/best")
    if args.resume_from_checkpoint:
        mend = "leave it out: the same command goes on from the last whole checkpoint"
        raise DepthLMError("resume_from_checkpoint", "is not needed", mend)
    if args.n_gpu > 1:
        raise DepthLMError(f"{args.n_gpu} GPUs", "in one process", "start it by `accelerate launch`, one process a GPU")
    if args.push_to_hub:  # at every save the Trainer would push a pickle of its settings
        args.hub_strategy = HubStrategy.END


def sharding() -> str | None:
    """How `accelerate launch` divides the weights over processes: "FSDP", "DEEPSPEED", or not at all."""
    kinds = (kind for kind in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{kind}", "false") == "true")
    return next(kinds, None)


def lora(model_args: ModelConfig, vision: bool = False, merger: bool = False, fused: bool = False) -> LoraConfig | None:
    """LoRA on the language model's linear layers, or on those the user names.

    Args:
        vision: on the vision tower's blocks as well.
        merger: on the projector from the vision tower to the language model as well.
        fused: the model has a spatial encoder: its fusion is trained whole beside LoRA.
    """
    config = get_peft_config(model_args)
    if config is not None and not model_args.lora_target_modules:
        layers = [LANGUAGE_LAYERS] + [VISION_LAYERS] * vision + [MERGER_LAYERS] * merger
        config.target_modules = "|".join(f"({names})" for names in layers) if len(layers) > 1 else LANGUAGE_LAYERS
    if config is not None and fused:
        config.exclude_modules = FROZEN_OR_WHOLE
        config.modules_to_save = [*(config.modules_to_save or []), FUSION]
    return config


def attention(name: str) -> str:
    """The attention asked for, or PyTorch's own where FlashAttention 2 is not installed."""
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        logger.warning("flash_attention_2 is not installed for this machine: using sdpa")
        return "sdpa"
    return name
