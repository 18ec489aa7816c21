"""Expert models through transformers' pipeline, with random weights: the map's size, its unit, the camera."""

import shutil

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForDepthEstimation,
    BeitConfig,
    DepthAnythingConfig,
    DepthProConfig,
    DepthProImageProcessor,
    Dinov2Config,
    DPTConfig,
    DPTImageProcessor,
    GLPNConfig,
    PromptDepthAnythingConfig,
    ZoeDepthConfig,
    ZoeDepthImageProcessor,
)

from depthlm.depth_metrics import fov_error
from depthlm.errors import DepthLMError
from eval.depth_pipeline import DepthPipeline, is_metric

TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3}
SIDES = {"height": 56, "width": 56}


def depth_anything(kind="metric", config=DepthAnythingConfig):
    backbone = Dinov2Config(
        **TINY, num_hidden_layers=4, image_size=28, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    return config(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=20,
        initializer_range=0.3,
    )


def zoe():
    stages = [f"stage{i}" for i in range(1, 5)]
    backbone = BeitConfig(
        **TINY, num_hidden_layers=4, image_size=32, patch_size=16, out_features=stages, reshape_hidden_states=False
    )
    return ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=4,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
        initializer_range=0.3,
    )


def depth_pro(fov=True):
    encoder = {"model_type": "dinov2", **TINY, "num_hidden_layers": 2, "patch_size": 8, "image_size": 16}
    return DepthProConfig(
        fusion_hidden_size=8,
        patch_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_feature_dims=[8, 8, 8],
        use_fov_model=fov,
        num_fov_head_layers=1,
        merge_padding_value=1,
        image_model_config=dict(encoder),
        patch_model_config=dict(encoder),
        fov_model_config=dict(encoder),
    )


def save(folder, config, processor):
    torch.manual_seed(0)
    AutoModelForDepthEstimation.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def dpt_processor():
    return DPTImageProcessor(size=SIDES, keep_aspect_ratio=True, ensure_multiple_of=14)


@pytest.fixture(scope="module")
def metric_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("metric"), depth_anything(), dpt_processor())


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (90, 121, 3), np.uint8)


def test_the_map_is_the_models_at_the_images_size(metric_folder, pixels):
    expert = DepthPipeline(metric_folder, device="cpu")
    found = expert.estimate(pixels)
    assert expert.metric is found.metric is True and expert.note == "" and found.camera is None
    assert found.z.shape == (90, 121) and found.z.dtype == np.float32
    model = AutoModelForDepthEstimation.from_pretrained(metric_folder).eval()
    with torch.no_grad():
        raw = model(**dpt_processor()(images=pixels, return_tensors="pt")).predicted_depth
    assert raw.shape[-2:] != (90, 121)
    resized = torch.nn.functional.interpolate(raw[None], size=(90, 121), mode="bicubic", align_corners=False)
    expected = np.maximum(resized[0, 0].numpy(), 0)
    assert expected.std() > 0.01
    assert found.z == pytest.approx(expected, abs=1e-4)


def test_relative_depth_is_said_to_be_relative(tmp_path):
    config = depth_anything("relative")
    expert = DepthPipeline(save(tmp_path, config, dpt_processor()), device="cpu")
    assert expert.metric is False and "predicts relative depth" in expert.note


def test_zoe_depth_keeps_the_images_size(tmp_path, pixels):
    folder = save(tmp_path, zoe(), ZoeDepthImageProcessor(size={"height": 32, "width": 32}))
    found = DepthPipeline(folder, device="cpu").estimate(pixels)
    assert found.metric is True and found.z.shape == (90, 121)
    assert np.isfinite(found.z).all() and (found.z >= 0).all()
    assert 0.5 < (found.z > 0).mean() < 1  # its bicubic resizing shoots below zero beside steep edges: no depth


def test_depth_pro_gives_its_camera(tmp_path, pixels):
    """The pipeline's own result leaves the field of view out."""
    processor = DepthProImageProcessor(size={"height": 64, "width": 64})
    folder = save(tmp_path / "fov", depth_pro(), processor)
    model = AutoModelForDepthEstimation.from_pretrained(folder)
    with torch.no_grad():
        model.fov_model.head.layers[-1].bias.fill_(60.0)
        model.save_pretrained(folder)
        degrees = model.eval()(**processor(images=pixels, return_tensors="pt")).field_of_view.item()
    found = DepthPipeline(folder, device="cpu").estimate(pixels)
    assert 20 < degrees < 100
    assert (found.camera.width, found.camera.height) == (121, 90)
    assert found.camera.fov_deg[0] == pytest.approx(degrees, abs=1e-3)
    assert fov_error(found.camera, found.camera) == 0
    with pytest.raises(DepthLMError, match="no field of view model"):
        DepthPipeline(save(tmp_path / "none", depth_pro(False), processor), device="cpu")


@pytest.mark.parametrize(
    ("config", "metric"),
    [
        (depth_anything("metric"), True),
        (depth_anything("relative"), False),
        (depth_anything("metric", PromptDepthAnythingConfig), True),
        (zoe(), True),
        (GLPNConfig(), True),
        (depth_pro(), True),
        (depth_pro(False), False),
        (DPTConfig(), None),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_what_configurations_say_of_metres(config, metric):
    assert is_metric(config) is metric


def test_what_is_no_depth_model_is_refused(tmp_path, metric_folder):
    with pytest.raises(DepthLMError, match="is not a folder"):
        DepthPipeline(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DepthLMError, match="can't be loaded as a depth model") as error:
        DepthPipeline(tmp_path / "empty", device="cpu")
    assert error.value.kind == "not a model"
    pickled = tmp_path / "pickled"
    shutil.copytree(metric_folder, pickled)
    (pickled / "model.safetensors").unlink()
    model = AutoModelForDepthEstimation.from_pretrained(metric_folder)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(DepthLMError, match="can't be loaded"):
        DepthPipeline(pickled, device="cpu")
    Dinov2Config(**TINY, num_hidden_layers=1).save_pretrained(tmp_path / "encoder")
    with pytest.raises(DepthLMError, match="can't be loaded"):
        DepthPipeline(tmp_path / "encoder", device="cpu")
