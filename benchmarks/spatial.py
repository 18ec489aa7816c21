"""What a spatial encoder costs: time of encoder and fusion apart, by image and training step; memory; the cache.

    python benchmarks/spatial.py                  # the nano model on this machine
    python benchmarks/spatial.py --shapes real    # ViT-L/14 and Qwen2.5-VL-3B's vision tower, random weights
    python benchmarks/spatial.py --shapes real --device cuda --dtype bfloat16

Weights are random: time does not depend on them. A training step is forward, backward and update of a full fine-tuning
with the encoder frozen; with real shapes the language model is left out, and only the parts are timed. Medians.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import Dinov2Config, Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from depthlm.models.loading import load_model, load_processor
from depthlm.spatial.cache import FeatureCache
from depthlm.spatial.config import SpatialEncoderConfig, SpatialQwen2_5_VLConfig
from depthlm.spatial.encoder import SpatialEncoder, nano_encoder
from depthlm.spatial.fusion import make_fusion
from depthlm.spatial.model import fuse
from depthlm.spatial.settings import SpatialSettings

NANO_SIZE, REAL_SIZE = (168, 224), (1008, 1400)
BATCH, WORDS = 8, 40
# Qwen2.5-VL-3B's vision tower, and the width of its language model.
VISION_3B = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048}


def median_ms(call: Callable[[], Any], times: int, device: str) -> float:
    """Of a call, after one that does not count."""
    seconds = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds[1:])


def peak_mib(device: str) -> float:
    """Highest memory so far: of the GPU, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parts(config: SpatialQwen2_5_VLConfig, visual: Any, encoder: SpatialEncoder, args: Any) -> None:
    """Time an image of the vision tower, of the encoder, of the fusion, and of the encoder from the cache."""
    height, width = NANO_SIZE if args.shapes == "nano" else REAL_SIZE
    patch = config.vision_config.patch_size
    grid = [[1, height // patch, width // patch]]
    pixels = torch.randn(grid[0][1] * grid[0][2], 3 * 2 * patch * patch, device=args.device, dtype=visual.dtype)
    grids = torch.tensor(grid, device=args.device)
    fusion = make_fusion(config).to(args.device, visual.dtype)
    image = torch.rand(1, 3, height, width, device=args.device)
    with torch.no_grad():
        tokens = visual(pixels, grid_thw=grids).pooler_output
        tower = median_ms(lambda: visual(pixels, grid_thw=grids), args.times, args.device)
        alone = median_ms(lambda: encoder(image), args.times, args.device)
        both = median_ms(lambda: fuse(config, encoder, fusion, [tokens], pixels, grid), args.times, args.device)
        with tempfile.TemporaryDirectory() as folder:
            cache = FeatureCache(folder, encoder)
            cached = median_ms(lambda: cache(encoder, image), args.times, args.device)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    patches = encoder.config.grid(height, width)
    print(f"an image of {width}x{height}: {len(tokens)} visual tokens, {patches[0]}x{patches[1]} 3D tokens")
    print(f"  vision tower            {tower:9.1f} ms")
    print(f"  encoder                 {alone:9.1f} ms   {alone / tower:.2f} of the tower")
    print(f"  fusion, pixels included {both - alone:9.1f} ms   {(both - alone) / tower:.2f} of the tower")
    print(
        f"  encoder from the cache  {cached:9.1f} ms   {1 - cached / alone:.0%} of its time saved; {size / 1e6:.2f} MB"
    )
    inputs = [t.detach().unsqueeze(0).repeat(BATCH, 1, 1) for t in (tokens, encoder(image)[0])]
    fused_grid = height // patch // config.vision_config.spatial_merge_size, 0
    fused_grid = fused_grid[0], len(tokens) // fused_grid[0]
    step = median_ms(
        lambda: fusion(inputs[0], fused_grid, inputs[1], patches).sum().backward(), args.times, args.device
    )
    print(f"  fusion in a step of {BATCH}    {step:9.1f} ms   forward and backward")
    frozen = sum(weight.numel() for weight in encoder.parameters()) / 1e6
    trained = sum(weight.numel() for weight in fusion.parameters()) / 1e6
    size = torch.finfo(visual.dtype).bits / 8
    print(f"  weights: encoder {frozen:.1f} M, {frozen * size:.0f} MB, frozen")
    print(f"           fusion {trained:.1f} M, {trained * size:.0f} MB, trained")


def steps(encoder: SpatialEncoder, args: Any) -> None:
    """Time a training step of the nano model, alone, with the encoder, and with the encoder's cache filled."""
    height, width = NANO_SIZE
    processor = load_processor("nano")
    images = [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).numpy() for _ in range(BATCH)]
    text = "<|vision_start|><|image_pad|><|vision_end|>" + "7" * WORDS
    inputs = dict(processor(text=[text] * BATCH, images=[[image] for image in images], return_tensors="pt"))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        for name in ("alone", "with the encoder", "with its cache"):
            settings = None if name == "alone" else SpatialSettings(folder)
            model = load_model("nano", "float32", args.device, spatial=settings, trainable=True).train()
            if settings is not None:
                model.model.spatial_encoder.requires_grad_(False).eval()
            if name == "with its cache":
                model.model.cache = FeatureCache(Path(folder) / "cache", model.model.spatial_encoder)
            optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-5)
            batch = {key: value.to(args.device) for key, value in inputs.items()}

            def step(model: Any = model, optimizer: Any = optimizer, batch: Any = batch) -> None:
                model(**batch, labels=batch["input_ids"]).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            found[name] = median_ms(step, args.times, args.device)
            ratio = found[name] / found["alone"]
            peak = f"peak so far {peak_mib(args.device):,.0f} MiB"
            print(f"a step of {BATCH}, {name:17} {found[name]:7.1f} ms   x{ratio:.2f}   {peak}")
    extra, cached = found["with the encoder"] - found["alone"], found["with its cache"] - found["alone"]
    print(f"of the extra {extra:.1f} ms the cache saves {1 - cached / extra:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=("nano", "real"), default="nano", help="of the models (default: nano)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--dtype", default="float32", help="of the weights (default: float32)")
    parser.add_argument("--times", type=int, default=15, help="times each is run (default: 15)")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    if args.shapes == "nano":
        base = load_model("nano", dtype, args.device)
        encoder, vision = nano_encoder(), base.config.vision_config
        visual = base.model.visual
    else:
        backbone = Dinov2Config(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518, patch_size=14
        )
        encoder = SpatialEncoder(SpatialEncoderConfig(backbone_config=backbone.to_dict(), layers=[6, 12, 18, 24]))
        vision = Qwen2_5_VLConfig(vision_config=VISION_3B).vision_config
        visual = Qwen2_5_VisionTransformerPretrainedModel(vision).to(args.device, dtype).eval()
    encoder = encoder.to(args.device, dtype).requires_grad_(False).eval()
    config = SpatialQwen2_5_VLConfig(vision_config=vision.to_dict(), spatial_config=encoder.config.to_dict())
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.shapes} shapes, {args.dtype}, {device}")
    parts(config, visual, encoder, args)
    if args.shapes == "nano":
        steps(encoder, args)
    else:
        print(f"peak memory {peak_mib(args.device):,.0f} MiB")


if __name__ == "__main__":
    main()
