"""``depthlm ask``: a measurement in a photo, from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from depthlm.cli import manual
from depthlm.errors import DepthLMError
from depthlm.photo import ENCODER_VARIABLE
from depthlm.profiles import PROFILES
from depthlm.questions import KINDS

ASK = f"""\
IMAGE is asked about the points that are given in its own pixels (x to the right, y down, of the upright image). What
is asked: one point, its distance; two points, how far they are apart; a time, the speed to get there; a speed, the time
it takes; two images, how far the camera has moved between them; or what --kind says.

Who answers, one of:
  --endpoint  a gateway (`depthlm serve`), or any OpenAI-compatible server; for those the image is drawn here
  --model     a model folder, an adapter or a hub name, run here by transformers; nano is the small built-in one

The camera: --fov or --intrinsics; else the photo's EXIF focal length; else what the spatial encoder of --encoder (or of
the environment variable {ENCODER_VARIABLE}) estimates; else that of a phone, with a warning.

Prints the value with the interval that holds 90% of the model's answers. The exit status is 1 where the answer holds
no number.
"""
ASK_EXAMPLES = """\
  depthlm ask photo.jpg --point 320,240 --model nano
  depthlm ask photo.jpg --point 320,240 --fov 70 --endpoint http://127.0.0.1:8000
  depthlm ask photo.jpg --point door=320,240 --point table=100,400 --intrinsics 525,525,319.5,239.5 --json
  depthlm ask first.jpg second.jpg --fov 70
"""


def add(subparsers: Any) -> None:
    """Add ``depthlm ask`` to the command line."""
    parser = manual(subparsers, "ask", "Measure in a photo.", ASK, ASK_EXAMPLES)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image file; two for camera motion")
    parser.add_argument(
        "--point", action="append", default=[], type=_point, metavar="[NAME=]X,Y", help="px; once or twice"
    )
    parser.add_argument("--kind", metavar="KIND", help=f"one of: {', '.join(KINDS.names())}")
    parser.add_argument("--time", type=float, metavar="S", help="seconds in which the point is to be reached")
    parser.add_argument("--speed", type=float, metavar="M/S", help="at which the point is approached")
    add_camera_arguments(parser)
    add_answerer_arguments(parser)
    parser.add_argument(
        "--samples", type=int, default=1, metavar="N",
        help="draw N answers: their median, and the interval of 90%% of them (default: the likeliest answer)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print everything that is known of the measurement")
    parser.set_defaults(run=_ask)


def add_camera_arguments(parser: argparse.ArgumentParser) -> None:
    """What is known of a photo's camera; read by `camera_options`."""
    group = parser.add_argument_group("camera")
    group.add_argument("--fov", type=float, metavar="DEG", help="horizontal field of view of the upright image")
    group.add_argument("--intrinsics", type=numbers, default=(), metavar="FX[,FY[,CX,CY]]", help="px")
    group.add_argument(
        "--distortion", type=numbers, default=(), metavar="K1,K2,P1,P2,…",
        help="OpenCV coefficients; a negative first: --distortion=-0.1,…",
    )  # fmt: skip
    group.add_argument("--encoder", metavar="DIR", help="spatial encoder that estimates an unknown camera")


def camera_options(args: argparse.Namespace) -> dict[str, Any]:
    """The camera's arguments as keyword arguments of `depthlm.Client.measure`."""
    return {"fov": args.fov, "intrinsics": args.intrinsics, "distortion": args.distortion}


def add_answerer_arguments(parser: argparse.ArgumentParser) -> None:
    """Who answers."""
    group = parser.add_argument_group("who answers")
    group.add_argument("--endpoint", metavar="URL", help="server (default: $DEPTHLM_URL, else http://127.0.0.1:8000)")
    group.add_argument("--name", metavar="MODEL", help="the model's name there, where there are several")
    group.add_argument("--model", metavar="DIR|NAME", help="model that is run here")
    group.add_argument("--profile", metavar="NAME", help=f"how it is asked; one of: {', '.join(PROFILES.names())}")


def numbers(text: str) -> tuple[float, ...]:
    """``1,2.5`` as numbers; an argument's type."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, as 525,525,319.5,239.5 is") from error


def _point(text: str) -> tuple[str, float, float]:
    name, _, pixel = text.rpartition("=")
    try:
        x, y = (float(part) for part in pixel.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no point, as 320,240 or door=320,240 is") from error
    return name, x, y


def _ask(args: argparse.Namespace) -> int:
    from depthlm.serving.client import Client

    if len(args.images) > 2:
        raise DepthLMError("depthlm ask", f"{len(args.images)} images", "one question is about one image, or two")
    if args.model is not None and (args.endpoint is not None or args.name is not None):
        raise DepthLMError("depthlm ask", "--model is run here, --endpoint and --name are a server's", "drop one")
    with Client(args.endpoint, model=args.name, local=args.model, profile=args.profile, encoder=args.encoder) as client:
        found = client.measure(
            args.images[0],
            [(x, y) for _, x, y in args.point],
            kind=args.kind,
            second_image=args.images[1] if len(args.images) > 1 else None,
            names=[name for name, _, _ in args.point],
            time=args.time,
            speed=args.speed,
            samples=args.samples,
            **camera_options(args),
        )
    for warning in found.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(json.dumps(found.to_dict(), ensure_ascii=False) if args.json else found)
    return 0 if found.value is not None else 1
