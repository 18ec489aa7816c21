"""From answers to metrics: parsing, groups, what counts as wrong, and the command line end to end."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.suite import Suite
from eval import commands
from eval.answer_file import Answers
from eval.ask import ask_suite, make_header
from eval.engines.baselines import make_baseline
from eval.gallery import choose, contact_sheet
from eval.jsonl import read_lines, write_lines
from eval.one_run import report
from eval.plots import loss_plot, scatter_plot
from eval.provenance import fingerprint, versions
from eval.score import predictions, score_rows, write_result


def cli(*argv: str | Path) -> int:
    parser = argparse.ArgumentParser()
    commands.add(parser.add_subparsers(required=True))
    args = parser.parse_args(["eval", *map(str, argv)])
    return args.run(args)


def answers(suite: Suite, texts: dict[str, str], **fields) -> Answers:
    return Answers(make_header(suite, make_baseline("truth", suite), "nano"), texts, **fields)


def by_key(rows: list[dict], by: str) -> dict[str, dict]:
    return {row["key"]: row for row in rows if row["by"] == by}


def test_the_truth_scores_one_everywhere(suite, tmp_path):
    assert cli("run", suite.path, "--baseline", "truth", "--out", tmp_path / "r") == 0
    header, *rows = read_lines(tmp_path / "r" / "truth" / "result.jsonl")
    assert len(rows) == 1 + 2 + 2 + 4  # all, kinds, datasets, kind x dataset
    for row in rows:
        assert row["delta1"] == {"value": 1.0, "low": 1.0, "high": 1.0}, row["key"]
        assert row["abs_rel"]["value"] == pytest.approx(0, abs=1e-9)
    assert (header["suite_hash"], header["n"], header["missing"], header["origin"]) == (suite.hash, 12, 0, "baseline")
    assert header["versions"]["python"] and header["date"] and header["wall_s"] >= 0


def test_a_constant_scores_what_ten_lines_say(suite, tmp_path):
    assert cli("run", suite.path, "--baseline", "constant:2.0", "--out", tmp_path) == 0
    _, *rows = read_lines(tmp_path / "constant-2" / "result.jsonl")
    truth = np.array([item.truth for item in suite.items])
    kinds = np.array([item.kind for item in suite.items])
    right = np.maximum(2 / truth, truth / 2) < 1.25
    assert rows[0]["delta1"]["value"] == pytest.approx(right.mean()) and 0 < right.mean() < 1
    for kind, row in by_key(rows, "kind").items():
        assert row["delta1"]["value"] == pytest.approx(right[kinds == kind].mean())
        assert row["abs_rel"]["value"] == pytest.approx((abs(2 - truth) / truth)[kinds == kind].mean())


def test_the_best_constant_beats_every_other(suite, tmp_path):
    for spec, name in (("best-constant", "best-constant-per-kind"), ("constant:2", "constant-2"), ("random", "random")):
        assert cli("run", suite.path, "--baseline", spec, "--out", tmp_path) == 0
        _, row, *_ = read_lines(tmp_path / name / "result.jsonl")
        if spec == "best-constant":
            best = row["delta1"]["value"]
        assert row["delta1"]["value"] <= best


def test_scoring_again_keeps_the_rows_of_whole_maps(suite, tmp_path):
    """They are made of the maps, which scoring does not look at."""
    truth = answers(suite, {item.id: f"{item.truth}" for item in suite.items})
    write_result(suite, truth, tmp_path, n_boot=10)
    path = tmp_path / "result.jsonl"
    whole = [{"by": "dense", "key": "all", "n_images": 2}, {"by": "dense,dataset", "key": "rooms", "n_images": 2}]
    once = read_lines(path)
    write_lines(path, [*once, *whole])
    for _ in range(2):
        write_result(suite, truth, tmp_path, n_boot=10)
        assert read_lines(path) == [*once, *whole]
    other = answers(suite, truth.texts)
    other.header["model"] = "other"
    write_result(suite, other, tmp_path, n_boot=10)
    assert read_lines(path)[1:] == once[1:], "another model's maps"
    path.write_text("damaged")
    write_result(suite, truth, tmp_path, n_boot=10)
    assert read_lines(path) == once


def test_missing_and_unreadable_answers_are_wrong_and_counted_apart(suite):
    texts = {item.id: f"{item.truth} {item.unit}" for item in suite.items}
    del texts["q000"]
    texts["q002"] = "I cannot tell."
    found = predictions(suite, answers(suite, texts, errors={"q000": "no answer in 5 attempts"}))
    assert (found[0].value, found[0].text) == (None, None) and "no answer in 5 attempts" in found[0].reason
    assert (found[2].value, found[2].text) == (None, "I cannot tell.") and found[2].reason
    rows = score_rows(found, n_boot=50)
    assert rows[0]["delta1"]["value"] == pytest.approx(10 / 12)
    assert (rows[0]["n"], rows[0]["missing"], rows[0]["unparsable"]) == (12, 1, 1)
    assert by_key(rows, "kind")["speed"]["delta1"]["value"] == 1.0
    assert by_key(rows, "kind")["distance"]["missing"] == 1
    assert rows[0]["delta1"]["low"] < 10 / 12 < rows[0]["delta1"]["high"]


def test_answers_in_other_units_are_converted(suite):
    texts = {item.id: f"about {item.truth * 100:.0f} cm" for item in suite.items if item.unit == "m"}
    found = predictions(suite, answers(suite, texts))
    assert [p.value for p in found if p.unit == "m"] == pytest.approx([p.truth for p in found if p.unit == "m"])


def test_a_metric_with_a_unit_is_left_out_where_units_mix(suite):
    rows = score_rows(predictions(suite, answers(suite, {item.id: "2" for item in suite.items})), n_boot=20)
    assert "rmse" not in rows[0] and rows[0]["units"] == ["m", "m/s"]
    truth = np.array([item.truth for item in suite.items if item.kind == "distance"])
    assert by_key(rows, "kind")["distance"]["rmse"]["value"] == pytest.approx(np.sqrt(((truth - 2) ** 2).mean()))


def test_intervals_resample_images_not_questions(suite):
    found = predictions(suite, answers(suite, {}))
    assert len({p.group for p in found}) == 4  # 12 questions, three an image
    assert score_rows(found, n_boot=20)[0]["n_images"] == 4


def test_intervals_are_held_against_the_truth_at_each_level(suite, tmp_path, capsys):
    """Distances of 1, 2, … 6 m, and one spread for all: the wider the interval, the more of them it holds."""
    spread = [(f"{0.40 + 0.32 * i:.2f} m", 0.05) for i in range(20)]
    spread_of_seconds = [("no number", 0.6), ("1", 0.4)]
    spreads = {item.id: spread if item.kind == "distance" else spread_of_seconds for item in suite.items}
    found = predictions(suite, answers(suite, {item.id: "2.0" for item in suite.items}, spreads=spreads))
    assert found[0].bounds == {"0.5": [1.68, 4.88], "0.8": [0.72, 5.84], "0.9": [0.40, 6.16]}
    # twenty samples: midway between the tenth and the eleventh
    assert found[0].value == 3.44 and found[1].bounds is None and found[1].value == 2.0
    rows = score_rows(found, n_boot=20)
    expected = {"0.5": 3 / 6, "0.8": 5 / 6, "0.9": 1.0, "n": 6, "width": (5.76 / 3 + 5.76 / 4) / 2}
    assert rows[0]["calibration"] == pytest.approx(expected)
    assert by_key(rows, "kind")["distance"]["calibration"] == pytest.approx(expected)
    assert all("calibration" not in row for row in rows if row["by"] not in ("all", "kind") or row["key"] == "speed")
    header = make_header(suite, make_baseline("truth", suite), "nano")
    report(write_result(suite, Answers(header, {}, spreads), tmp_path, n_boot=20), tmp_path, "x")
    assert "90% intervals hold 100.0% of the truths" in capsys.readouterr().out
    assert read_lines(tmp_path / "predictions.jsonl")[0]["bounds"]["0.9"] == [0.40, 6.16]


def test_answers_to_another_suite_are_refused(suite):
    other = answers(suite, {})
    other.header["suite_hash"] = "feed"
    with pytest.raises(DepthLMError, match="feed"):
        predictions(suite, other)


def test_results_are_written_whole_or_not_at_all(suite, tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"x": float("nan"), "y": "1\u20282"}])
    assert read_lines(tmp_path / "a.jsonl") == [{"x": None, "y": "1\u20282"}]

    def rows():
        yield {"x": 1}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_lines(tmp_path / "a.jsonl", rows())
    assert read_lines(tmp_path / "a.jsonl")[0]["x"] is None
    (tmp_path / "file").write_text("")
    with pytest.raises(DepthLMError, match="can't be written"):
        write_result(suite, answers(suite, {}), tmp_path / "file")


def test_the_command_asks_an_endpoint_scores_and_names_failures(suite, server, tmp_path, capsys):
    server.fault = lambda question, n: "400" if question == "q003" and n == 1 else None
    command = (
        "run",
        suite.path,
        "--endpoint",
        server.url,
        "--model",
        "served",
        "--out",
        tmp_path,
        "--label",
        "my model",
    )
    assert cli(*command, "--request-json", '{"temperature": null, "top_p": 1}') == 1
    assert "q003" in capsys.readouterr().err
    assert "temperature" not in server.bodies["q000"] and server.bodies["q000"]["top_p"] == 1
    header, row, *_ = read_lines(tmp_path / "my-model" / "result.jsonl")
    assert (header["label"], header["model"], header["missing"], row["missing"]) == ("my model", "served", 1, 1)
    with pytest.raises(DepthLMError, match="settings"):
        cli(*command)
    assert cli(*command, "--fresh") == 0
    assert read_lines(tmp_path / "my-model" / "result.jsonl")[0]["missing"] == 0
    assert cli("score", suite.path, tmp_path / "my-model" / "answers.jsonl", "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "result.jsonl").read_text() == (tmp_path / "my-model" / "result.jsonl").read_text()


def test_a_limited_run_is_scored_as_a_suite_of_its_own(suite, tmp_path):
    assert cli("run", suite.path, "--baseline", "truth", "--limit", "4", "--out", tmp_path) == 0
    header, *_ = read_lines(tmp_path / "truth" / "result.jsonl")
    assert header["n"] == 4 and header["suite_hash"] != suite.hash
    assert cli("score", suite.path, tmp_path / "truth" / "answers.jsonl") == 0


@pytest.mark.parametrize(
    "flags",
    [[], ["--baseline", "truth", "--model", "x"], ["--endpoint", "http://h", "--adapter", "x"], ["--baseline", "best"]],
)
def test_unclear_commands_are_refused(suite, tmp_path, flags):
    with pytest.raises(DepthLMError):
        cli("run", suite.path, "--out", tmp_path, *flags)
    assert not any((tmp_path).glob("**/answers.jsonl"))


def test_pictures_show_the_best_measured_model(suite, server, tmp_path):
    out = tmp_path / "results"
    assert cli("run", suite.path, "--endpoint", server.url, "--out", out) == 0
    assert cli("run", suite.path, "--baseline", "truth", "--out", out) == 0
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({"log_history": [{"step": i, "loss": 5 / i} for i in range(1, 9)] + [{"step": 8}]}))
    assert cli("pictures", suite.path, "--results", out, "--trainer-state", state, "--out", tmp_path / "p") == 0
    for name in ("contact_sheet.png", "scatter.png", "loss.png"):
        with Image.open(tmp_path / "p" / name) as image:
            assert image.width > 300 and np.asarray(image.convert("L")).std() > 5, name
    with pytest.raises(DepthLMError, match="served"):
        cli("pictures", suite.path, "--results", out, "--label", "nobody", "--out", tmp_path / "p")


def test_frames_are_green_only_for_right_answers(suite, tmp_path):
    for text, colour in (("1.0", (43, 138, 87)), ("9.0", (192, 65, 44)), ("-1", (192, 65, 44)), ("", (192, 65, 44))):
        write_result(suite, answers(suite, {"q000": text}), tmp_path, n_boot=10)
        sheet = contact_sheet(suite, tmp_path / "predictions.jsonl", tmp_path / "sheet.png", count=1)
        with Image.open(sheet) as image:
            assert image.getpixel((17, 54)) == colour, text


def test_the_contact_sheet_takes_kinds_in_turn(suite):
    picked = choose(suite.items, 4)
    assert [item.kind for item in picked] == ["distance", "speed", "distance", "speed"]
    assert len({item.id for item in picked}) == 4
    assert sorted(item.id for item in choose(suite.items, 99)) == [item.id for item in suite.items]


def test_plots_survive_answers_that_have_no_place(suite, tmp_path):
    texts = {"q000": "nothing", "q002": "1e30", "q004": "-3", "q001": "0"}
    write_result(suite, answers(suite, texts), tmp_path, n_boot=10)
    assert scatter_plot(tmp_path / "predictions.jsonl", tmp_path / "s.png").stat().st_size > 5000
    write_result(suite, answers(suite, {}), tmp_path, n_boot=10)
    assert scatter_plot(tmp_path / "predictions.jsonl", tmp_path / "s.png").stat().st_size > 5000


@pytest.mark.parametrize("text", ["", "{}", '{"log_history": []}', '{"log_history": [{"step": 1}]}'])
def test_a_state_without_losses_is_named(tmp_path, text):
    (tmp_path / "trainer_state.json").write_text(text)
    with pytest.raises(DepthLMError, match=r"trainer_state\.json"):
        loss_plot(tmp_path / "trainer_state.json", tmp_path / "loss.png")


def test_retrained_weights_have_another_fingerprint(tmp_path):
    data = bytearray(6_000_000)
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text("{}")
    first = fingerprint(tmp_path)
    (tmp_path / "trainer_state.json").write_text("{}")
    assert fingerprint(tmp_path) == first
    data[-1] = 1
    (tmp_path / "model.safetensors").write_bytes(data)
    assert fingerprint(tmp_path) != first
    assert versions()["transformers"]


def test_a_second_writer_is_refused(suite, tmp_path):
    from eval.answer_file import AnswerFile

    engine = make_baseline("truth", suite)
    with (
        AnswerFile(tmp_path / "a.jsonl", make_header(suite, engine, "nano")),
        pytest.raises(DepthLMError, match="another process"),
    ):
        ask_suite(suite, engine, tmp_path / "a.jsonl", progress=False)


def test_vllm_is_started_only_when_an_answer_is_missing(suite, server, tmp_path, monkeypatch):
    started = []

    class Server:
        """Stands for `VLLMServer`: what answers is the test's own chat server."""

        def __init__(self, model, adapter=None, images_per_prompt=0, **options):
            self.model, self.adapter, self.model_name = model, adapter, "served"
            self.base_url = server.url + "/v1"
            assert images_per_prompt == 1

        def __enter__(self):
            started.append(self.model)

        def __exit__(self, *error):
            started.append("stopped")

    monkeypatch.setattr("depthlm.serving.vllm_process.VLLMServer", Server)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    command = ("run", suite.path, "--model", model, "--label", "nano + x", "--out", tmp_path / "r")
    assert cli(*command) == 0
    assert started == [str(model), "stopped"]
    result = tmp_path / "r" / "nano-x" / "result.jsonl"
    first = result.read_text()
    result.unlink()
    assert cli(*command) == 0
    assert result.read_text() == first and len(started) == 2 and sum(server.counts.values()) == 12
    (model / "model.safetensors").write_bytes(b"retrained")
    with pytest.raises(DepthLMError, match=r"fingerprint.*--fresh"):
        cli(*command)
    assert len(started) == 2, "the slow start came before the refusal"
    assert cli(*command, "--fresh") == 0 and sum(server.counts.values()) == 24
