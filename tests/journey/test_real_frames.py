"""On real photographs: curated, frozen and scored, against an independent computation from the label file."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from depthlm.cli import main
from depthlm.suite import read_suite

ROOT = Path(__file__).parents[2]


def run(*words: object) -> None:
    assert main([str(w) for w in words]) == 0


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> tuple[Path, Path]:
    labels = ROOT.parent / "shared" / "data" / "ibims1_dev" / "ibims1_dev.jsonl"
    if not labels.is_file():
        pytest.skip("the real test frames (../shared/data/ibims1_dev) are not here")
    out = tmp_path_factory.mktemp("real")
    run("data", "curate", "depthlm-jsonl", labels, "--out", out / "store", "--workers", 2)
    freeze = ("--count", 600, "--mix", "distance", "--profile", "nano", "--name", "real")
    run("data", "freeze", out / "store", "--out", out / "suite", *freeze)
    return labels, out


def result(folder: Path) -> dict:
    (path,) = folder.glob("*/result.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return next(row for row in rows if row.get("by") == "all")


def test_constant_scores_what_the_label_file_says(suite, tmp_path):
    labels, out = suite
    run("eval", "run", out / "suite", "--baseline", "constant:2.0", "--out", tmp_path)
    by_image = {Path(row["image"]).stem: row for row in map(json.loads, labels.read_text().splitlines())}
    hits = []
    for item in read_suite(out / "suite").items:
        row = by_image[item.frame_ids[0].partition("-")[2]]
        fx, fy, cx, cy = row["intrinsics"][:4]
        x, y = item.points[0]["source_xy"]
        z = dict(zip(map(tuple, row["pixel_coords"]), row["depth"], strict=True))[(x, y)]
        distance = z * math.hypot((x - cx) / fx, (y - cy) / fy, 1)
        hits.append(max(distance / 2, 2 / distance) < 1.25)
    assert len(hits) == 600
    assert result(tmp_path)["delta1"]["value"] == pytest.approx(sum(hits) / len(hits), abs=1e-12)


def test_truth_scores_one(suite, tmp_path):
    run("eval", "run", suite[1] / "suite", "--baseline", "truth", "--out", tmp_path)
    assert result(tmp_path)["delta1"]["value"] == 1.0


@pytest.mark.slow
def test_fine_tuned_on_photographs_and_asked_through_vllm(suite, tmp_path):
    """The whole way on real frames: `accelerate launch`, a vLLM server, a results file with every answer."""
    _, out = suite
    recipe = ["recipes/sft.py", "--config", "recipes/configs/nano_cpu.yaml", "--stores", str(out / "store")]
    options = ["--output_dir", str(tmp_path / "model"), "--max_steps", "4", "--mix", "distance=1"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
    subprocess.run([*launch, *recipe, *options], cwd=ROOT, check=True, capture_output=True)
    run("eval", "run", out / "suite", "--model", tmp_path / "model", "--label", "tuned", "--out", tmp_path / "results")
    score = result(tmp_path / "results")
    assert (score["n"], score["missing"]) == (600, 0)
    assert score["unparsable"] < 30  # a model of drawn rooms: what it says is a number, not a right one
