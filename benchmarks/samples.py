"""CPU time of one training sample: from an encoded frame to a marked canonical image with its question.

    python benchmarks/samples.py                                # against a plain re-statement of the published steps
    python benchmarks/samples.py --reference DepthLM_Official   # against the published loader itself, from its checkout

All ways take turns on the same frames in one process with one thread, so that ratios hold on a busy machine. The last
column says how far the canonical pixels are from the same resampling done in float64 (8-bit levels: mean, largest).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data_gen.readers.procedural import ProceduralReader
from depthlm.canonical import render_view
from depthlm.dataset import DataConfig, SampleDataset
from depthlm.frame import Frame
from depthlm.store import FrameStore, write_shard

FOCAL = 1000.0
SIZES = {"640x480 PNG": (640, 480, "PNG"), "1920x1080 JPEG": (1920, 1080, "JPEG")}
NOISE = 2.0  # levels: without a sensor's noise a PNG of a drawn scene is too easy to decode


def make_frames(folder: Path, width: int, height: int, form: str, count: int) -> tuple[Path, Path]:
    """The same frames as a store and as the published loader's files; returns both."""
    reader = ProceduralReader(
        count, views=1, width=width, height=height, seed=5, labels=100, fov=(55.0, 65.0), quality=0
    )
    store, lines = folder / "store", folder / "frames.jsonl"
    store.mkdir()
    frames = []
    with lines.open("w", encoding="utf-8") as file:
        for key in reader.keys():
            frame = reader.read(key)
            noisy = frame.pixels() + np.random.default_rng(len(frames)).normal(0, NOISE, (height, width, 3))
            buffer = io.BytesIO()
            options = {"quality": 95} if form == "JPEG" else {}
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, form, **options)
            name = f"{len(frames):06d}.{form.lower()}"
            (folder / name).write_bytes(buffer.getvalue())
            c = frame.camera
            frames.append(Frame(key, buffer.getvalue(), c, frame.xy, frame.z, frame.scene, frame.dataset))
            row = {"image": name, "intrinsics": [c.fx, c.fy * 1.001, c.cx, c.cy, width, height]}  # as real cameras have
            row |= {"pixel_coords": frame.xy.tolist(), "depth": frame.z.tolist()}
            file.write(json.dumps(row) + "\n")
    write_shard(store / "frames-000000.parquet", frames)
    return store, lines


def restated(lines: Path) -> Callable[[int], Any]:
    """The published steps in plain code: open, undistort, resize the whole image, crop, draw the arrow."""
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    rng = np.random.default_rng(0)

    def sample(i: int) -> Any:
        row = rows[i % len(rows)]
        fx, fy, cx, cy, w, h = row["intrinsics"]
        image = Image.open(lines.parent / row["image"]).convert("RGB")
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        new, _ = cv2.getOptimalNewCameraMatrix(k, np.zeros(5), (w, h), 1, (w, h))
        image = Image.fromarray(cv2.undistort(np.array(image), k, np.zeros(5), None, new))
        image = image.resize((round(w * FOCAL / fx), round(h * FOCAL / fx)))
        width, height = (min(s, n) for s, n in zip(image.size, (1400, 1200), strict=True))
        left, top = (int(rng.integers(0, s - n + 1)) for s, n in zip(image.size, (width, height), strict=True))
        pixels = np.array(image.crop((left, top, left + width, top + height)))
        point = int(rng.integers(len(row["depth"])))
        x, y = (int(v * FOCAL / fx) for v in row["pixel_coords"][point])
        cv2.arrowedLine(pixels, (x - left - 6, y - top), (x - left - 1, y - top), (255, 0, 0), 1)
        return pixels, f"<answer> {row['depth'][point]:.2f} </answer>"

    return sample


