"""The depth map student: the official modules' own layout and metres, and what its encoder is without its decoder."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import official_checkpoints as official
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from depthlm.errors import DepthLMError
from depthlm.models.loading import load_model
from depthlm.spatial.cache import fingerprint
from depthlm.spatial.config import SpatialEncoderConfig
from depthlm.spatial.depth_map import CROPS, SCALES, crops, joined, metres
from depthlm.spatial.encoder import CROPS_AT_ONCE, SpatialEncoder, load_encoder
from depthlm.spatial.metric_anything import convert, from_depth_map
from depthlm.spatial.settings import SpatialSettings

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metric_anything.json").read_text(encoding="utf-8"))


def test_metres_are_the_official_modules(depth_map: Path) -> None:
    """At the release's own geometry: 35 crops of 24 x 24 tokens; the image is enlarged one way and shrunk the other."""
    golden = GOLDEN["depth_map_metres_90x1700"]
    z = load_encoder(depth_map).depth(official.texture(90, 1700), golden["focal"])
    assert z.shape == (1, 90, 1700) and z.dtype == torch.float32
    np.testing.assert_allclose(z[0, ::7, ::100].double().numpy(), np.array(golden["depth"]), rtol=1e-4)


def test_the_released_layout_is_the_official_modules() -> None:
    """All names and shapes at full size, on no memory."""
    shapes, golden = official.depth_map_shapes(official.RELEASED_DEPTH_MAP), GOLDEN["depth_map_layout"]
    listed = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == golden["sha256"]
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == golden["parameters"] == 876_664_001

    content = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    content |= official.depth_map_buffers(official.RELEASED_DEPTH_MAP)
    config, weights = from_depth_map(Path("student_depthmap.pt"), content)
    with torch.device("meta"):
        model = SpatialEncoder(config)
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    masked = 32 * 1280  # the keys' biases, which are all zero
    assert sum(weight.numel() for weight in model.parameters()) == golden["parameters"] - masked
    assert model.heads.layers == [block + 1 for block in golden["hooks"]]
    assert model.heads.side == 384


@pytest.mark.parametrize("side", [8, 24])
def test_crops_that_are_joined_are_the_image(side: int) -> None:
    image = torch.rand(1, 2, 4 * side, 4 * side)
    cut = crops(image, side)
    assert cut.shape == (sum(CROPS), 2, side, side)
    for part, (factor, shared) in zip(cut.split(CROPS), SCALES, strict=True):
        want = F.interpolate(image, scale_factor=factor, mode="bilinear") if factor < 1 else image
        assert torch.equal(joined(part, shared), want)


def test_of_what_neighbours_share_each_gives_its_half() -> None:
    numbered = torch.arange(25.0).view(25, 1, 1, 1).expand(25, 1, 24, 24)
    owners = joined(numbered, SCALES[0][1])[0, 0]
    assert owners.shape == (96, 96)
    assert [int(n) for n in torch.unique_consecutive(owners[0])] == [0, 1, 2, 3, 4]
    edges = (owners[0].diff() != 0).nonzero().flatten() + 1
    assert edges.tolist() == (owners[:, 0].diff() != 0).nonzero().flatten().add(1).tolist() == [21, 39, 57, 75]


def test_metres_by_hand() -> None:
    inverse = torch.tensor([[0.25, 0.5], [0.0, 1e6]])[None, None].repeat(2, 1, 1, 1)
    # 1/m as of a focal length of 2 px, the image's width
    want = [[[4.0, 2.0], [1000.0, 0.001]], [[40.0, 20.0], [1000.0, 0.001]]]
    torch.testing.assert_close(metres(inverse, torch.tensor([2.0, 20.0]), (2, 2)), torch.tensor(want))
    assert metres(inverse, 1.0, (5, 7)).shape == (2, 5, 7)


