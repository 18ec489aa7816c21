"""``depthlm convert``: a released checkpoint as a folder that recipes and servers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from depthlm.cli import manual

CONVERT = """\
CHECKPOINT is a file as its authors released it; which one it is, its keys tell:
  student_pointmap.pt   DINOv2 ViT-L/14 with point map heads: features, depth and focal length
  student_depthmap.pt   DINOv3 ViT-H+/16: features (its depth decoder is left out)
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
        "--num-tokens", type=int, help="patches an image is cut into (default: what the checkpoint was made for)"
    )
    parser.set_defaults(run=_convert)


def _convert(args: Any) -> None:
    from depthlm.spatial.metric_anything import convert

    convert(args.checkpoint, args.out, args.num_tokens)
