"""Expert depth models of transformers: its depth-estimation pipeline, and what a model's configuration says of metres.

What the pipeline gives as ``predicted_depth`` is already at the image's size, (H, W): each model's own post-processing
has resized it, and for Depth Pro turned inverse into metric depth by the field of view that it estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.models.loading import resolve
from eval.depth_maps import Map, cleaned

# Every checkpoint of these gives metres.
ALWAYS_METRIC = ("zoedepth", "glpn")


@dataclass(frozen=True, eq=False)
class PredictedDepth:
    """What a model sees in an image.

    Args:
        z: (H, W) float32 of the image's size, metres along the principal axis, 0 where there is no depth; in no unit,
            and maybe inverse, where ``metric`` is False.
        metric: whether ``z`` is in metres; None: the model's configuration does not say.
        camera: square pixels, the principal point in the middle, by the field of view that the model estimated; None
            where it estimates none.
    """

    z: Map
    metric: bool | None
    camera: Camera | None = None


def is_metric(config: Any) -> bool | None:
    """Whether a model with this transformers configuration predicts metres; None where it does not say (DPT, say, has
    checkpoints of either kind)."""
    if config.model_type in ALWAYS_METRIC:
        return True
    if config.model_type == "depth_pro":  # without a field of view its inverse depth keeps an unknown scale
        return bool(config.use_fov_model)
    kind = getattr(config, "depth_estimation_type", None)  # Depth Anything and what is built on it
    return None if kind is None else kind == "metric"


class DepthPipeline:
    """A depth model of transformers, one image at a time.

    Args:
        model: its folder, or its name on the hub; weights are read from safetensors only and its code is never run.
        device: as transformers takes it, e.g. "cuda:0"; None: the first accelerator that it finds.

    Attributes:
        metric: see `is_metric`.
        note: a sentence for the user where the predictions are not known to be metres, else "".

    Raises:
        DepthLMError: it is no depth model, or can't be loaded.
    """

    def __init__(self, model: str | Path, device: str | int | None = None) -> None:
        from transformers import pipeline

        self.model = resolve(model)
        try:
            self._pipeline = pipeline(
                "depth-estimation",
                model=self.model,
                device=device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            said = str(error).strip().partition("\n")[0]
            reason = f"can't be loaded as a depth model: {said or type(error).__name__}"
            mend = "give a model of transformers' depth-estimation pipeline, with its weights in safetensors"
            raise DepthLMError(model, reason, mend, "not a model") from error
        config = self._pipeline.model.config
        if config.model_type == "depth_pro" and not config.use_fov_model:  # transformers' own pipeline fails on it
            raise DepthLMError(model, "has no field of view model, so its depth has no scale", "give one that has it")
        self.metric = is_metric(config)
        self.note = _note(str(model), self.metric)

    def estimate(self, pixels: NDArray[np.uint8], where: str = "image") -> PredictedDepth:
        """Depth of an image (H, W, 3) uint8 RGB.

        Args:
            where: the image's name in an error message.

        Raises:
            DepthLMError: the model predicts no depth at all, or not one for each pixel.
        """
        height, width = pixels.shape[:2]
        inputs = self._pipeline.preprocess(Image.fromarray(pixels))
        outputs = self._pipeline.forward(inputs)
        field_of_view = getattr(outputs, "field_of_view", None)  # which the pipeline's own result leaves out
        found = self._pipeline.postprocess(outputs)["predicted_depth"].float().numpy()
        if found.shape != (height, width):
            reason = f"{self.model} gave a map of shape {found.shape} for an image of {width}x{height}"
            raise DepthLMError(where, reason, kind="bad depth map")
        camera = None if field_of_view is None else Camera.from_fov(width, height, float(field_of_view.reshape(-1)[0]))
        return PredictedDepth(cleaned(found, where), self.metric, camera)


def _note(model: str, metric: bool | None) -> str:
    if metric is False:
        return f"{model} predicts relative depth: its numbers are no metres, and metrics in metres mean nothing"
    if metric is None:
        return f"{model} does not say whether its depth is in metres: metrics in metres hold only if it is"
    return ""
