"""Loading a vision-language model and its processor, with or without an adapter, and merging an adapter.

Weights are read from safetensors only, and code that comes with a model is never run.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.cli import manual
from depthlm.errors import DepthLMError
from depthlm.models.asked_as import read_asked_as
from depthlm.writing import new_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, ProcessorMixin

    from depthlm.spatial.settings import SpatialSettings

logger = logging.getLogger(__name__)

NANO = Path(__file__).parents[1] / "assets" / "nano_base"
ADAPTER_CONFIG = "adapter_config.json"
PROCESSOR_CONFIGS = ("processor_config.json", "preprocessor_config.json")
UNREACHED = "check the network, or download the model and give its folder"
NO_FOLDER = "there is no folder of this name, and the hub can't be reached"
DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve(name_or_path: str | Path) -> str:
    """The folder, or the hub name, that a user's word means; "nano" is the trained nano model of the package.

    Raises:
        DepthLMError: it is empty, or it is written like a path, or is "nano", and there is no such folder.
    """
    name = str(name_or_path)
    if not name:
        raise DepthLMError("model", "its name is empty", "give a model's folder, or a hub name like owner/model")
    if name == "nano" and (NANO / "config.json").exists():
        return str(NANO)
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name == "nano":
        raise DepthLMError(name, "the nano model is not in this package", "make one: depthlm nano --out DIR")
    like_a_path = isinstance(name_or_path, Path) or name.startswith((".", "~", "/")) or name.count("/") != 1
    if like_a_path or path.exists():
        raise DepthLMError(name, "is not a folder", "give a model's folder, or a hub name like owner/model")
    if path.parent.is_dir() and not _is_cached(name):  # a hub that can't be reached is asked for half a minute
        mend = f"give a model's folder; one of the hub's has to be downloaded first: hf download {name}"
        raise DepthLMError(name, f"is not a folder, while {path.parent} is", mend)
    return name


def _is_cached(name: str) -> bool:
    """Whether a model was downloaded from the hub before."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # no name that the hub could have
        return False


def is_adapter(name_or_path: str | Path) -> bool:
    """Whether this is a local folder with a PEFT adapter."""
    return (Path(name_or_path).expanduser() / ADAPTER_CONFIG).is_file()


def adapter_settings(adapter: str | Path) -> dict[str, Any]:
    """An adapter's configuration.

    Raises:
        DepthLMError: the folder has no readable configuration, or no weights in safetensors.
    """
    folder = Path(adapter).expanduser()
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DepthLMError(folder, f"no readable {ADAPTER_CONFIG}: {error}", "give a PEFT adapter's folder") from error
    if not isinstance(settings, dict):
        raise DepthLMError(folder / ADAPTER_CONFIG, "is not a JSON object", "give a PEFT adapter's folder")
    if not (folder / "adapter_model.safetensors").is_file():
        raise DepthLMError(folder, "has no adapter_model.safetensors", "save the adapter as safetensors")
    return settings


def adapter_base(adapter: str | Path) -> str:
    """The model that an adapter was trained on, as its configuration names it, resolved."""
    base = adapter_settings(adapter).get("base_model_name_or_path")
    if not base:
        raise DepthLMError(adapter, "does not name its base model", "give the base model itself")
    return resolve(base)


def check_vlm(name_or_path: str | Path, revision: str = "main") -> PreTrainedConfig:
    """The configuration of a model, once it is sure to be one that takes images and text.

    Args:
        revision: branch, tag or commit of a model on the hub.

    Raises:
        DepthLMError: naming the folder and what is wrong with it.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    from depthlm.spatial.config import FUSED  # its import makes the configuration known

    name = resolve(name_or_path)
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise DepthLMError(name, "has no config.json", "give the folder of a model", kind="not a model")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise not_read(name, error, _first_line(error), "give a model that transformers knows") from error
    if config.model_type == FUSED:
        import depthlm.spatial.model  # noqa: F401 (its import makes the model known)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        reason = f"its model_type {config.model_type!r} takes no images with text"
        raise DepthLMError(
            name, reason, "give a vision-language model such as Qwen2.5-VL", "not a vision-language model"
        )
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise DepthLMError(name, "has no weights in safetensors", "save the model as safetensors", "not a model")
    return config


def load_model(
    name_or_path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    adapter: str | Path | None = None,
    *,
    spatial: SpatialSettings | None = None,
    trainable: bool = False,
    **options: Any,
) -> Any:
    """A vision-language model in evaluation mode, with its adapter and its spatial encoder where there is one.

    Args:
        name_or_path: a model's folder, an adapter's folder (its base is loaded first), a hub name, or "nano".
        dtype: of the weights; "auto" keeps the stored one.
        device: to which the model is moved; None leaves it where it was loaded.
        adapter: a PEFT adapter's folder to put on the model; its weights stay apart from the model's.
        spatial: an encoder to put into the model; None: the one that the adapter was trained with, if any.
        trainable: whether the adapter goes on training.
        options: further arguments of ``from_pretrained``: quantization_config, attn_implementation, revision.

    Returns:
        A ``transformers`` model, or a ``PeftModel`` around it.

    Raises:
        DepthLMError: not a vision-language model, no safetensors, or an adapter that does not fit.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    if isinstance(dtype, str) and dtype not in DTYPES:
        raise DepthLMError("dtype", f"{dtype!r} is not known", "one of " + ", ".join(DTYPES))
    if adapter is None and is_adapter(name_or_path):
        name_or_path, adapter = adapter_base(name_or_path), name_or_path
    name = resolve(name_or_path)
    config = check_vlm(name, options.get("revision", "main"))
    spatial = spatial or (None if adapter is None else spatial_settings(adapter))
    try:
        if spatial is not None:
            from depthlm.spatial.attach import attach

            model: Any = attach(name, config, spatial, dtype, **options)
        else:
            model = AutoModelForImageTextToText.from_pretrained(
                name, dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
            )
    except torch.OutOfMemoryError:  # a RuntimeError, but no fault of the folder's
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DepthLMError(name, f"cannot be loaded: {_first_line(error)}", "check the folder's files") from error
    if adapter is not None:
        model = _with_adapter(model, adapter, trainable)
    if device is not None:
        model = model.to(device)
    return model if trainable else model.eval()


