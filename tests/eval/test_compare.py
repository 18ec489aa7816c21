"""Two runs on one suite: what is paired, what is refused, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from result_files import vsi_result
from suites import freeze_store

from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.metrics import paired_delta1
from depthlm.suite import Suite
from eval.answer_file import Answers
from eval.ask import limit_suite, make_header
from eval.commands import add
from eval.compare import compare, to_markdown, write_report
from eval.engines.baselines import make_baseline
from eval.jsonl import read_lines, write_lines
from eval.score import write_result

COMMANDS = {"eval": lambda: add}


def scored(suite: Suite, out: Path, label: str, texts: dict[str, str], **fields) -> Path:
    header = make_header(suite, make_baseline("truth", suite), "nano", origin="model", label=label)
    write_result(suite, Answers(header, texts, **fields), out, n_boot=20)
    return out


def times(suite: Suite, *factors: float) -> dict[str, str]:
    """The truths, each times the next of the factors."""
    return {item.id: f"{item.truth * factors[i % len(factors)]:.4f}" for i, item in enumerate(suite.items)}


@pytest.fixture
def runs(suite: Suite, tmp_path: Path) -> tuple[Path, Path]:
    """A: three of four right, the first not answered. B: every other right, the last without a number."""
    a, b = times(suite, 1.0, 1.1, 0.9, 2.0), times(suite, 1.05, 3.0)
    del a["q000"]
    b["q011"] = "no idea"
    return scored(suite, tmp_path / "a", "first | model", a), scored(suite, tmp_path / "b", "second", b)


def test_the_total_and_each_group_are_the_metrics_of_their_questions(suite, runs):
    report = compare(*runs, n_boot=300)
    rows = {(row["by"], row["key"]): row for row in report["rows"]}
    assert list(rows) == [("all", "all"), *[("kind", k) for k in ("distance", "speed")],
                          *[("dataset", d) for d in ("rooms", "NYUv2")]]  # fmt: skip
    values = [[row["value"] for row in read_lines(run / "predictions.jsonl")] for run in runs]
    a, b = (np.array([np.nan if v is None else v for v in one], np.float64) for one in values)
    truth, groups = np.array([item.truth for item in suite.items]), [f"frame{i // 3}" for i in range(12)]
    for key, of in {
        ("all", "all"): slice(None),
        ("kind", "speed"): slice(1, None, 2),
        ("dataset", "rooms"): slice(6),
    }.items():
        expected = paired_delta1(a[of], b[of], truth[of], groups[of], n_boot=300)
        assert {name: value for name, value in rows[key].items() if name in expected} == expected, key
    total = rows["all", "all"]
    assert (total["both"], total["only_a"], total["only_b"], total["neither"]) == (5, 3, 1, 3)
    assert total["difference"]["value"] == pytest.approx(8 / 12 - 6 / 12) and total["n_valid"] == 10
    corrected = sorted(row["p_holm"] for row in report["rows"][1:])
    assert "p_holm" not in total and len(corrected) == 4
    assert all(row["p_holm"] >= row["p"] for row in report["rows"][1:])


def test_a_run_against_itself_differs_in_nothing(runs):
    for row in compare(runs[0], runs[0] / "result.jsonl")["rows"]:
        assert row["p"] == 1.0 and row["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert row["only_a"] == row["only_b"] == 0 and row["abs_rel_change"] == 0.0


def test_break_downs_have_their_rows_and_ranges_their_order(store, tmp_path):
    suite, _ = freeze_store(store, tmp_path / "suite", 60)
    for item in suite.items:  # the wall is 4 m away everywhere: two depths for the sake of the order
        if item.points and item.id.endswith("1"):
            item.points[0]["z"] = 0.5
    a = scored(suite, tmp_path / "a", "a", times(suite, 1.0))
    b = scored(suite, tmp_path / "b", "b", times(suite, 1.0, 2.0))
    rows = compare(a, b, n_boot=200)["rows"]
    found = [row["key"] for row in rows if row["by"] == "depth_range"]
    assert found == ["0–1 m", "3–10 m"]
    regions = [row for row in rows if row["by"] == "region"]
    pointless = sum(not item.points for item in suite.items)
    assert sum(row["n"] for row in regions) == len(suite.items) - pointless and pointless > 0
    assert not [row for row in rows if row["by"] in ("dataset", "fov")], "one group of all is the total"
    assert rows[0]["p"] < 0.05 and rows[0]["difference"]["value"] == pytest.approx(0.5, abs=0.05)


def test_the_command_prints_a_table_and_writes_what_it_is_asked_for(runs, tmp_path, capsys):
    for name in ("c.md", "new/c.json"):
        assert main(["eval", "compare", *map(str, runs), "--out", str(tmp_path / name)], COMMANDS) == 0
    printed = capsys.readouterr().out
    markdown = (tmp_path / "c.md").read_text()
    assert printed == 2 * markdown and markdown.startswith("# A: first \\| model · B: second\n")
    assert "## By question kind" in markdown and "## Calibration" not in markdown
    for block in markdown.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1, "columns stand under each other"
            assert len({line.count(" | ") for line in block.splitlines()}) == 1
    total = next(line for line in markdown.splitlines() if line.startswith("| All questions"))
    assert [cell.strip() for cell in total.split("|")][2:7] == ["12", "4", "0.667", "0.500", "+0.167"]
    report = json.loads((tmp_path / "new" / "c.json").read_text())
    assert report["a"]["label"] == "first | model" and report["rows"][0]["only_a"] == 3
    assert report == compare(*runs)
    assert main(["eval", "compare", *map(str, runs), "--out", str(tmp_path / "c.txt")], COMMANDS) == 2
    assert "neither .md nor .json" in capsys.readouterr().err


def test_calibration_is_shown_of_those_that_have_it(suite, runs, tmp_path):
    spreads = {item.id: [(f"{item.truth * f:.3f}", 0.25) for f in (0.9, 1.1, 1.2, 1.3)] for item in suite.items[::2]}
    texts = {item.id: "1" for item in suite.items}
    sure = scored(suite, tmp_path / "sure", "sure", texts, spreads=spreads)
    report = compare(runs[0], sure, n_boot=100)
    assert report["a"]["calibration"] == {} and set(report["b"]["calibration"]) == {"all", "distance"}
    lines = to_markdown(report).partition("## Calibration")[2].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["", "in 50%", "in 80%", "in 90%", "Width of 90% ↓", "n"]
    assert cells[2:] == [
        [f"{name}, B", "1.000", "1.000", "1.000", "0.400", "6"] for name in ("All questions", "Distance")
    ]


def test_other_suites_and_parts_of_a_suite_are_refused(suite, runs, tmp_path):
    part = limit_suite(suite, 6)
    other = scored(part, tmp_path / "part", "part", times(part, 1.0))
    with pytest.raises(DepthLMError, match=rf"{suite.hash}-6of12.*{suite.hash}\).*same --limit"):
        compare(runs[0], other)
    path = runs[1] / "predictions.jsonl"
    write_lines(path, [row | {"truth": 2 * row["truth"]} for row in read_lines(path)])
    with pytest.raises(DepthLMError, match="other questions or truths"):
        compare(*runs)


def test_what_is_no_run_is_named(runs, tmp_path):
    vsi_result(tmp_path / "vsi" / "result.jsonl", "seer", 0.4)
    (tmp_path / "empty").mkdir()
    for bad, reason in {
        "vsi": "VSI-Bench",
        "empty": "holds no result.jsonl",
        "nowhere": "neither a folder",
        "a/answers.jsonl": "neither a folder",
    }.items():
        with pytest.raises(DepthLMError, match=reason):
            compare(tmp_path / bad, runs[1])
    rows = read_lines(runs[0] / "predictions.jsonl")
    for reason, spoilt in {
        "value of q000 is no number": [{**rows[0], "value": "2 m"}, *rows[1:]],
        "predicts 6 questions": rows[:6],
        "predicts 11 questions in 12 lines": [*rows[:11], rows[0]],
        "'group' is missing": [{key: value for key, value in row.items() if key != "group"} for row in rows],
    }.items():
        write_lines(runs[0] / "predictions.jsonl", spoilt)
        with pytest.raises(DepthLMError, match=f"{reason}.*eval score"):
            compare(*runs)
    (runs[0] / "predictions.jsonl").unlink()
    with pytest.raises(DepthLMError, match=r"predictions\.jsonl"):
        compare(*runs)


def test_an_out_that_can_not_be_written_is_named(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DepthLMError, match="can't be written"):
        write_report(compare(*runs, n_boot=10), tmp_path / "file" / "c.md")
