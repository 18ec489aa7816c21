"""Dense depth by questions: points/s and accuracy of the ways to ask, in one run against one vLLM server.

    python benchmarks/cloud.py                              # nano; about ten minutes on two cores
    python benchmarks/cloud.py --images 8 --grid 32x24 --rounds 5
    python benchmarks/cloud.py --model Qwen/Qwen2.5-VL-3B-Instruct

Procedural rooms and streets whose depth is exact. Of each way: points/s, the ratio to one marker each (both medians
over the rounds, the ways in turn, the server's caches emptied before each), delta1 and AbsRel of the answers'
distances. Of adaptive and full grid also the points that were asked, and delta1 and AbsRel of the depth of all points
of the grid that both know. Published: 0.4 to 1 s a point with one marker each.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from load import DEVELOPMENT, forget
from numpy.typing import NDArray

from data_gen.procedural.raycast import render
from data_gen.procedural.scene import make_scene
from data_gen.procedural.trajectories import sample_cameras
from depthlm.models.loading import resolve
from depthlm.photo import Photo
from depthlm.serving.answerers import ServerAnswerer
from depthlm.serving.cloud.ask import Cloud, CloudSettings, ask_cloud
from depthlm.serving.cloud.files import write_cloud
from depthlm.serving.endpoint import ChatEndpoint
from depthlm.serving.spatial_model import SpatialModel, how_to_ask
from depthlm.serving.vllm_process import VLLMServer

ALONE = "1 marker each"
ADAPTIVE = "adaptive, 1 marker each"
PUBLISHED = 1 / 0.7  # points/s: the middle of 0.4 to 1 s a point


@dataclass(frozen=True, eq=False)
class View:
    """A photo and its exact z, (H, W) metres, 0 where there is sky."""

    photo: Photo
    z: NDArray[np.float32]

    def at(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """z at (n, 2) px."""
        x, y = np.rint(xy).astype(int).reshape(-1, 2).T
        return self.z[y, x].astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--grid", default="24x18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the adaptive clouds there")
    args = parser.parse_args()
    columns, rows = map(int, args.grid.split("x"))
    full = CloudSettings((columns, rows), adaptive=False, concurrency=args.concurrency)
    ways = {
        ALONE: full,
        "4 on one image, each alone": replace(full, markers=4),
        "8 on one image, each alone": replace(full, markers=8),
        "4 in one conversation": replace(full, markers=4, together="conversation"),
        ADAPTIVE: replace(full, adaptive=True),
    }
    views = [_view(i) for i in range(args.images)]
    os.environ[DEVELOPMENT] = "1"
    with VLLMServer(args.model) as server:
        found = asyncio.run(_all(args, server, views, ways))
    _report(views, found)
    if args.keep is not None:
        for i, cloud in enumerate(found[ADAPTIVE][-1]):
            write_cloud(cloud, args.keep / str(i), dense=True)


def _view(seed: int) -> View:
    rng = np.random.default_rng(1000 + seed)
    scene = make_scene(rng, "room" if seed % 2 == 0 else "street")
    camera = sample_cameras(rng, scene, 1, 640, 480, (55, 80))[0]
    pixels, z = render(scene, camera)
    return View(Photo(pixels, replace(camera, pose=None)), z)


async def _all(
    args: argparse.Namespace, server: VLLMServer, views: Sequence[View], ways: dict[str, CloudSettings]
) -> dict[str, list[list[Cloud]]]:
    """Of each way and round, the clouds of all views."""
    answerer = ServerAnswerer(ChatEndpoint(server.base_url, server.model_name), "bmp")
    await answerer.start()
    asked_as, _ = how_to_ask([resolve(args.model)])
    model = SpatialModel(answerer, asked_as)
    found: dict[str, list[list[Cloud]]] = {name: [] for name in ways}
    try:
        await ask_cloud(model, views[0].photo, CloudSettings((8, 6)))  # warm
        for i in range(args.rounds):
            names = list(ways)[i % len(ways) :] + list(ways)[: i % len(ways)]  # no way is always the first
            for name in names:
                forget(server.base_url)
                found[name].append([await ask_cloud(model, view.photo, ways[name]) for view in views])
                print(f"round {i + 1}: {name}: {_rate(found[name][-1]):.1f} points/s", flush=True)
    finally:
        await answerer.close()
    return found


def _rate(clouds: Sequence[Cloud]) -> float:
    return sum(cloud.asked for cloud in clouds) / sum(cloud.seconds for cloud in clouds)


def _report(views: Sequence[View], found: dict[str, list[list[Cloud]]]) -> None:
    print(f"\n{'':28} {'asked':>6} {'unknown':>7} {'points/s':>8} {'ratio':>6}   delta1  AbsRel   of the points asked")
    for name, rounds in found.items():
        rates = [_rate(clouds) for clouds in rounds]
        ratio = statistics.median(rate / _rate(base) for rate, base in zip(rates, found[ALONE], strict=True))
        asked, unknown = (sum(column) for column in zip(*((c.asked, len(c.unknown)) for c in rounds[0]), strict=True))
        predicted = np.concatenate([cloud.z for cloud in rounds[0]])
        truth = np.concatenate([view.at(cloud.xy) for view, cloud in zip(views, rounds[0], strict=True)])
        delta1, abs_rel = _scores(predicted, truth)
        rate = statistics.median(rates)
        print(f"{name:28} {asked:6} {unknown:7} {rate:8.1f} {ratio:6.2f}   {delta1:6.3f}  {abs_rel:6.3f}")
    _adaptive(views, found[ALONE][0], found[ADAPTIVE][0])
    alone = statistics.median(_rate(clouds) for clouds in found[ALONE])
    hours = 256 * 192 / alone / 3600
    print(f"a 256x192 map, {ALONE}: {hours:.2f} h; the published way {256 * 192 / PUBLISHED / 3600:.1f} h on its model")


def _adaptive(views: Sequence[View], full: Sequence[Cloud], adaptive: Sequence[Cloud]) -> None:
    grids = [(view, a.grid_z()[0], b.grid_z()[0]) for view, a, b in zip(views, full, adaptive, strict=True)]
    truth = np.concatenate([view.at(cloud.grid.xy) for view, cloud in zip(views, full, strict=True)])
    whole, part = (np.concatenate([grid[i].ravel() for grid in grids]).astype(np.float64) for i in (1, 2))
    both = (whole > 0) & (part > 0)
    share = sum(c.asked for c in adaptive) / sum(c.asked for c in full)
    print(
        f"\nadaptive asks {share:.2f} of the full grid's points; of the depth at all {both.sum()} points known to both"
    )
    for name, z in (("full", whole), ("adaptive", part)):
        delta1, abs_rel = _scores(z[both], truth[both])
        print(f"  {name:9} delta1 {delta1:.3f}  AbsRel {abs_rel:.3f}")
    apart = np.maximum(whole[both] / part[both], part[both] / whole[both])
    print(
        f"  apart by more than 10% at {(apart > 1.1).mean():.3f} of them, more than 25% at {(apart > 1.25).mean():.3f}"
    )
    maps = [np.mean([(cloud.depth_map() > 0).mean() for cloud in clouds]) for clouds in (full, adaptive)]
    print(f"  pixels of the image with a depth: {maps[0]:.3f} full, {maps[1]:.3f} adaptive")


def _scores(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[float, float]:
    """delta1 and AbsRel where there is a truth; at one pixel the ratios of z and of distance are the same."""
    predicted, truth = predicted[truth > 0], truth[truth > 0]
    ratio = np.maximum(predicted / truth, truth / predicted)
    return float((ratio < 1.25).mean()), float(np.nanmean(np.abs(predicted - truth) / truth))


if __name__ == "__main__":
    main()
