"""Time and memory to open a store of a million frames, against reading the same list from JSON Lines with pandas.

    python benchmarks/open_store.py --frames 1000000

Each way runs in a process of its own; memory is what the process holds beyond its imports. The frames have no image
worth looking at: opening reads none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depthlm.store import SCHEMA
from depthlm.store_index import INDEX_FILE, index_bytes

PER_SHARD = 1000
LABELS = 10

MEASURE = """
import sys, time
{imports}
def held():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024
before, start = held(), time.perf_counter()
{open}
print(time.perf_counter() - start, held() - before, rows)
"""
WAYS = {
    "frame store": (
        "from depthlm.store import FrameStore",
        "s = FrameStore(sys.argv[1]); s[len(s) // 2]; rows = len(s)",
    ),
    "JSON Lines, pandas": ("import pandas", "s = pandas.read_json(sys.argv[1], lines=True); rows = len(s)"),
    "JSON Lines, json": ("import json", "s = [json.loads(x) for x in open(sys.argv[1])]; rows = len(s)"),
}


def make(folder: Path, frames: int) -> Path:
    """Write the store and the JSON Lines file of the same frames; returns the latter's path."""
    rng = np.random.default_rng(0)
    lines = folder / "frames.jsonl"
    with lines.open("w", encoding="utf-8") as file:
        for number in range(frames // PER_SHARD):
            xy, z = rng.integers(0, 480, (PER_SHARD, LABELS, 2)), rng.uniform(0.5, 60, (PER_SHARD, LABELS)).round(3)
            rows = []
            for i in range(PER_SHARD):
                name = f"scene-{number:06d}/{i:06d}"
                row = dict.fromkeys(SCHEMA.names)
                row |= {"id": name, "image": {"bytes": b"", "path": None}, "width": 640, "height": 480}
                row |= {"fx": 525.0, "fy": 525.0, "cx": 319.5, "cy": 239.5, "distortion": []}
                row |= {"label_x": xy[i, :, 0], "label_y": xy[i, :, 1], "label_z": z[i]}
                row |= {"scene": f"scene-{number:06d}", "dataset": "d", "split": "train", "licence": ""}
                rows.append(row)
                old = {"image": name + ".jpg", "intrinsics": [525.0, 525.0, 319.5, 239.5, 640, 480]}
                file.write(json.dumps(old | {"pixel_coords": xy[i].tolist(), "depth": z[i].tolist()}) + "\n")
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            pq.write_table(table, folder / f"frames-{number:06d}.parquet", row_group_size=16, compression="NONE")
    (folder / INDEX_FILE).write_bytes(index_bytes(folder, SCHEMA.names))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000, help="frames (default: 1000000)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        lines = make(Path(folder), args.frames)
        print(f"{args.frames} frames written in {time.perf_counter() - start:.0f} s")
        times = {}
        for name, (imports, code) in WAYS.items():
            script = MEASURE.format(imports=imports, open=code)
            source = folder if name == "frame store" else str(lines)
            out = subprocess.run([sys.executable, "-c", script, source], check=True, stdout=subprocess.PIPE, text=True)
            seconds, mib, rows = map(float, out.stdout.split())
            times[name] = seconds
            print(f"{name:20} {seconds:8.2f} s {mib:8.0f} MiB  {rows:.0f} rows  x{seconds / times['frame store']:.1f}")


if __name__ == "__main__":
    main()
