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
import yaml
from markdown_it import MarkdownIt
from result_files import interval, result, result_row, vsi_result

from depthlm.errors import DepthLMError
from eval.answer_file import Answers
from eval.ask import make_header
from eval.engines.baselines import make_baseline
from eval.leaderboard import write_leaderboard
from eval.published import DIFFERING, read_published
from eval.score import write_result

ROOT = Path(__file__).parents[2]
CITE = "Cai et al., DepthLM: Metric Depth From Vision Language Models"


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
    one = result(tmp_path / "a" / "result.jsonl", "nano", 0.7, form="as-published")
    two = result(tmp_path / "b" / "result.jsonl", "constant 2", 0.25, form="as-published", baseline=True)
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
    assert column(found["All metrics, all questions"], "missing")["nano"] == "0"


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
        if tag not in ("meta", "br", "rect", "path", "link", "input"):
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
    assert '<rect class="model" width="70.00"' in html and "M65.00 7.5H75.00" in html, "bar and interval"
    assert "M67.00 4H77.00" in html, "interval of distance in the table"
    assert 'data-v="0.72"' in html and CITE in html
    assert r"\| 'x'" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_no_label_is_a_link_or_an_image(tmp_path):
    label = "![x](http://h/1.png) [y](http://h)"
    write_leaderboard([result(tmp_path / "1.jsonl", label, 0.7, notes=["![z](http://h)"])], tmp_path / "out")
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "| `![x](http://h/1.png)` `[y](http://h)` <sup>" in markdown and ": `![z](http://h)`" in markdown
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    found = {part.type for token in tokens for part in token.children or ()}
    assert found <= {"text", "text_special", "code_inline", "softbreak", "html_inline", "strong_open", "strong_close"}


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


FORMS = {"footnotes": {"nyu_v2": "Labels are 0.8 of the truth."}}


