"""Studies: every plan is whole, arms differ in what they say, a study is carried out and goes on after a stop."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trl import GRPOConfig, ModelConfig, SFTConfig, TrlParser

from data_gen.curate import curate
from data_gen.readers.procedural import ProceduralReader
from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.training.arguments import DataArguments
from depthlm.training.rewards import reward_functions
from recipes.study.plan import SIZES, names, read_study
from recipes.study.report import ALL, Outcome, outcome, plot, shared_questions, table, verdict
from recipes.study.run import RESULT, carry_out, command_of, finished

FEW = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8}
CPU = ["--use_cpu", "true", "--bf16", "false"]  # what a GPU's setting asks for can't be parsed where there is none


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    curate(ProceduralReader(8, views=3, width=160, height=120, fov=(55, 65)), folder / "store")
    return folder / "store"


def small(name, out, scenes, **changes):
    usual = {"samples": 16, "questions": 4, "seeds": [1]}
    return read_study(name, out, changes=usual | changes, arguments=FEW, train=[scenes], test=[scenes])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", names())
def test_every_plan_is_whole(name, size, tmp_path):
    study = read_study(name, tmp_path, size)
    assert study.arm(study.reference).expected is None
    assert any(arm.expected for arm in study.arms) or "gives no figure" in study.claim
    assert not {s.options["seed"] for s in study.train} & {s.options["seed"] for s in study.test}
    for a, b in itertools.product(study.train, study.test):
        (low, high), (first, last) = ([float(v) for v in s.options["fov"].split(",")] for s in (a, b))
        assert last < low or high < first, "a camera that is asked about is trained on"
    runs = list(study.runs())
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        command = command_of(study, run)
        assert command[command.index("--eval_on_start") + 1] == str(run.seed == study.seeds[0]).lower()
        words = command[next(i for i, word in enumerate(command) if word.endswith(".py")) + 1 :]
        if run.arm.recipe == "sft":
            data, args, _ = TrlParser((DataArguments, SFTConfig, ModelConfig)).parse_args_into_dataclasses(words + CPU)
        else:
            at = words.index("--rewards")
            reward_functions({part.split("=")[0]: 1.0 for part in words[at + 1].split(",")})
            words = words[:at] + words[at + 2 :]
            data, args, _ = TrlParser((DataArguments, GRPOConfig, ModelConfig)).parse_args_into_dataclasses(words + CPU)
        data.data_config()
        assert data.eval_suite == str(run.suite.path) and args.eval_steps == args.max_steps == run.steps
        # every arm is trained on as many questions as the plan says, give or take a step
        share = len(study.kinds) if run.kind else 1
        assert abs(run.steps * run.questions_per_step - study.samples / share) <= run.questions_per_step / 2


def test_arms_of_one_seed_differ_in_their_own_settings_alone(tmp_path):
    for name in names():
        study = read_study(name, tmp_path)
        runs = [run for run in study.runs() if run.seed == 1 and not run.arm.each]
        for a in runs:
            for b in runs:
                if a.arm.recipe == b.arm.recipe:
                    own = a.arm.arguments.keys() | b.arm.arguments.keys() | {"max_steps"}
                    assert (a.steps, a.questions_per_step) == (b.steps, b.questions_per_step)
                    if "points_per_image" in own:  # fewer images with more questions each
                        own |= {"per_device_train_batch_size"}
                    shared = {k: v for k, v in a.arguments.items() if k not in own}
                    assert shared == {k: v for k, v in b.arguments.items() if k not in own}


def test_a_study_is_carried_out_and_goes_on_after_a_stop(scenes, tmp_path):
    study = small("marker", tmp_path, scenes)
    results = carry_out(study)
    assert [(r["arm"], r["seed"]) for r in results] == [("coordinates", 1), ("marker", 1)]
    for r in results:
        assert len(r["right"]["distance"]) == len(r["start"]["distance"]) == 4
        assert len(r["made_with"]["start"]) == 16
        assert r["seconds"] > 0 and r["samples"] == 16
    assert shared_questions(study, results)["distance"] == sorted(results[0]["right"]["distance"])
    asked = [json.loads((run.suite.path / "suite.json").read_text())["settings"]["pointing"] for run in study.runs()]
    assert asked == ["coordinates", "marker"]
    assert not list(study.folder.rglob("*.safetensors"))

    first, last = (study.folder / arm / "seed-1" / RESULT for arm in ("coordinates", "marker"))
    stamp = first.stat().st_mtime_ns
    last.unlink()  # as if stopped in its midst
    again = carry_out(study)
    assert first.stat().st_mtime_ns == stamp
    timeless = [{k: v for k, v in r.items() if k != "seconds"} for r in results]
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in again] == timeless
    assert finished(study) == again

    with pytest.raises(DepthLMError, match="holds a run with other max_steps"):
        carry_out(small("marker", tmp_path, scenes, samples=32))
    with pytest.raises(DepthLMError, match="holds a run with other suite"):
        finished(small("marker", tmp_path, scenes, questions=5))
    with pytest.raises(DepthLMError, match="holds a run with other stores, suite"):
        finished(read_study("marker", tmp_path, changes={"samples": 16, "questions": 4, "seeds": [1]}, arguments=FEW))


def test_grpo_and_an_arm_with_its_time(scenes, tmp_path):
    study = read_study(
        "grpo",
        tmp_path,
        changes={"samples": 8, "questions": 4, "seeds": [1], "arms": {
            "sft": {}, "l1": {"recipe": "grpo", "rewards": "negative_l1=1", "expected": "equal"},
            "longer": {"as_long_as": "l1", "expected": "higher"},
        }},
        arguments={"per_device_eval_batch_size": 8},
        train=[scenes],
        test=[scenes],
    )  # fmt: skip
    sft, grpo, longer = carry_out(study)
    assert (sft["steps"], grpo["steps"]) == (1, 1) and sft["samples"] == grpo["samples"]
    assert longer["steps"] == max(1, round(grpo["seconds"] / sft["seconds"]))
    assert carry_out(study) == [sft, grpo, longer]


def test_a_failing_run_tells_its_last_line(scenes, tmp_path):
    study = read_study(
        "marker", tmp_path, changes={"samples": 8, "questions": 4, "seeds": [1]},
        arguments={"profile": "nano", "lr_scheduler_type": "sideways"}, train=[scenes], test=[scenes],
    )  # fmt: skip
    with pytest.raises(DepthLMError, match="sideways"):
        carry_out(study)


def test_a_list_is_several_words(tmp_path):
    study = read_study("marker", tmp_path, arguments={"augment_crop": [0.8, 1], "use_cpu": True})
    command = command_of(study, next(study.runs()))
    at = command.index("--augment_crop")
    assert command[at + 1 : at + 3] == ["0.8", "1"] and command[command.index("--use_cpu") + 1] == "true"


def result(arm, seed, right, start=None):
    """``right``: by kind, an answer a question; question i is about scene i."""
    named = {kind: {f"s{i}/0 {i}": bool(value) for i, value in enumerate(values)} for kind, values in right.items()}
    return {"arm": arm, "seed": seed, "right": named, "start": start and named, "seconds": 10.0, "samples": 100,
            "made_with": {"model_name_or_path": "nano"}}  # fmt: skip


def answers(right, asked=100):
    return np.arange(asked) < right


def test_means_verdicts_and_what_is_shown(tmp_path):
    study = read_study("marker", tmp_path)
    rows = {"coordinates": (20, 30, 25), "marker": (50, 60, 61)}
    results = [
        result(arm, seed, {"distance": answers(value)}, seed == 1)
        for arm, values in rows.items()
        for seed, value in zip((1, 2, 3), values, strict=True)
    ]
    text = table(study, results)
    assert "| 0.200 | 0.250 ± 0.1" in text and "+0.320" in text and "| higher: agrees | 100 |\n" in text
    assert plot(study, results, tmp_path / "a" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_time_is_told_where_the_claim_is_about_it(tmp_path):
    study = read_study("grpo", tmp_path, changes={"seeds": [1]})
    results = [result(arm.key, 1, {"distance": answers(50)}) for arm in study.arms]
    results[1]["seconds"] = 75.0
    assert "| 100 | 75 | 7.5× (paper: 8 to 16×) |" in table(study, results)


def of(*rows):
    right = np.array(rows, np.float64)
    return Outcome(right, np.zeros(right.shape[1], np.int64), np.arange(right.shape[1]))


def test_intervals_are_over_seeds_and_scenes():
    seeds_alone = of([0.5, 0.5], [0.6, 0.6], [0.7, 0.7])
    assert seeds_alone.interval() == (pytest.approx(0.6), pytest.approx(4.303 * 0.1 / 3**0.5))
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.3).astype(float)
    _, scenes_alone = of(right, right).interval()
    assert scenes_alone == pytest.approx(1.96 * (0.3 * 0.7 / 400) ** 0.5, rel=0.1)
    together = of(right, right + 0.1)
    spread = 12.706 * 0.1 / 2**0.5 / 2**0.5
    assert together.interval()[1] == pytest.approx(np.hypot(scenes_alone, spread))
    one_scene_asked_four_times = Outcome(np.repeat(right, 4)[None], np.zeros(1600, int), np.repeat(np.arange(400), 4))
    assert one_scene_asked_four_times.interval()[1] == pytest.approx(scenes_alone)
    # a kind weighs the same however many questions it has, and that kinds differ is no uncertainty
    kinds = Outcome(np.array([[1, 1, 1, 1, 1, 1, 0, 0.0]]), np.array([0] * 6 + [1] * 2), np.arange(8))
    assert kinds.interval() == (pytest.approx(0.5), 0.0)


def test_no_more_differences_are_claimed_than_there_are():
    """Two equal arms, asked the same hard and easy questions with three seeds each: few verdicts of a difference."""
    rng = np.random.default_rng(1)
    claimed = 0
    for _ in range(400):
        hard = rng.beta(0.4, 0.4, size=300)
        a, b = (of(*(rng.random((3, 300)) < hard)) for _ in range(2))
        centre, half = (a - b).interval()
        claimed += abs(centre) > half
    assert claimed / 400 < 0.05


def test_verdicts(tmp_path):
    arm = read_study("marker", tmp_path).arm("marker")
    equal, silent = replace(arm, expected="equal"), replace(arm, expected=None)
    for judged, difference, says in (
        (arm, of([0.1] * 9, [-0.1] * 9, [0.2] * 9), "higher: same direction, within the noise"),
        (arm, of([-0.1] * 9, [-0.11] * 9, [-0.12] * 9), "higher: disagrees"),
        (arm, of([0.1] * 9), "higher: one seed tells nothing"),
        (equal, of([0.01] * 9, [0.02] * 9, [0.0] * 9), "equal: agrees, within 0.05"),
        (equal, of([-0.25] * 9, [0.05] * 9, [-0.2] * 9), "equal: too few seeds or questions to tell"),
        (equal, of([0.1] * 9, [0.11] * 9, [0.12] * 9), "equal: disagrees"),
        (silent, of([0.1] * 9, [0.11] * 9), "none given"),
    ):
        assert verdict(judged, difference) == says


def test_one_model_each_counts_as_one_arm(tmp_path):
    study = read_study("kinds", tmp_path, changes={"seeds": [1]})
    results = [result("separate", 1, {kind: answers(i, 10)}) for i, kind in enumerate(study.kinds)]
    asked, arm = shared_questions(study, results), study.arm("separate")
    assert outcome(study, results, arm, study.kinds, asked).by_seed == pytest.approx([0.25])
    assert outcome(study, results, arm, ["speed"], asked).by_seed == pytest.approx([0.1 * study.kinds.index("speed")])
    assert ALL in table(study, results)


def test_a_question_that_one_arm_was_not_asked_counts_in_none(tmp_path):
    study = read_study("marker", tmp_path, changes={"seeds": [1]})
    results = [result("coordinates", 1, {"distance": answers(2, 4)}), result("marker", 1, {"distance": answers(4, 4)})]
    del results[1]["right"]["distance"]["s0/0 0"]
    asked = shared_questions(study, results)
    assert len(asked["distance"]) == 3
    found = [outcome(study, results, arm, ["distance"], asked) for arm in study.arms]
    assert [o.by_seed[0] for o in found] == pytest.approx([1 / 3, 1])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["marker", "--train", "x"], "give --train and --test"),
        (["report"], "--document"),
        (["report", "--document", "d.md"], "no finished study"),
    ],
)
def test_wrong_use(words, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", *words, "--out", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
