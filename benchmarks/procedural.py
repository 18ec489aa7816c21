"""Procedural frames per second on one core: scene, ray casting, labels and JPEG, as `depthlm data synthetic` does.

    python benchmarks/procedural.py --size 320x240

Prints the median over several batches, and what share of the time each part takes: shares of one run can be compared
between machines, frames per second can't.
"""

from __future__ import annotations

import argparse
import statistics
import time

from data_gen.procedural.raycast import render
from data_gen.readers.procedural import ProceduralReader

BATCH = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="320x240", help="image size (default: 320x240)")
    parser.add_argument("--batches", type=int, default=7, help=f"batches of {BATCH} frames (default: 7)")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    reader = ProceduralReader(args.batches * BATCH, views=4, width=width, height=height, seed=1)
    keys = reader.keys()
    reader.read(keys[0])  # compiles
    rates, cast = [], []
    for batch in range(args.batches):
        part = keys[batch * BATCH : (batch + 1) * BATCH]
        start = time.perf_counter()
        for key in part:
            reader.read(key)
        whole = time.perf_counter() - start
        rates.append(BATCH / whole)
        cast.append(ray_casting(reader, part) / whole)
    low, high = min(rates), max(rates)
    print(f"{args.size}, one core: {statistics.median(rates):.0f} frames/s (median; {low:.0f} to {high:.0f})")
    print(f"ray casting: {100 * statistics.median(cast):.0f}% of the time; the rest is scenes, labels and JPEG")


def ray_casting(reader: ProceduralReader, keys: list[str]) -> float:
    """Seconds for the rays of these frames alone."""
    total = 0.0
    for key in keys:
        index, view = map(int, key.split("/"))
        scene, cameras = reader._scene(index)
        if view < len(cameras):
            start = time.perf_counter()
            render(scene, cameras[view])
            total += time.perf_counter() - start
    return total


if __name__ == "__main__":
    main()
