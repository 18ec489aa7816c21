"""How curation grows with its workers: frames a second of 1 and of N, and whether all write the same bytes.

    python benchmarks/curate.py --frames 1200 --workers 2

The source is a plain folder of 640x480 JPEG photographs (noise over gradients) with 16-bit PNG depth. Each round runs
every number of workers once, and the medians are compared, so that what else the machine does counts alike. Starting
the worker processes (imports) is part of the time: the longer the run, the less it matters. `--engine ray` runs the
same on a local Ray cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from data_gen.curate import curate
from data_gen.readers.plain_folder import PlainFolderReader

DIFFERENT = 32  # files written; the rest are links to them


def make(folder: Path, frames: int) -> None:
    """Write the plain folder."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[0:480, 0:640]
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    for i in range(frames):
        image, depth = folder / f"rgb/{i:06d}.jpg", folder / f"depth/{i:06d}.png"
        if i >= DIFFERENT:
            image.hardlink_to(folder / f"rgb/{i % DIFFERENT:06d}.jpg")
            depth.hardlink_to(folder / f"depth/{i % DIFFERENT:06d}.png")
            continue
        ramp = np.stack([xs / 3, ys / 2, (xs + ys) / 5], axis=2) + rng.integers(0, 60, (480, 640, 3))
        Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).save(image, quality=90)
        Image.fromarray((1500 + 4 * ys + xs + rng.integers(0, 9, (480, 640))).astype(np.uint16)).save(depth)
    k = {"fx": 525.0, "fy": 525.0, "cx": 319.5, "cy": 239.5}
    (folder / "intrinsics.json").write_text(json.dumps(k))


def content(store: Path) -> str:
    """A hash over the store's files."""
    files = sorted(path for path in store.iterdir() if not path.name.startswith("."))
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1200, help="frames (default: 1200)")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="numbers of workers besides 1 (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="times each is run (default: 3)")
    parser.add_argument("--engine", default="processes", help="processes or ray (default: processes)")
    args = parser.parse_args()
    seconds: dict[int, list[float]] = {n: [] for n in (1, *args.workers)}
    hashes = set()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        make(source, args.frames)
        for round_ in range(args.rounds):
            for n in seconds:
                out = Path(folder) / f"{round_}-{n}"
                start = time.perf_counter()
                with contextlib.redirect_stderr(io.StringIO()):
                    curate(PlainFolderReader(source), out, workers=n, engine=args.engine if n > 1 else "processes")
                seconds[n].append(time.perf_counter() - start)
                hashes.add(content(out))
    alone = statistics.median(seconds[1])
    for n, times in seconds.items():
        median = statistics.median(times)
        speedup = alone / median
        print(f"{n:3} workers {args.frames / median:8.1f} frames/s   x{speedup:.2f}   {speedup / n:.2f} of {n}")
    print(f"stores: {'all the same bytes' if len(hashes) == 1 else f'{len(hashes)} DIFFERENT ONES'}")


if __name__ == "__main__":
    main()
