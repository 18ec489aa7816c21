"""Released checkpoints -> encoder folders: the official modules' own numbers, and one clear error for each bad file."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import official_checkpoints as official
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel

from depthlm.errors import DepthLMError
from depthlm.models.loading import NANO
from depthlm.spatial.config import SpatialEncoderConfig
from depthlm.spatial.encoder import SpatialEncoder, load_encoder
from depthlm.spatial.metric_anything import convert

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metric_anything.json").read_text(encoding="utf-8"))


def close(ours: torch.Tensor, golden: Any) -> None:
    np.testing.assert_allclose(ours.double().numpy(), np.array(golden), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(84, 112), (126, 126)])
def test_the_point_map_students_features_and_heads_are_the_official_modules(
    point_map: Path, height: int, width: int
) -> None:
    encoder, golden = load_encoder(point_map), GOLDEN[f"point_map_{height}x{width}"]
    image = official.image(height, width)
    with torch.no_grad():
        encoded, tokens, points = encoder.encode(image), encoder(image), encoder.points(image)
    assert list(encoder.config.grid(height, width)) == golden["grid"]
    assert tokens.shape == (1, np.prod(golden["grid"]), official.WIDTH)
    close(tokens[0, ::7, ::16], golden["tokens"])
    close(encoded.maps[0].flatten(2).transpose(1, 2)[0, ::7, ::16], golden["first"])
    close(encoded.summary[0, ::16], golden["summary"])
    close(points.points[0, ::20, ::20], golden["points"])
    close(points.mask[0, ::20, ::20], golden["mask"])
    close(points.scale[0], golden["scale"])


def test_transformers_own_position_embedding_would_differ(point_map: Path) -> None:
    encoder = load_encoder(point_map)
    config = SpatialEncoderConfig(**{**encoder.config.to_dict(), "position_offset": None})
    stock = SpatialEncoder(config)
    stock.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        image = official.image(84, 112)
        assert (stock.eval()(image) - encoder(image)).abs().max() > 1e-3


def test_the_depth_map_students_features_are_the_official_modules(depth_map: Path) -> None:
    encoder, golden = load_encoder(depth_map), GOLDEN["depth_map_96x128"]
    image = official.image(96, 128)
    with torch.no_grad():
        encoded, tokens = encoder.encode(image), encoder(image)
    assert list(encoder.config.grid(96, 128)) == golden["grid"]
    close(tokens[0, ::7, ::16], golden["tokens"])
    close(encoded.summary[0, ::16], golden["summary"])
    with pytest.raises(DepthLMError, match="has no point map heads"):
        encoder.points(image)


def test_what_is_converted_says_where_it_came_from(point_map: Path, depth_map: Path) -> None:
    source = load_encoder(point_map).config.source
    assert source["kind"] == "student_pointmap" and source["file"] == "student_pointmap.pt"
    assert len(source["sha256"]) == 64
    assert "DINOv3 License" in load_encoder(depth_map).config.source["licence"]
    assert sorted(path.name for path in point_map.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_any_dino_of_transformers_is_an_encoder(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56}
    model = (
        Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2, patch_size=14))
        if kind == "dinov2"
        else DINOv3ViTModel(DINOv3ViTConfig(**sizes, intermediate_size=128, patch_size=16, num_register_tokens=2))
    ).eval()
    model.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    encoder.config.num_tokens = 16
    side = 4 * encoder.config.patch
    image = official.image(side, side)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.config.image_mean, encoder.config.image_std))
    with torch.no_grad():
        want = model((image - mean) / std).last_hidden_state[:, -16:]
        torch.testing.assert_close(encoder(image), want)


def test_the_package_has_an_encoder_and_its_untrained_twin() -> None:
    trained, untrained, again = (load_encoder(name, "float32") for name in ("nano", "nano-random", "nano-random"))
    assert trained.config.source["recipe"] == "recipes/encoder.py"
    with torch.no_grad():
        image = official.image(168, 224)
        tokens = [encoder(image) for encoder in (trained, untrained, again)]
    assert tokens[0].shape == tokens[1].shape == (1, 192, 192)
    assert torch.equal(tokens[1], tokens[2]) and not torch.equal(tokens[0], tokens[1])


def test_layers_side_by_side(point_map: Path) -> None:
    encoder = load_encoder(point_map)
    encoder.config.features = "concat"
    with torch.no_grad():
        image = official.image(84, 112)
        tokens, maps = encoder(image), encoder.encode(image).maps
    assert encoder.config.width == tokens.shape[2] == 2 * official.WIDTH
    torch.testing.assert_close(tokens[..., : official.WIDTH], maps[0].flatten(2).transpose(1, 2))


def test_a_frozen_encoder_stays_in_evaluation_mode(depth_map: Path) -> None:
    encoder = load_encoder(depth_map)
    assert not encoder.train().training and not encoder.backbone.training
    encoder.requires_grad_(True)
    assert encoder.train().training


class Bomb:
    def __reduce__(self) -> Any:
        return print, ("code from a checkpoint ran",)


def spoiled(change: str) -> Any:
    content = official.point_map_checkpoint()
    weights = content["model"]
    match change:
        case "missing":
            del weights["encoder.backbone.blocks.2.attn.qkv.weight"]
            del weights["neck.input_blocks.0.bias"]
        case "extra":
            weights["encoder.backbone.blocks.2.attn.extra"] = torch.zeros(1)
        case "extra head":
            weights["colour_head.0.weight"] = torch.zeros(1)
        case "shape":
            weights["scale_head.0.bias"] = torch.zeros(3)
        case "grid":
            weights["encoder.backbone.pos_embed"] = torch.zeros(1, 80, official.WIDTH)
        case "patch":
            weights["encoder.backbone.patch_embed.proj.weight"] = torch.zeros(official.WIDTH, 3, 14, 16)
        case "places":
            weights["encoder.backbone.pos_embed"] = torch.zeros(82)
        case "block":
            weights["encoder.backbone.blocks.x.norm1.weight"] = torch.zeros(2)
        case "layers":
            content["model_config"]["encoder"]["intermediate_layers"] = "1,3"
        case "dims":
            del content["model_config"]["neck"]["dim_res_blocks"]
        case "scale":
            content["model_config"]["scale_head"] = {}
        case "lengths":
            content["model_config"]["points_head"]["dim_in"] = [1, 2]
        case "no config":
            content = {"model": weights}
        case "other":
            content = {"layer.weight": torch.zeros(2, 2)}
        case "list":
            content = [1, 2]  # type: ignore[assignment]
        case "backbone":
            content["model_config"]["encoder"]["backbone"] = "resnet50"
        case "setting":
            content["model_config"]["neck"]["speed"] = 3
        case "code":
            content["model"]["encoder.backbone.cls_token"] = Bomb()
    return content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", r"4 missing \(backbone.encoder.layer.2.attention."),
        ("extra", r"1 unexpected \(backbone.encoder.layer.2.attn.extra"),
        ("extra head", r"1 unexpected \(heads.colour_head.0.weight"),
        ("shape", r"1 of another shape \(heads.scale_head.0.bias"),
        ("grid", "has 79 places for patches of 14x14 px: no square grid"),
        ("patch", "patches of 14x16 px: no square grid"),
        ("places", "is not laid out as released"),
        ("block", "is not laid out as released"),
        ("layers", "is not laid out as released"),
        ("dims", "is not laid out as released"),
        ("scale", "is not laid out as released"),
        ("lengths", "is not laid out as released"),
        ("no config", "'model' is a dict, no weight"),
        ("other", "is of neither released kind"),
        ("list", "holds a list"),
        ("backbone", "has the backbone 'resnet50'"),
        ("setting", "has unknown settings speed"),
        ("code", "asks for more than weights"),
    ],
)
def test_a_checkpoint_that_is_not_one_is_refused(
    change: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(spoiled(change), tmp_path / "student.pt")
    with pytest.raises(DepthLMError, match=told):
        convert(tmp_path / "student.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "code from" not in capsys.readouterr().out


def test_cut_off_and_foreign_files_are_refused(tmp_path: Path, point_map: Path) -> None:
    torch.save(official.depth_map_checkpoint(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    torch.save({"a": Bomb()}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    for content, told in (
        (whole[: len(whole) // 2], r"x\.pt: is cut off: its end is missing \(download it again\)"),
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>not found</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
        (pickle.dumps({"a": Bomb()}), "was not opened"),
        (pickle.dumps({"a": Bomb()}) + whole, "was not opened"),
        ((tmp_path / "legacy").read_bytes(), "was not opened"),
        (b"some notes", "is no checkpoint of torch"),
        (whole[:4000] + bytes(500) + whole[4500:], r"x\.pt: "),
    ):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(DepthLMError, match=told):
            convert(tmp_path / "x.pt", tmp_path / "out")
    with pytest.raises(DepthLMError, match="is not a file"):
        convert(tmp_path / "none.pt", tmp_path / "out")
    with pytest.raises(DepthLMError, match="exists already"):
        convert(tmp_path / "whole.pt", point_map)
    with pytest.raises(DepthLMError, match="--num-tokens"):
        convert(tmp_path / "whole.pt", tmp_path / "out", num_tokens=0)
    with pytest.raises(DepthLMError, match="can't be written"):  # before the file is read
        convert(tmp_path / "x.pt", tmp_path / "x.pt" / "out")
    (tmp_path / "out.part").mkdir()
    convert(tmp_path / "whole.pt", tmp_path / "out")
    assert (tmp_path / "out.part").is_dir()  # a user's own


def test_patches_that_a_checkpoint_was_not_made_for_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(official.point_map_checkpoint(), tmp_path / "student.pt")
    for count, told in ((48, False), (61, True)):
        caplog.clear()
        encoder = load_encoder(convert(tmp_path / "student.pt", tmp_path / str(count), count))
        assert encoder.config.num_tokens == count
        assert ("made for 40 to 60" in caplog.text) == told


def test_a_folder_of_a_name_that_the_package_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_encoder("nano").config.source["recipe"] == "recipes/encoder.py"


def test_an_encoder_that_is_not_there_is_told_without_asking_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any, **__: Any) -> Any:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr("depthlm.spatial.encoder.AutoConfig.from_pretrained", asked)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DepthLMError, match="encoders/moved: there is no folder of this name, and the hub can't be"):
        load_encoder("encoders/moved")
    (tmp_path / "encoders").mkdir()
    for name in ("encoders/moved", "encoders/no name of a hub"):
        with pytest.raises(DepthLMError, match=f"{name}: is not a folder, while encoders is"):
            load_encoder(name)
    with pytest.raises(DepthLMError, match="its name is empty"):
        load_encoder("")
    cached = tmp_path / "config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(cached))
    with pytest.raises(DepthLMError, match="and the hub can't be reached"):  # the cache may hold a part
        load_encoder("encoders/moved")


def test_no_folder_of_this_machine_is_told_on(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
    Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2)).save_pretrained(tmp_path / "dino")
    encoder = load_encoder(tmp_path / "dino")
    assert encoder.config.source == {"name": "dino"}
    encoder.save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")


def test_dinov3s_bias_mask_and_periods_are_checked(tmp_path: Path) -> None:
    for key, change, told in (
        ("encoder.patch_encoder.blocks.1.attn.qkv.bias_mask", float("nan"), "bias_mask is not 1"),
        ("encoder.patch_encoder.rope_embed.periods", 7.0, "another base"),
    ):
        content = official.depth_map_checkpoint()
        content[key] = torch.full_like(content[key], change)
        torch.save(content, tmp_path / "student.pt")
        with pytest.raises(DepthLMError, match=told):
            convert(tmp_path / "student.pt", tmp_path / "out")


def test_what_is_no_encoder_is_told_before_anything_is_loaded(tmp_path: Path, point_map: Path) -> None:
    (tmp_path / "student.pt").write_bytes(b"x")
    with pytest.raises(DepthLMError, match="depthlm convert metric-anything"):
        load_encoder(tmp_path / "student.pt")
    with pytest.raises(DepthLMError, match="qwen2_5_vl"):
        load_encoder(NANO)
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "config.json").write_bytes((point_map / "config.json").read_bytes())
    with pytest.raises(DepthLMError, match="cannot be loaded"):
        load_encoder(torn)
    (torn / "model.safetensors").write_bytes((point_map / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(DepthLMError, match="cannot be loaded"):
        load_encoder(torn)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": [0]}, "layers"),
        ({"layers": [3, 1]}, "layers"),
        ({"layers": [99]}, "layers"),
        ({"features": "sum"}, "features"),
        ({"num_tokens": 0}, "num_tokens"),
        ({"backbone_config": {"model_type": "vit"}}, "backbone"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(DepthLMError, match=told):
        SpatialEncoderConfig(**settings)