def test_crops_go_through_the_backbone_a_few_at_a_time(small_depth_map: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, seen = load_encoder(small_depth_map).requires_grad_(True), []
    states = SpatialEncoder._states

    def watched(self: SpatialEncoder, pixels: torch.Tensor) -> Any:
        seen.append(len(pixels))
        return states(self, pixels)

    monkeypatch.setattr(SpatialEncoder, "_states", watched)
    image = official.texture(60, 80)
    z = encoder.depth(image, 70.0)
    assert sum(seen) == 35 and max(seen) <= CROPS_AT_ONCE
    assert not z.requires_grad
    monkeypatch.setattr("depthlm.spatial.encoder.CROPS_AT_ONCE", 4)  # the scales' ends fall within batches
    torch.testing.assert_close(encoder.depth(image, 70.0), z)


def test_images_of_a_batch_keep_to_themselves(small_depth_map: Path) -> None:
    encoder, images = load_encoder(small_depth_map), torch.cat([official.texture(60, 80), official.image(60, 80)])
    z = encoder.depth(images, torch.tensor([70.0, 90.0]))
    for i, focal in enumerate((70.0, 90.0)):
        torch.testing.assert_close(z[i : i + 1], encoder.depth(images[i : i + 1], focal))


def test_computed_in_bfloat16_depth_is_near(small_depth_map: Path) -> None:
    image = official.texture(60, 80)
    exact, rounded = (load_encoder(small_depth_map, dtype).depth(image, 70.0) for dtype in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded / exact - 1).abs().max() < 0.05


def test_an_encoder_without_such_heads_says_so(small_depth_map: Path, point_map: Path) -> None:
    image = official.image(84, 112)
    for folder in ("nano", point_map):
        with pytest.raises(DepthLMError, match="has no depth map heads"):
            load_encoder(folder).depth(image, 70.0)
    with pytest.raises(DepthLMError, match="has no point map heads"):
        load_encoder(small_depth_map).points(image)


def test_a_folder_that_was_converted_without_its_decoder_is_an_encoder_still(
    small_depth_map: Path, tmp_path: Path
) -> None:
    whole, older = load_encoder(small_depth_map), load_encoder(without_decoder(small_depth_map, tmp_path))
    with torch.no_grad():
        image = official.texture(60, 80)
        assert torch.equal(older(image), whole(image))
    with pytest.raises(DepthLMError, match="has no depth map heads"):
        older.depth(image, 70.0)


def without_decoder(encoder: Path, out: Path) -> Path:
    """The folder that a conversion made before it knew of the decoder."""
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps({**config, "heads": None}), encoding="utf-8")
    weights = load_file(encoder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("heads.")}
    assert len(kept) < len(weights)
    save_file(kept, out / "model.safetensors", {"format": "pt"})
    return out


def test_a_fused_model_has_its_features_and_not_its_decoder(small_depth_map: Path, tmp_path: Path) -> None:
    models = [
        load_model("nano", "float32", spatial=SpatialSettings(str(folder)))
        for folder in (small_depth_map, without_decoder(small_depth_map, tmp_path))
    ]
    names = [set(model.state_dict()) for model in models]
    assert names[0] == names[1] and not any("spatial_encoder.heads" in name for name in names[0])
    assert models[0].config.spatial_config.heads is None
    encoders = [model.model.spatial_encoder for model in models]
    # an adapter that was trained with the one goes with the other
    assert fingerprint(encoders[0]) == fingerprint(encoders[1]) == models[0].model.attached.fingerprint


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("no decoder", r"116 missing \(heads.decoder.convs.0.weight"),
        ("missing", r"1 missing \(heads.decoder.fusions.2.resnet1.residual.3.bias\)"),
        ("missing size", r"missing \(heads.decoder.convs.0.weight\)"),
        ("extra", r"2 unexpected \(heads.decoder.fusions.6.resnet1.residual.1.bias, heads.encoder.camera.weight\)"),
        ("shape", r"1 of another shape \(heads.upsample_latent3.1.weight\)"),
    ],
)
def test_a_decoder_that_is_not_the_released_one_is_refused(change: str, told: str, tmp_path: Path) -> None:
    content = official.depth_map_checkpoint()
    match change:
        case "no decoder":
            content = {name: value for name, value in content.items() if name.startswith("encoder.patch_encoder.")}
        case "missing":
            del content["decoder.fusions.2.resnet1.residual.3.bias"]
        case "missing size":
            del content["decoder.convs.0.weight"]
        case "extra":
            content["decoder.fusions.6.resnet1.residual.1.bias"] = torch.zeros(16)
            content["encoder.camera.weight"] = torch.zeros(1)
        case "shape":
            content["encoder.upsample_latent3.1.weight"] = torch.zeros(12, 12, 3, 3)
    torch.save(content, tmp_path / "student.pt")
    with pytest.raises(DepthLMError, match=told):
        convert(tmp_path / "student.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "normals"}, "of the kind 'normals'"),
        ({"layers": None}, "have no layers"),
        ({"latent": 0}, "have no latent"),
        ({"layers": [1, 2, 3]}, "read the layers"),
        ({"layers": [0, 1, 2, 3]}, "read the layers"),
        ({"layers": [1, 2, 3, 5]}, "read the layers"),
    ],
)
def test_settings_of_heads_that_cannot_be(small_depth_map: Path, settings: dict[str, Any], told: str) -> None:
    given = load_encoder(small_depth_map).config.to_dict()
    with pytest.raises(DepthLMError, match=told):
        SpatialEncoder(SpatialEncoderConfig(**{**given, "heads": {**given["heads"], **settings}}))


def test_a_crop_has_to_halve_what_it_shares(small_depth_map: Path) -> None:
    config = load_encoder(small_depth_map).config
    config.backbone_config.image_size = 12 * 16
    with pytest.raises(DepthLMError, match="a multiple of 128 px"):
        SpatialEncoder(config)


def test_levels_double_down_the_decoder(small_depth_map: Path) -> None:
    encoder = load_encoder(small_depth_map)
    with torch.no_grad():
        levels = encoder.heads._levels(encoder._crop_features(official.image(60, 80)))
    sides = [level.shape[-1] for level in levels]
    assert sides == [256, 128, 128, 128, 64, 32, 16]
    assert all(fine in (coarse, 2 * coarse) for fine, coarse in pairwise(sides))