def published(checkout: Path, lines: Path) -> Callable[[int], Any]:
    """The published loader, from a checkout of its repository."""
    spec = importlib.util.spec_from_file_location("published_datasets", checkout / "utils" / "datasets.py")
    assert spec and spec.loader
    module: ModuleType = importlib.util.module_from_spec(spec)
    with contextlib.redirect_stdout(sys.stderr):
        spec.loader.exec_module(module)
        dataset = module.dataset_train(str(lines), str(lines.parent))
    return lambda i: dataset[i]


def ours(store: Path, samples_per_image: int) -> Callable[[int], Any]:
    config = DataConfig([str(store)], mix={"distance": 1.0}, samples_per_image=samples_per_image)
    dataset = SampleDataset(config, 1 << 30)
    return lambda i: dataset[i]


def deviation(store: Path) -> tuple[float, float]:
    """Mean and largest difference of our canonical images from a float64 resampling of the same region."""
    from depthlm.canonical import plan_view
    from depthlm.profiles import PROFILES

    means, most = [], 0.0
    for frame in list(FrameStore(store))[:8]:
        view = plan_view(frame.camera, PROFILES.get("qwen2.5-vl").canonical("normalize"))
        pixels = frame.pixels()
        x = view.to_source([[x, 0] for x in range(view.camera.width)])[:, 0]
        y = view.to_source([[0, y] for y in range(view.camera.height)])[:, 1]
        rows, columns = weights(y, pixels.shape[0]), weights(x, pixels.shape[1])
        exact = np.einsum("yh,hwc,xw->yxc", rows, pixels.astype(np.float64), columns, optimize=True).clip(0, 255)
        difference = np.abs(render_view(pixels, view) - exact)
        means.append(difference.mean())
        most = max(most, difference.max())
    return float(np.mean(means)), float(most)


def weights(at: np.ndarray, size: int) -> np.ndarray:
    """(outputs, size) float64 weights of the source pixels for outputs at these source positions: Keys' cubic
    (a = -0.75) where the image grows, a tent after a Gaussian of (shrink - 1) / 2 where it shrinks."""
    shrink = (at[-1] - at[0]) / (len(at) - 1)
    reach = 64
    padded = np.arange(-reach, size + reach)
    d = np.abs(padded - at[:, None])
    if shrink <= 1:
        a = -0.75
        near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
        w = np.where(d < 1, near, np.where(d < 2, far, 0))
    else:
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / ((shrink - 1) / 2)) ** 2)
        w = np.apply_along_axis(np.convolve, 1, np.clip(1 - d, 0, None), taps / taps.sum(), "same")
    out = w[:, reach:-reach].copy()  # beyond the border its pixels go on
    out[:, 0] += w[:, :reach].sum(1)
    out[:, -1] += w[:, -reach:].sum(1)
    return out


def cpu_ms(ways: dict[str, Callable[[int], Any]], samples: int, rounds: int) -> Iterator[tuple[str, float]]:
    """Median CPU milliseconds of a sample for each way; the ways alternate."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(0)
    for r in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            for i in range(samples):
                way(r * samples + i)
            times[name].append((time.process_time() - start) / samples * 1e3)
    for name, values in times.items():
        yield name, statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of facebookresearch/DepthLM_Official")
    parser.add_argument("--frames", type=int, default=24, help="frames of each size (default: 24)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default: 5)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    for name, (width, height, form) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            store, lines = make_frames(Path(folder), width, height, form, args.frames)
            base = "published loader" if args.reference else "published steps, re-stated"
            ways = {base: published(args.reference, lines) if args.reference else restated(lines)}
            ways |= {"ours, 1 label an image": ours(store, 1), "ours, 16 labels an image": ours(store, 16)}
            mean, most = deviation(store)
            print(f"\n{name} -> canonical {FOCAL:.0f} px")
            results = dict(cpu_ms(ways, 16 * args.frames // 4, args.rounds))
            for way, ms in results.items():
                exact = "" if way == base else f"   {mean:.2f}, {most:.1f} levels"
                print(f"  {way:28} {ms:7.2f} CPU ms  {results[base] / ms:5.1f}x{exact}")


if __name__ == "__main__":
    main()
