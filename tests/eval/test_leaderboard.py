"""The leaderboard: published numbers as printed, suites apart, every form self-contained and safe."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from depthlm.errors import DepthLMError
from eval.leaderboard import write_leaderboard
from eval.tables import read_published

ROOT = Path(__file__).parents[2]
CITE = "Cai et al., DepthLM: Metric Depth From Vision Language Models"


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05)}


def result(path: Path, label: str, delta1: float, suite: str = "rooms", digest: str = "abc", baseline: bool = False):
    """A result of two kinds on two datasets, as `eval.score` writes it."""
    counts = {"n": 40, "n_images": 20, "unparsable": 1, "missing": 2}

    def row(by, key, value, **fields):
        return {"by": by, "key": key, **fields, **counts, "delta1": interval(value), "abs_rel": interval(1 - value)}

    rows = [
        row("all", "all", delta1),
        row("kind", "distance", delta1 + 0.02, kind="distance"),
        row("kind", "travel_time", delta1 - 0.02, kind="travel_time"),
        row("kind,dataset", "distance/nyu_v2", delta1 + 0.03, kind="distance", dataset="nyu_v2"),
        row("kind,dataset", "distance/cellar", delta1 + 0.01, kind="distance", dataset="cellar"),
        row("kind,dataset", "travel_time/cellar", 0.999, kind="travel_time", dataset="cellar"),
    ]
    header = {"type": "result", "label": label, "model": label, "baseline": baseline, "suite": suite}
    header |= {"suite_hash": digest, "n": 80, "wall_s": 12.5, "questions_per_s": 6.4, "date": "2026-01-02T03:04:05"}
    header |= {"versions": {"python": "3.11", "vllm": "0.31.0"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in [header, *rows]))
    return path


def tables(markdown: str, section: str) -> dict[str, list[list[str]]]:
    """Tables of one section of the Markdown by their titles."""
    text = re.split(r"^## ", markdown, flags=re.M)
    (part,) = [p for p in text if p.startswith(section)]
    found = {}
    for block in re.split(r"^### ", part, flags=re.M)[1:]:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        found[block.partition("\n")[0]] = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
    return found


def column(rows: list[list[str]], name: str) -> dict[str, str]:
    at = [c.strip(" |") for c in rows[0]].index(name)
    return {row[0].strip(" |"): row[at].strip(" |") for row in rows[2:]}


def test_published_numbers_are_the_printed_ones():
    published = read_published()
    assert {name: len(rows) for name, rows in published.items()} == {"datasets": 16, "experts": 9, "tasks": 8}
    rows = {(name, row.model): row for name, members in published.items() for row in members}
    ours = rows["datasets", "DepthLM (7B)"]
    assert [cell.shown for cell in ours.cells.values()] == [
        "0.833",
        "0.747",
        "0.865",
        "0.718",
        "0.850",
        "0.859",
        "0.920",
        "0.915",
        "0.838",
    ]
    assert rows["datasets", "Always output 2.0"].cells["sunRGBD"].value == 0.384
    assert rows["datasets", "GPT-5"].cells["NYUv2"].value == 0.540
    assert rows["tasks", "DepthLM (7B)"].cells["Pose"].value == 0.876
    assert rows["tasks", "Seed1.5-VL (DepthLM's prompt)"].cells["Average"].value == 0.170
    assert rows["experts", "UniDepthV2"].cells["vs DepthLM (7B)"].value == pytest.approx(0.092)
    assert "DDAD" not in rows["experts", "Metric3Dv2"].cells
    assert {row.source for row in rows.values()} == {CITE}


def test_published_averages_are_those_of_their_columns():
    for name in ("datasets", "tasks"):
        for row in read_published()[name]:
            values = [cell.value for column, cell in row.cells.items() if column != "Average"]
            assert len(values) == {"datasets": 8, "tasks": 6}[name]
            # printed from unrounded numbers, hence the slack
            assert row.cells["Average"].value == pytest.approx(sum(values) / len(values), abs=0.0021), row.model


def test_our_rows_stand_beside_the_published_ones(tmp_path):
    one = result(tmp_path / "a" / "result.jsonl", "nano", 0.7)
    two = result(tmp_path / "b" / "result.jsonl", "constant 2", 0.25, baseline=True)
    write_leaderboard([two, one], tmp_path / "out")
    found = tables((tmp_path / "out" / "leaderboard.md").read_text(), "rooms")
    distance = column(found["By question kind"], "Distance")
    assert list(distance)[:2] == ["nano", "constant 2 (baseline)"], "best first"
    assert distance["nano"] == "0.720 (0.670–0.770)"
    assert distance["DepthLM (7B) †"] == "0.828"
    assert column(found["By question kind"], "Average")["nano"] == "0.700"
    nyu = column(found["By dataset"], "NYUv2")  # "nyu_v2" is the published NYUv2
    assert (nyu["nano"], nyu["DepthLM (7B) †"], nyu["UniDepthV2 †"]) == ("0.730 (0.680–0.780)", "0.915", "–")
    assert column(found["By dataset"], "cellar")["nano"].startswith("0.710"), "distance questions only"
    assert column(found["All metrics, all questions"], "missing")["nano"] == "2"


def test_suites_never_share_a_section(tmp_path):
    paths = [
        result(tmp_path / "1.jsonl", "old", 0.6, digest="aaa"),
        result(tmp_path / "2.jsonl", "new", 0.7, digest="bbb"),
        result(tmp_path / "3.jsonl", "other", 0.5, suite="streets", digest="aaa"),
    ]
    write_leaderboard([*paths, paths[0]], tmp_path / "out")  # the same file twice counts once
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    heads = re.findall(r"^## (.+)$", markdown, flags=re.M)
    assert heads[:3] == [
        "rooms · 80 questions · `aaa`",
        "rooms · 80 questions · `bbb`",
        "streets · 80 questions · `aaa`",
    ]
    for head, label in zip(heads, ("old", "new", "other"), strict=False):
        members = column(tables(markdown, head)["By question kind"], "Distance")
        assert [name for name in members if not name.endswith("†")] == [label]


def test_the_csv_holds_every_number_once(tmp_path):
    write_leaderboard([result(tmp_path / "1.jsonl", "nano", 0.7)], tmp_path / "out")
    with (tmp_path / "out" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["origin"] == "model"]
    assert len(measured) == 6 * 2  # rows of the result x metrics
    (row,) = [row for row in measured if row["key"] == "distance" and row["metric"] == "delta1"]
    assert (row["suite_hash"], float(row["value"]), row["n"]) == ("abc", 0.72, "40")
    assert len(rows) - len(measured) == 248 and {r["source"] for r in rows if r["origin"] == "published"} == {CITE}


class Page(HTMLParser):
    """Collects tags and addresses, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "br", "rect", "path", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_trusts_no_name(tmp_path):
    path = result(tmp_path / "1.jsonl", "<script>alert(1)</script> | `x`", 0.7)
    write_leaderboard([path], tmp_path / "out")
    html = (tmp_path / "out" / "leaderboard.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == [] and html.startswith("<!doctype html>")
    assert all(address.startswith("#") for address in page.addresses) and "url(" not in html and "@import" not in html
    assert page.tags.count("script") == 1 and "<script>alert" not in html
    assert page.tags.count("svg") == 3  # all questions and two kinds
    assert '<rect class="m" width="70.00"' in html and "M65.00 7.5H75.00" in html, "bar and interval"
    assert 'data-v="0.72"' in html and CITE in html
    assert r"\| 'x'" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_it_runs_as_a_script(tmp_path):
    path = result(tmp_path / "results" / "nano" / "result.jsonl", "nano", 0.7)
    command = [sys.executable, "eval/leaderboard.py", str(path), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".md", ".csv", ".html"}
    path.write_text('{"type": "result"}\n')
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "result.jsonl: is no result" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["", "[1]\n", "{}\n", "no json\n", '{"type": "result", "suite_hash": "a"}\n'])
def test_what_is_no_result_is_named(tmp_path, text):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(DepthLMError, match=r"bad\.jsonl"):
        write_leaderboard([tmp_path / "bad.jsonl"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_result_and_no_place_are_errors(tmp_path):
    with pytest.raises(DepthLMError, match="none given"):
        write_leaderboard([], tmp_path)
    path = result(tmp_path / "1.jsonl", "nano", 0.7)
    with pytest.raises(DepthLMError, match="can't be written"):
        write_leaderboard([path], path)
