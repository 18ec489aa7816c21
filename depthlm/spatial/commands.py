"""``depthlm convert``: a released checkpoint as a folder; ``depthlm camera``: an image's camera and metric depth."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from depthlm.cli import manual

logger = logging.getLogger(__name__)

CONVERT = """\
CHECKPOINT is a file as its authors released it; which one it is, its keys tell:
  student_pointmap.pt   DINOv2 ViT-L/14 with point map heads: features, depth and focal length
  student_depthmap.pt   DINOv3 ViT-H+/16 with depth map heads: features, and depth where the focal length is known
Missing and unexpected weights are listed and refused; no code in a file is ever run. Any DINOv2 or DINOv3 of
transformers needs no conversion: give its name where an encoder is asked for.
"""
CONVERT_EXAMPLES = """\
  depthlm convert metric-anything student_pointmap.pt --out encoders/pointmap
  accelerate launch recipes/sft.py --config … --stores store --spatial_encoder encoders/pointmap
"""


def add_convert(subparsers: Any) -> None:
    """Add ``depthlm convert`` to the command line."""
    parser = manual(subparsers, "convert", "Convert a released checkpoint.", CONVERT, CONVERT_EXAMPLES)
    parser.add_argument("kind", choices=["metric-anything"], help="whose checkpoint it is")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the released file")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; new or empty")
    parser.add_argument(
        "--num-tokens", type=int, help="patches an image is cut into for features (default: what it was made for)"
    )
    parser.set_defaults(run=_convert)


def _convert(args: Any) -> None:
    from depthlm.spatial.metric_anything import convert

    convert(args.checkpoint, args.out, args.num_tokens)


CAMERA = """\
Prints one line of JSON for each IMAGE: focal length in px, principal point, fields of view in degrees. Nothing of the
image's own is used, neither EXIF nor intrinsics: this is for images that have none. --focal gives a focal
length that is known. An image that can't be read, or tells no camera, is named and passed over; the exit status is 1
then.

An encoder made from student_pointmap.pt estimates the focal length. One made from student_depthmap.pt can't: it tells
metric depth alone (--depth), and needs --focal for it; it reads each image in 35 crops, which asks for a GPU.
"""
CAMERA_EXAMPLES = """\
  depthlm camera photo.jpg --encoder encoders/pointmap
  depthlm camera photos/*.jpg --encoder encoders/pointmap --depth depth
  depthlm camera photo.jpg --encoder encoders/depthmap --focal 1200 --depth depth --device cuda
"""


def add_camera(subparsers: Any) -> None:
    """Add ``depthlm camera`` to the command line."""
    parser = manual(subparsers, "camera", "Estimate camera and depth of images.", CAMERA, CAMERA_EXAMPLES)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--encoder", metavar="DIR", required=True,
        help="folder made from a student_pointmap.pt; with --focal also from a student_depthmap.pt (depthlm convert)",
    )  # fmt: skip
    parser.add_argument("--focal", type=float, metavar="PX", help="the images' focal length, px (default: estimated)")
    parser.add_argument("--depth", type=Path, metavar="DIR", help="also write NAME.npy there: z in metres, 0 unknown")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.set_defaults(run=_camera)


def _camera(args: Any) -> int:
    from depthlm.errors import DepthLMError
    from depthlm.spatial.encoder import load_encoder
    from depthlm.spatial.estimate import check_heads

    names = [path.stem for path in args.images]
    if args.depth is not None and len(set(names)) < len(names):
        raise DepthLMError("--depth", "two images have the same name, and so would their maps", "do them one by one")
    if args.depth is not None:
        _make(args.depth)
    device = _device(args.device)
    encoder = load_encoder(args.encoder)
    check_heads(encoder, args.focal)
    encoder, failed = encoder.to(device), 0
    for path in args.images:
        try:
            print(json.dumps(_told(encoder, path, args.focal, args.depth)), flush=True)
        except DepthLMError as error:
            logger.error("error: %s", DepthLMError(path, error.reason, error.mend))
            failed += 1
    return 1 if failed else 0


def _make(folder: Path) -> None:
    from depthlm.errors import DepthLMError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DepthLMError("--depth", f"{folder} can't be made: {error.strerror}", "give another folder") from error


def _device(name: str) -> Any:
    import torch

    from depthlm.errors import DepthLMError

    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        mend = "give cpu, or cuda where PyTorch finds a GPU"
        raise DepthLMError("--device", f"PyTorch can't use {name!r} on this machine", mend) from error
    return torch.device(name)


def _told(encoder: Any, path: Path, focal: float | None, depth: Path | None) -> dict[str, Any]:
    """What is printed of an image, once its depth is written where that is asked for."""
    import numpy as np

    from depthlm.errors import DepthLMError
    from depthlm.frame import decode_rgb
    from depthlm.spatial.estimate import estimate

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DepthLMError(path, f"can't be read: {error.strerror}", "give an image's file") from error
    found = estimate(encoder, decode_rgb(data, str(path)), focal)
    if depth is not None:
        try:
            np.save(depth / f"{path.stem}.npy", found.z)
        except OSError as error:
            raise DepthLMError(path, f"its depth can't be written: {error.strerror}", "free space") from error
    camera = found.camera
    line = {"image": str(path), "width": camera.width, "height": camera.height}
    line |= {name: round(getattr(camera, name), 3) for name in ("fx", "fy", "cx", "cy")}
    return line | {"fov_deg": [round(v, 2) for v in camera.fov_deg], "estimated": focal is None}
