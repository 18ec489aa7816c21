"""Curation: killed at any moment and begun again it comes to the same store; what is skipped is counted."""

import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import encode_png, make_frame

from data_gen.curate import curate
from data_gen.readers.procedural import ProceduralReader
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.store import FrameStore

ROOT = Path(__file__).parents[2]
ARGS = ("data", "synthetic", "--scenes", "24", "--views", "2", "--size", "96x72", "--frames-per-shard", "4")


class ListReader:
    """Frames from memory; a key that begins with ``bad`` is unusable, one that begins with ``gone`` is no file."""

    name = "list"

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys

    def keys(self) -> list[str]:
        return self._keys

    def settings(self) -> dict:
        return {"of": "memory"}

    def read(self, key: str):
        if key.startswith("bad"):
            raise DepthLMError("intrinsics", "fx is 0", kind="bad intrinsics")
        if key.startswith("gone"):
            raise FileNotFoundError(f"no {key}.png")
        return make_frame(key)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*")) if not p.name.startswith(".")}


def start(out: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "depthlm.cli", *ARGS, "--out", str(out), "--workers", str(workers)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_begun_again_gives_the_same_bytes(tmp_path, workers):
    """kill -9 as soon as some shards are there, twice; then run to the end."""
    reader = ProceduralReader(24, views=2, width=96, height=72)
    curate(reader, tmp_path / "whole", frames_per_shard=4)
    out = tmp_path / "killed"
    for shards in (2, 6):
        process = start(out, workers)
        while len(list(out.glob("*.parquet"))) < shards and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        with pytest.raises(DepthLMError, match="did not finish"):
            FrameStore(out)
    assert start(out, workers).wait() == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.glob(".*.tmp-*"))


