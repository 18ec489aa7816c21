"""``depthlm cloud IMAGE``: a photo's depth map and point cloud from a model that answers one point at a time."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from depthlm.cli import manual
from depthlm.errors import DepthLMError
from depthlm.serving.ask import add_camera_arguments

SUMMARY = "depth map and coloured point cloud of an image, from a grid of questions"
DESCRIPTION = """\
Asks how far a grid of points is away, many at once, and writes into --out
  points.jsonl          every answer as it came; an interrupted run continues from it
  depth.npy, depth.png  z at the image's resolution: float32 metres; 16-bit counts (millimetres, unless farther than
                        65.535 m: cloud.json and the PNG's text depth_unit_m say how many metres a count is)
  grid.npz              z at the grid's points, and which of them were asked
  cloud.ply, cloud.glb  the points in the image's colours, metres; with --dense also dense.ply, dense.glb: one for each
                        pixel whose depth is known. PLY keeps OpenCV's axes (x right, y down, z forward), GLB has
                        glTF's (y up)
  preview.png           all of it in one picture
  cloud.json            camera, counts, and each point that is unknown with the reason

0 stands for an unknown depth. Pixels between neighbouring points of one surface are interpolated; nothing is across
a depth edge.

Every fourth point is asked first, then finer where neighbours differ by more than --threshold (--no-adaptive asks
all). What answers:
  --model      a model folder, an adapter folder or a hub name: vLLM is started for it, and stopped;
               with --local it is run in this process by transformers instead
  --endpoint   any OpenAI-compatible chat interface, `depthlm serve` too; its key is read from DEPTHLM_API_KEY

The camera is what --fov or --intrinsics say; else the image's EXIF; else what --encoder estimates; else an assumed one,
which is said.
"""
EXAMPLES = """\
  depthlm cloud photo.jpg --model runs/model --out cloud
  depthlm cloud photo.jpg --endpoint http://localhost:8000 --grid 64x48 --markers 4 --out cloud
  depthlm cloud frame.png --model nano --local --intrinsics 525,525,319.5,239.5 --grid 16x12 --out cloud