def spatial_settings(adapter: str | Path) -> SpatialSettings | None:
    """The spatial encoder that an adapter was trained with, if any.

    Raises:
        DepthLMError: its note can't be read.
    """
    from depthlm.spatial.settings import SpatialSettings

    return SpatialSettings.of_adapter(Path(adapter).expanduser())


def _with_adapter(model: Any, adapter: str | Path, trainable: bool) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    adapter_settings(adapter)
    try:
        return PeftModel.from_pretrained(model, str(Path(adapter).expanduser()), is_trainable=trainable)
    except (RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        reason = f"does not fit the model {model.name_or_path}: {_first_line(error)}"
        raise DepthLMError(adapter, reason, "load it on the model it was trained on") from error


def load_processor(name_or_path: str | Path, revision: str = "main") -> ProcessorMixin:
    """The processor of a model; of an adapter its own where it was saved with one, its base's otherwise.

    Args:
        revision: branch, tag or commit of a model on the hub.

    Raises:
        DepthLMError: there is none, or it takes no images.
    """
    from transformers import AutoProcessor

    if is_adapter(name_or_path) and not _has_processor(Path(name_or_path).expanduser()):
        name_or_path = adapter_base(name_or_path)
    name = resolve(name_or_path)
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        reason = f"has no processor: {_first_line(error)}"
        raise not_read(name, error, reason, "save the processor beside the model") from error
    if getattr(processor, "image_processor", None) is None:
        raise DepthLMError(name, f"its processor {type(processor).__name__} takes no images", "use a VLM's processor")
    return processor


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in PROCESSOR_CONFIGS) and (folder / "tokenizer_config.json").is_file()


def merge_adapter(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    encoder: str | Path | None = None,
    dtype: str | torch.dtype = "auto",
) -> Path:
    """Write the full model (safetensors) that an adapter makes of its base, with the processor.

    Args:
        adapter: a PEFT adapter's folder.
        out: folder to write; it must not hold anything. It appears whole or not at all.
        base: the base model, where it is no longer found under the name in the adapter.
        encoder: likewise the spatial encoder.
        dtype: in which the weights are added and stored; "auto" keeps the base's.

    Raises:
        DepthLMError: no adapter, no base, or ``out`` is taken or can't be written.
    """
    if not is_adapter(adapter):
        raise DepthLMError(adapter, f"has no {ADAPTER_CONFIG}", "give a PEFT adapter's folder")
    base = adapter_base(adapter) if base is None else resolve(base)
    spatial = spatial_settings(adapter)
    if encoder is not None:
        if spatial is None:
            raise DepthLMError("--encoder", "is for an adapter that was trained with a spatial encoder", "leave it out")
        spatial = replace(spatial, encoder=str(encoder))
    own = _has_processor(Path(adapter).expanduser())
    with new_folder(out) as part:
        processor = load_processor(adapter if own else base)
        try:
            model = load_model(base, dtype, adapter=adapter, spatial=spatial).merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise DepthLMError(adapter, f"cannot be merged: {_first_line(error)}", "train it again") from error
        model.save_pretrained(part)
        processor.save_pretrained(part)
        if (asked := read_asked_as(adapter)) is not None:
            asked.save(part)
    logger.info("merged %s into %s and wrote %s", adapter, base, out)
    return Path(out)


MERGE = """\
Writes a whole model, with the base's processor, that transformers and vLLM load without PEFT.
"""
MERGE_EXAMPLES = """\
  depthlm merge runs/qwen2_5_vl_3b_lora --out runs/merged --dtype bfloat16
"""


def add_merge(subparsers: Any) -> None:
    """Add ``depthlm merge`` to the command line."""
    parser = manual(subparsers, "merge", "Merge a LoRA adapter into its base model.", MERGE, MERGE_EXAMPLES)
    parser.add_argument("adapter", type=Path, help="folder of the PEFT adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; new or empty")
    parser.add_argument("--base", help="base model, if not the one that the adapter names")
    parser.add_argument("--encoder", help="spatial encoder, if not where the adapter says")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the merged weights (default: the base's)")
    parser.set_defaults(
        run=lambda args: merge_adapter(args.adapter, args.out, base=args.base, encoder=args.encoder, dtype=args.dtype)
    )


def not_read(name: str, error: Exception, reason: str, mend: str) -> DepthLMError:
    """What to say of a model that transformers could not read: these words, unless the hub could not be asked."""
    if "couldn't connect" in str(error) or "offline" in str(error).lower():
        reason, mend = NO_FOLDER, UNREACHED
    return DepthLMError(name, reason, mend, "not a model")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