def test_workers_outlive_no_killed_parent(tmp_path):
    process = start(tmp_path / "out", 2)
    while not list((tmp_path / "out").glob("*.parquet")) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while group_alive(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not group_alive(process.pid)


def group_alive(group: int) -> bool:
    """Whether a process of that group still runs (a zombie does not)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            return True
    return False


def test_a_finished_store_is_left_as_it_is(tmp_path):
    reader = ListReader(["a", "b", "c"])
    curate(reader, tmp_path / "s", frames_per_shard=2)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.parquet")}
    curate(reader, tmp_path / "s", frames_per_shard=2)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.parquet")} == before


def test_skipped_frames_are_counted_by_reason(tmp_path):
    report = curate(ListReader(["a", "bad-1", "b", "gone-1", "bad-2"]), tmp_path / "s", frames_per_shard=2)
    assert report.counts == {"bad intrinsics": 2, "unreadable file": 1}
    written = json.loads((tmp_path / "s" / "report.json").read_text())
    assert written["frames"] == 2
    assert written["keys"] == 5
    assert written["skipped"]["bad intrinsics"]["examples"] == [
        "bad-1: intrinsics: fx is 0",
        "bad-2: intrinsics: fx is 0",
    ]
    assert FrameStore(tmp_path / "s").ids == ["s/a", "s/b"]


def test_what_a_reader_did_not_expect_costs_one_frame(tmp_path):
    """A table of another form than documented: one frame is counted, the others are kept."""

    class Surprised(ListReader):
        def read(self, key):
            return {}["rotation"] if key == "odd" else super().read(key)

    report = curate(Surprised(["a", "odd", "b"]), tmp_path / "s")
    assert (
        report.counts == {"not understood (KeyError)": 1}
        and "odd: 'rotation'" in report.examples[next(iter(report.counts))][0]
    )
    assert FrameStore(tmp_path / "s").ids == ["s/a", "s/b"]

    class Lost(ListReader):
        def keys(self):
            return [None.name]

    with pytest.raises(DepthLMError, match="can't list the frames: AttributeError"):
        curate(Lost([]), tmp_path / "t")


@pytest.mark.parametrize(
    ("keys", "kw", "says"),
    [
        ([], {}, "found no frame"),
        (["a", "a"], {}, "gives some key twice"),
        (["a"], {"workers": 0}, "workers: must be at least 1, got 0"),
        (["a"], {"frames_per_shard": 0}, "frames_per_shard: must be at least 1"),
        (["a"], {"limit": 0}, "limit: must be at least 1"),
        (["bad"], {}, "no frame was usable: 1 skipped"),
    ],
)
def test_what_cannot_be_curated(tmp_path, keys, kw, says):
    with pytest.raises(DepthLMError, match=says):
        curate(ListReader(keys), tmp_path / "s", **kw)


def test_another_source_never_enters_a_store(tmp_path):
    curate(ListReader(["a", "b"]), tmp_path / "s")
    before = contents(tmp_path / "s")
    with pytest.raises(DepthLMError, match=r"begun with other settings: .*frames_per_shard 64 → 2"):
        curate(ListReader(["a", "b"]), tmp_path / "s", frames_per_shard=2)
    with pytest.raises(DepthLMError, match=r"keys 2 → 3"):
        curate(ListReader(["a", "b", "c"]), tmp_path / "s")
    assert contents(tmp_path / "s") == before


def test_a_folder_of_other_things_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DepthLMError, match=r"no frame store and not empty \(it holds thesis.tex\)"):
        curate(ListReader(["a"]), tmp_path)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["thesis.tex"]


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DepthLMError, match=r"file/store: can't be written: Not a directory \(choose another --out\)"):
        curate(ListReader(["a"]), tmp_path / "file" / "store")


def test_a_full_disk_is_one_error_and_nothing_is_lost(tmp_path):
    """No file may grow beyond the median shard: the first that does not fit ends the run; with room it goes on."""
    reader = ProceduralReader(24, views=2, width=96, height=72)
    curate(reader, tmp_path / "whole", frames_per_shard=4)
    sizes = [len(data) for name, data in contents(tmp_path / "whole").items() if name.endswith(".parquet")]
    room = sorted(sizes)[len(sizes) // 2]
    out = tmp_path / "full"
    code = (
        "import resource, sys; from depthlm.cli import main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY)); sys.exit(main())"
    )
    command = [sys.executable, "-c", code, *ARGS, "--out", str(out), "--workers", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert re.search(r"full/frames-\d{6}\.parquet: can't be written: File too large \(free space", ended.stderr)
    assert not list(out.glob(".*.tmp-*"))
    with pytest.raises(DepthLMError, match="did not finish"):
        FrameStore(out)
    assert start(out, 1).wait() == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_two_frames_of_one_id_never_come_into_a_store(tmp_path):
    """Two keys, one id: in one shard as in two."""

    class Twice(ListReader):
        def read(self, key):
            return make_frame("same" if key in "bd" else key)

    for frames_per_shard in (1, 4):
        with pytest.raises(DepthLMError, match="frame id 's/same' occurs 2 times"):
            curate(Twice(["a", "b", "c", "d"]), tmp_path / f"s{frames_per_shard}", frames_per_shard=frames_per_shard)
        with pytest.raises(DepthLMError):
            FrameStore(tmp_path / f"s{frames_per_shard}")


def test_an_image_that_would_fill_the_memory_is_skipped_unopened(tmp_path):
    """A PNG of some hundred bytes that says it is 60000x60000: refused by its header, before a pixel is unpacked."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    bomb += encode_png(np.zeros((4, 4, 3), np.uint8))[33:]

    class Bomb(ListReader):
        def read(self, key):
            frame = make_frame(key)
            camera = Camera.from_fov(60_000, 60_000, 70)
            return Frame(key, bomb, camera, [[3, 4]], [2.0], "s", "wall") if key == "bomb" else frame

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = curate(Bomb(["a", "bomb", "b"]), tmp_path / "s")
    assert len(FrameStore(tmp_path / "s")) == 2
    assert report.counts == {"image too large": 1}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB; the image would take 10 GB"


def test_two_writers_do_not_mix(tmp_path):
    process = start(tmp_path / "s", 1)
    try:
        while not (tmp_path / "s" / "store.json").exists():
            time.sleep(0.01)
        with pytest.raises(DepthLMError, match="another process is writing this store"):
            curate(ListReader(["a"]), tmp_path / "s")
    finally:
        process.kill()
        process.wait()


def test_limit_takes_the_first(tmp_path):
    curate(ListReader(["a", "b", "c"]), tmp_path / "s", limit=2)
    store = FrameStore(tmp_path / "s")
    assert store.ids == ["s/a", "s/b"]
    assert np.isfinite(store[0].z).all()


class DyingReader(ListReader):
    """The first process that reads ``b`` dies of it."""

    def __init__(self, keys: list[str], mark: Path) -> None:
        super().__init__(keys)
        self.mark = mark

    def read(self, key: str):
        if key == "b" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(key)


class DeadlyReader(ListReader):
    def read(self, key: str):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_costs_its_group_alone(tmp_path):
    keys = [f"{i}" for i in range(6)] + ["b", "c"]
    curate(ListReader(keys), tmp_path / "whole", frames_per_shard=2)
    report = curate(DyingReader(keys, tmp_path / "mark"), tmp_path / "s", workers=2, frames_per_shard=2)
    assert (tmp_path / "mark").exists()
    assert not report.counts
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_workers_that_always_die_end_the_run(tmp_path):
    with pytest.raises(DepthLMError, match="died, again and again, perhaps for lack of memory"):
        curate(DeadlyReader(["a", "b", "c", "d"]), tmp_path / "s", workers=2, frames_per_shard=2)


@pytest.fixture
def two_nodes():
    """A Ray cluster of two nodes with one core each, on this machine."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}  # the readers of this file, for the workers
    ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": paths})
    yield ray
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_bytes_though_a_worker_dies(tmp_path, two_nodes):
    assert sum(node["Alive"] for node in two_nodes.nodes()) == 2
    keys = [f"{i}" for i in range(6)] + ["b", "c"]
    curate(ListReader(keys), tmp_path / "whole", frames_per_shard=2)
    reader = DyingReader(keys, tmp_path / "mark")
    curate(reader, tmp_path / "s", workers=4, frames_per_shard=2, engine="ray")
    assert (tmp_path / "mark").exists()
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_an_unknown_engine(tmp_path):
    with pytest.raises(DepthLMError, match="engine: 'dask' is not known"):
        curate(ListReader(["a"]), tmp_path / "s", engine="dask")