def test_the_two_forms_stand_apart_and_only_one_beside_the_published_rows(tmp_path):
    result(tmp_path / "r" / "1" / "result.jsonl", "nano", 0.7, digest="aaa", form="as-published", **FORMS)
    result(tmp_path / "r" / "2" / "result.jsonl", "nano", 0.6, digest="bbb", form="corrected", **FORMS)
    write_leaderboard([tmp_path / "r"], tmp_path / "out")
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    published = tables(markdown, "rooms · as-published")
    corrected = tables(markdown, "rooms · corrected")
    assert "0.915" in column(published["By dataset"], "NYUv2 <sup>1</sup>")["DepthLM (7B) †"]
    for title in ("By dataset", "By question kind", "All metrics, all questions"):
        assert [line[0].strip() for line in corrected[title][2:]] == ["nano"], "no published row beside it"
    assert column(corrected["By dataset"], "NYUv2 <sup>2</sup>")["nano"].startswith("0.630")
    sections = {part.splitlines()[0]: part for part in markdown.split("\n## ")}
    assert "<sup>1</sup> No published rows here: " in sections["rooms · corrected · 80 questions · `bbb`"]
    for part in (
        sections["rooms · corrected · 80 questions · `bbb`"],
        sections["rooms · as-published · 80 questions · `aaa`"],
    ):
        assert "NYUv2: Labels are 0.8 of the truth." in part
    with (tmp_path / "out" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        assert {(r["form"], r["suite_hash"]) for r in csv.DictReader(file) if r["origin"] == "model"} == {
            ("as-published", "aaa"),
            ("corrected", "bbb"),
        }


def of_datasets(path: Path, *names: str, **fields) -> Path:
    """A result of two kinds, with a row for each dataset of one of them."""
    result(path, "nano", 0.7, **fields)
    rows = [result_row("kind,dataset", f"distance/{n}", 0.5, kind="distance", dataset=n) for n in names]
    path.write_text("\n".join([*path.read_text().splitlines()[:4], *map(json.dumps, rows)]) + "\n")
    return path


def test_without_a_form_no_published_number_stands_beside_labels_that_may_differ(tmp_path):
    """Whatever suite asks about them: a custom one whose dataset is called NYUv2 has, for all one knows, its truths."""
    write_leaderboard([of_datasets(tmp_path / "1.jsonl", "eth3d", "NYUv2")], tmp_path / "out")
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    found = tables(markdown, "rooms")
    assert column(found["By dataset"], "ETH3D")["DepthLM (7B) †"] == "0.718"
    heads = [name.strip(" |") for name in found["By dataset"][0]]
    assert "NYUv2 <sup>2</sup>" in heads and not any("DDAD" in name for name in heads)
    nyu, average = column(found["By dataset"], "NYUv2 <sup>2</sup>"), column(found["By dataset"], "Average")
    for cells in (nyu, average):
        assert {cell for name, cell in cells.items() if name.endswith("†")} == {"–"}
    assert list(column(found["By question kind"], "Distance")) == ["nano"], "tasks were measured on those labels too"
    assert "<sup>2</sup> NYUv2: no published numbers beside it: its published labels are 0.8 of the truth" in markdown
    assert "Of NYUv2 the published labels are known to differ" in markdown


def test_without_a_form_datasets_with_true_published_labels_stand_beside_all(tmp_path):
    write_leaderboard([of_datasets(tmp_path / "1.jsonl", "eth3d", "argoverse2", "ScanNet++")], tmp_path / "out")
    found = tables((tmp_path / "out" / "leaderboard.md").read_text(), "rooms")
    assert column(found["By question kind"], "Distance")["DepthLM (7B) †"] == "0.828"
    averages = column(found["By dataset"], "Average")
    assert (averages["nano"], averages["DepthLM (7B) †"]) == ("0.500", "–"), "an average over eight is none of three"


def test_the_datasets_that_differ_are_those_of_the_recipe():
    recipe = yaml.safe_load((ROOT / "data_gen" / "suites" / "depthlm8.yaml").read_text())
    assert {part["dataset"]: part["why"] for part in recipe["parts"].values() if "why" in part} == DIFFERING


def test_a_result_without_form_never_joins_one_with(tmp_path):
    paths = [
        result(tmp_path / "1.jsonl", "old", 0.6, digest="aaa"),
        result(tmp_path / "2.jsonl", "new", 0.7, digest="aaa", form="corrected"),
    ]
    write_leaderboard(paths, tmp_path / "out")
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    for head, label in (("rooms · 80", "old"), ("rooms · corrected", "new")):
        members = column(tables(markdown, head)["All metrics, all questions"], "δ1 ↑")
        assert list(members) == [label]


def test_experts_stand_in_one_table_with_models(tmp_path):
    paths = [
        result(tmp_path / "1.jsonl", "vlm", 0.6),
        result(tmp_path / "2.jsonl", "network", 0.7, origin="expert"),
        result(tmp_path / "3.jsonl", "guess", 0.9, baseline=True),
    ]
    write_leaderboard(paths, tmp_path / "out")
    found = tables((tmp_path / "out" / "leaderboard.md").read_text(), "rooms")
    distance = column(found["By question kind"], "Distance")
    assert list(distance)[:3] == ["guess (baseline)", "network (expert)", "vlm"]
    assert distance["network (expert)"].startswith("**0.720**"), "best of what is no baseline"
    assert "**" not in distance["guess (baseline)"] + distance["vlm"]


def test_an_average_over_other_datasets_is_not_shown_beside_ours(tmp_path):
    names = ("argoverse2", "ddad", "nuscenes", "eth3d", "scannetpp", "sunrgbd", "ibims1", "nyuv2")
    every = [result_row("kind,dataset", f"distance/{n}", 0.5, kind="distance", dataset=n) for n in names]
    one = result(tmp_path / "1.jsonl", "nano", 0.7, form="as-published")
    two = result(tmp_path / "2.jsonl", "nano", 0.7, suite="all eight", form="as-published")
    lines = two.read_text().splitlines()
    two.write_text("\n".join([*lines[:3], *map(json.dumps, every)]) + "\n")
    write_leaderboard([one, two], tmp_path / "out")
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    few = column(tables(markdown, "rooms")["By dataset"], "Average")
    eight = column(tables(markdown, "all eight")["By dataset"], "Average")
    assert (few["nano"], few["DepthLM (7B) †"]) == ("0.720", "–")
    assert (eight["nano"], eight["DepthLM (7B) †"]) == ("0.500", "0.838")


def test_scannet_is_not_scannet_plus_plus(tmp_path):
    more = [
        result_row("kind,dataset", f"distance/{n}", v, kind="distance", dataset=n)
        for n, v in (("scannet", 0.1), ("scannetpp", 0.2))
    ]
    write_leaderboard([result(tmp_path / "1.jsonl", "nano", 0.7, more=more)], tmp_path / "out")
    found = tables((tmp_path / "out" / "leaderboard.md").read_text(), "rooms")["By dataset"]
    assert column(found, "scannet")["nano"].startswith("0.100") and column(found, "scannet")["GPT-5 †"] == "–"
    assert column(found, "ScanNet++")["nano"].startswith("0.200") and column(found, "ScanNet++")["GPT-5 †"] == "0.428"


def test_vsi_bench_has_sections_of_its_own(tmp_path):
    result(tmp_path / "r" / "1" / "result.jsonl", "nano", 0.7, digest="fff")
    vsi_result(tmp_path / "r" / "2" / "result.jsonl", "seer", 0.4)
    vsi_result(tmp_path / "r" / "3" / "result.jsonl", "guess", 0.2, baseline=True)
    vsi_result(tmp_path / "r" / "4" / "result.jsonl", "later", 0.3, digest="eee")
    write_leaderboard([tmp_path / "r"], tmp_path / "out")
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    assert re.findall(r"^## (.+?) · 80", markdown, flags=re.M) == ["rooms", "vsi", "vsi"]
    found = tables(markdown, "vsi · 80 questions · `fff`")["VSI-Bench by task"]
    assert column(found, "Avg.") == {"seer": "40.0 (35.0–45.0)", "guess (baseline)": "20.0 (15.0–25.0)"}
    assert column(found, "Abs. Dist.")["seer"].startswith("41.0") and column(found, "Appr. Order")["seer"] == "–"
    text = (tmp_path / "out" / "leaderboard.csv").read_text()
    assert "model,vsi,,eee,2026-01-02T03:04:05,later,all,all,score,0.3,0.25,0.35,80," in text


def test_break_downs_are_shown_where_they_are(tmp_path):
    more = [
        result_row("depth_range", "0-2 m", 0.8),
        result_row("depth_range", "2-5 m", 0.6),
        result_row("region", "edge", 0.5),
    ]
    path = result(tmp_path / "1.jsonl", "nano", 0.7, more=more)
    write_leaderboard([path], tmp_path / "out")
    found = tables((tmp_path / "out" / "leaderboard.md").read_text(), "rooms")
    assert column(found["By depth range"], "2-5 m")["nano"].startswith("0.600")
    assert column(found["By region"], "edge")["nano"].startswith("0.500") and "By field of view" not in found
    assert "Calibration" not in found, "no answer has an interval"


def test_calibration_is_a_table_of_the_results_that_have_intervals(suite, tmp_path):
    """From answers with a spread through the score's own rows to the tables: nothing between is written by hand."""
    header = make_header(suite, make_baseline("truth", suite), "nano", origin="model")
    texts = {item.id: f"{item.truth}" for item in suite.items}
    # of ten equal samples, two are far below and two far above: the 50% interval is narrow, the 80% one wide
    factors = (0.5, 0.5, 1.1, 1.1, 1.1, 1.2, 1.2, 1.2, 3.0, 3.0)
    spreads = {item.id: [(f"{item.truth * f:.4f}", 0.1) for f in factors] for item in suite.items[:8]}
    write_result(suite, Answers(header | {"label": "sampler"}, texts, spreads), tmp_path / "r" / "1", n_boot=20)
    write_result(suite, Answers(header | {"label": "plain"}, texts), tmp_path / "r" / "2", n_boot=20)
    write_leaderboard([tmp_path / "r"], tmp_path / "out")
    found = tables((tmp_path / "out" / "leaderboard.md").read_text(), "tiny")["Calibration"]
    names = ("in 50%", "in 80%", "in 90%", "Width of 90% ↓", "n")
    assert [column(found, name) for name in names] == [
        {"sampler": "0.000"}, {"sampler": "1.000"}, {"sampler": "1.000"}, {"sampler": "2.500"}, {"sampler": "8"}
    ]  # fmt: skip
    lines = (tmp_path / "out" / "leaderboard.csv").read_text().splitlines()
    assert sum(",kind,speed,calibration 0.9,1.0,,," in line for line in lines) == 1
    html = (tmp_path / "out" / "leaderboard.html").read_text()
    assert html.count(">Calibration</h3>") == 1 and html.count(">Calibration: Speed</h3>") == 1


def test_answers_that_are_missing_are_said_beside_the_row(tmp_path):
    whole = result(tmp_path / "1.jsonl", "whole", 0.7)
    part = result(tmp_path / "2.jsonl", "part", 0.5)
    lines = part.read_text().splitlines()
    part.write_text("\n".join([lines[0], lines[1].replace('"missing": 0', '"missing": 7'), *lines[2:]]))
    write_leaderboard([whole, part], tmp_path / "out")
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    number = re.search(r"<sup>(\d+)</sup> part: 7 of 40 questions have no answer, and count as wrong", markdown)[1]
    missing = column(tables(markdown, "rooms")["All metrics, all questions"], "missing")
    assert missing == {"whole": "0", f"part <sup>{number}</sup>": "7"}


def test_rows_say_how_they_were_measured(tmp_path):
    fields = {"form": "as-published", "profile": "general", "notes": ["asked by the general profile"]}
    path = result(tmp_path / "1.jsonl", "nano", 0.7, **fields)
    write_leaderboard([path], tmp_path / "out")
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    (runs,) = [rows for title, rows in tables(markdown, "rooms").items() if title == "How these were measured"]
    assert [cell.strip(" |") for cell in runs[2]] == ["nano", "`abc`", "2026-01-02", "general", "6.4"]
    assert "<sup>1</sup> nano: asked by the general profile" in markdown
    html = (tmp_path / "out" / "leaderboard.html").read_text()
    assert "<small>abc · 2026-01-02</small>" in html and "<small>Expert depth networks · Cai et al.</small>" in html


def test_folders_are_searched_and_nothing_counts_twice(tmp_path):
    inside = result(tmp_path / "results" / "deep" / "nano" / "result.jsonl", "nano", 0.7)
    result(tmp_path / "results" / "other" / "predictions.jsonl", "no result", 0.1)
    write_leaderboard([tmp_path / "results", inside], tmp_path / "out")
    runs = tables((tmp_path / "out" / "leaderboard.md").read_text(), "rooms")["How these were measured"]
    assert len(runs) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(DepthLMError, match=r"empty: holds no result\.jsonl"):
        write_leaderboard([tmp_path / "empty"], tmp_path / "out")


def test_old_and_bare_results_are_read(tmp_path):
    """Only what every result has had: no speed, no versions, no date, no row but the first."""
    header = {"type": "result", "label": "bare", "suite": "rooms", "suite_hash": "abc", "n": 1}
    line = {"by": "all", "key": "all", "n": 1, "delta1": interval(0.5)}
    (tmp_path / "1.jsonl").write_text(json.dumps(header) + "\n" + json.dumps(line) + "\n")
    write_leaderboard([tmp_path / "1.jsonl"], tmp_path / "out")
    found = tables((tmp_path / "out" / "leaderboard.md").read_text(), "rooms")
    assert column(found["All metrics, all questions"], "δ1 ↑") == {"bare": "0.500 (0.450–0.550)"}


UNSURE = {"0.5": 0.5, "0.8": 0.8, "0.9": 0.9, "n": 3, "width": None}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"form": "right"}, "form is 'right', not one of as-published, corrected"),
        ({"origin": "oracle"}, "origin is 'oracle'"),
        ({"questions_per_s": "fast"}, "questions_per_s is 'fast'"),
        ({"notes": "one"}, "notes is 'one'"),
        ({"more": [{"by": "region", "key": 3}]}, "by or key of a row is no text"),
        ({"more": [result_row("region", "edge", 0.5) | {"delta1": {"value": "high"}}]}, "delta1 of row 'edge'"),
        ({"more": [result_row("kind", "speed", 0.5, kind=[])]}, "kind of row 'speed' is no text"),
        ({"more": [result_row("kind", "speed", 0.5) | {"missing": "x"}]}, "missing of row 'speed' is no count"),
        ({"more": [result_row("kind", "speed", 0.5) | {"rmse": 5}]}, "rmse of row 'speed' is no metric"),
        ({"more": [result_row("kind", "speed", 0.5) | {"calibration": {"0.5": 1.0}}]}, "'0.8' is missing"),
        ({"more": [result_row("kind", "speed", 0.5) | {"calibration": UNSURE}]}, "has no width"),
        ({"more": [{"by": "dense", "key": "all", "rmse": interval(0.5)}]}, "'n_images' is missing"),
        ({"more": [{"by": "kind,dataset", "key": "a/b", "delta1": interval(0.5)}]}, "'kind' is missing"),
    ],
)
def test_a_result_that_says_what_cannot_be_is_named(tmp_path, fields, told):
    with pytest.raises(DepthLMError, match=re.escape(told)):
        write_leaderboard([result(tmp_path / "1.jsonl", "nano", 0.7, **fields)], tmp_path / "out")


def test_published_rows_need_a_column_of_ours(tmp_path):
    rows = [{"by": "kind,dataset", "key": "distance/attic", "kind": "distance", "dataset": "attic", "n": 4}]
    path = result(tmp_path / "1.jsonl", "nano", 0.7)
    header, every, *_ = map(json.loads, path.read_text().splitlines())
    delta = every["delta1"]
    kept = [header, every, {**rows[0], "delta1": delta}, {"by": "kind", "key": "distance", "n": 4, "delta1": delta}]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    write_leaderboard([path], tmp_path / "out")
    found = tables((tmp_path / "out" / "leaderboard.md").read_text(), "rooms")
    assert list(column(found["By dataset"], "attic")) == ["nano"]