"""


def add(subparsers: Any) -> None:
    """Add ``depthlm cloud``."""
    parser = manual(subparsers, "cloud", SUMMARY, DESCRIPTION, EXAMPLES)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a photo: JPEG, PNG, WebP, TIFF or BMP")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for what is written")
    parser.add_argument("--fresh", action="store_true", help="throw away the answers that --out holds")
    parser.add_argument("--dense", action="store_true", help="also a point cloud of all pixels whose depth is known")
    _add_model(parser)
    add_camera_arguments(parser)
    _add_grid(parser)
    parser.set_defaults(run=run)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what answers")
    group.add_argument("--model", metavar="DIR", help="a model's or an adapter's folder, a hub name, or nano")
    group.add_argument("--local", action="store_true", help="run --model in this process by transformers; no vLLM")
    group.add_argument("--endpoint", metavar="URL", help="address of a server")
    group.add_argument("--name", metavar="MODEL", help="of the model at --endpoint, where it serves several")
    group.add_argument("--profile", help="how the model wants to be asked (default: as its folder or name tells)")
    group.add_argument("--concurrency", type=int, default=32, metavar="N", help="questions at once (default: 32)")
    group.add_argument("--vllm-arg", action="append", default=[], metavar="ARG", help="further argument for vLLM")


def _add_grid(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which points, and how")
    group.add_argument("--grid", type=_grid, metavar="COLUMNSxROWS", help="default: 32 columns, square parts")
    adaptive = argparse.BooleanOptionalAction
    group.add_argument("--adaptive", action=adaptive, default=True, help="ask finer where neighbours disagree")
    group.add_argument("--threshold", type=float, default=0.1, metavar="SHARE", help="of disagreement (default: 0.1)")
    group.add_argument(
        "--edge", type=float, default=0.15, metavar="SHARE", help="of a depth edge between points (default: 0.15)"
    )
    group.add_argument("--markers", type=int, default=1, metavar="K", help="points marked on one image (default: 1)")
    group.add_argument("--conversation", action="store_true", help="ask about these one after the other")


def _grid(text: str) -> tuple[int, int]:
    columns, _, rows = text.lower().partition("x")
    try:
        return int(columns), int(rows)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no grid, as 32x24 is") from error


def run(args: argparse.Namespace) -> int:
    """``depthlm cloud``: 0 all points known, 1 some failed and would be asked again, 130 interrupted."""
    from depthlm.photo import Lens, read_photo
    from depthlm.profiles import PROFILES
    from depthlm.serving.client import image_bytes
    from depthlm.serving.cloud.ask import CloudSettings
    from depthlm.serving.cloud.files import LOG_NAME

    if (args.model is None) == (args.endpoint is None):
        raise DepthLMError("cloud", "names no model" if args.model is None else "names a model and an endpoint",
                           "give --model or --endpoint")  # fmt: skip
    if args.local and args.model is None:
        raise DepthLMError("--local", "goes with --model", "name it")
    settings = CloudSettings(
        args.grid,
        args.adaptive,
        threshold=args.threshold,
        edge=args.edge,
        markers=args.markers,
        together="conversation" if args.conversation else "image",
        concurrency=args.concurrency,
    )
    lens = Lens(args.intrinsics, args.fov, args.distortion)
    photo = read_photo(image_bytes(args.image), lens, encoder=args.encoder, where=str(args.image))
    settings.grid_of(photo)  # this and the next are refused before vLLM's slow start
    if args.profile is not None:
        PROFILES.get(args.profile)
    try:
        with _answering(args) as (answerer, names):
            return asyncio.run(_ask(args, settings, photo, answerer, names))
    except KeyboardInterrupt:
        log = args.out / LOG_NAME
        if log.exists():
            print(f"\nstopped; the answers so far are in {log}: run the same command again to go on")
        raise


@contextmanager
def _answering(args: argparse.Namespace) -> Iterator[tuple[Any, Sequence[str]]]:
    """Who answers, not started yet, and the names by which is known how to ask."""
    from depthlm.models.loading import adapter_base, is_adapter, resolve
    from depthlm.serving.answerers import LocalAnswerer, ServerAnswerer
    from depthlm.serving.endpoint import ChatEndpoint
    from depthlm.serving.vllm_process import VLLMServer

    if args.endpoint is not None:
        yield ServerAnswerer(ChatEndpoint(args.endpoint, args.name)), [args.name or ""]
        return
    base, adapter = args.model, None
    if is_adapter(args.model):
        base, adapter = adapter_base(args.model), args.model
    names = [str(name) for name in (adapter, resolve(base)) if name]
    if args.local:
        yield LocalAnswerer(base, adapter), names
        return
    print(f"starting vLLM with {args.model}", flush=True)
    with VLLMServer(base, adapter=adapter, extra_args=args.vllm_arg) as server:
        # BMP is quicker to pack and unpack, and the way is short
        yield ServerAnswerer(ChatEndpoint(server.base_url, server.model_name), "bmp"), names


async def _ask(args: argparse.Namespace, settings: Any, photo: Any, answerer: Any, names: Sequence[str]) -> int:
    from tqdm import tqdm

    from depthlm.serving.cloud.ask import ask_cloud
    from depthlm.serving.cloud.files import LOG_NAME, write_cloud
    from depthlm.serving.spatial_model import SpatialModel

    try:
        await answerer.start()
        asked_as, notes = await _how_to_ask(answerer, names, args.profile)
        model = SpatialModel(answerer, asked_as, args.encoder, notes=notes)
        for warning in filter(None, [photo.warning, *notes]):
            print(f"note: {warning}")
        with tqdm(unit="point", desc="asking", dynamic_ncols=True) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            cloud = await ask_cloud(model, photo, settings, args.out / LOG_NAME, show, fresh=args.fresh)
        made = await asyncio.to_thread(write_cloud, cloud, args.out, args.dense)
    finally:
        await answerer.close()
    _report(cloud, made)
    return 1 if any(error.kind != "no room for a marker" for error in cloud.failed.values()) else 0


async def _how_to_ask(answerer: Any, names: Sequence[str], profile: str | None) -> tuple[Any, list[str]]:
    """As a gateway says, where one answers; else by the model's folder or name."""
    from depthlm.models.asked_as import AskedAs
    from depthlm.serving.answerers import ServerAnswerer
    from depthlm.serving.spatial_model import how_to_ask

    if profile is None and isinstance(answerer, ServerAnswerer):
        told = await answerer.endpoint.get_json("/spatial") or {}
        if told.get("object") == "spatial" and "profile" in told:
            return AskedAs(**{key: str(told[key]) for key in ("profile", "intrinsics", "pointing") if key in told}), []
    # a server that was not told which of its models to use has one
    return how_to_ask([name or answerer.model for name in names], profile)


def _report(cloud: Any, made: Sequence[Path]) -> None:
    _, asked = cloud.grid_z()
    if cloud.asked:
        rate = cloud.asked / max(cloud.seconds, 1e-9)
        print(f"{cloud.asked} points asked in {cloud.seconds:.1f} s: {rate:.1f} points/s")
    kept = len(cloud.answers) - cloud.asked
    whole = cloud.grid.columns * cloud.grid.rows
    print(f"{asked.sum()} of the grid's {whole} points have an answer" + (f", {kept} from before" if kept else ""))
    if cloud.unknown:
        print(cloud.skipped)
    for path in made:
        print(path)
