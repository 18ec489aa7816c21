"""Studies: every plan is whole, arms differ in what they say, a study is carried out and goes on after a stop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from trl import GRPOConfig, ModelConfig, SFTConfig, TrlParser

from data_gen.curate import curate
from data_gen.readers.procedural import ProceduralReader
from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.training.arguments import DataArguments
from depthlm.training.rewards import reward_functions
from recipes.study.plan import SIZES, names, read_study
from recipes.study.report import ALL, by_seed, interval, plot, table, verdict
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
    assert any(arm.expected for arm in study.arms)
    assert not {s.options["seed"] for s in study.train} & {s.options["seed"] for s in study.test}
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
                    shared = {k: v for k, v in a.arguments.items() if k not in own}
                    assert shared == {k: v for k, v in b.arguments.items() if k not in own}


def test_a_study_is_carried_out_and_goes_on_after_a_stop(scenes, tmp_path):
    study = small("marker", tmp_path, scenes)
    results = carry_out(study)
    assert [(r["arm"], r["seed"]) for r in results] == [("coordinates", 1), ("marker", 1)]
    for r in results:
        assert 0 <= r["delta1"]["distance"] <= 1 and 0 <= r["start"]["distance"] <= 1
        assert r["seconds"] > 0 and r["samples"] == 16
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
    assert (sft["steps"], grpo["steps"]) == (1, 2)
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


def result(arm, seed, kinds, start=None):
    return {"arm": arm, "seed": seed, "delta1": kinds, "start": start, "seconds": 10.0, "samples": 100,
            "made_with": {"model_name_or_path": "nano"}}  # fmt: skip


def test_means_intervals_and_verdicts(tmp_path):
    study = read_study("marker", tmp_path)
    rows = {"coordinates": (0.2, 0.3, 0.25), "marker": (0.5, 0.6, 0.61)}
    results = [
        result(arm, seed, {"distance": value}, {"distance": 0.1} if seed == 1 else None)
        for arm, values in rows.items()
        for seed, value in zip((1, 2, 3), values, strict=True)
    ]
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    text = table(study, results)
    assert "| 0.100 | 0.250 ± 0.124 |" in text and "+0.320" in text and "| agrees |" in text
    arm = study.arm("marker")
    assert verdict(arm, [0.1, -0.1, 0.2]) == "same direction, within the noise"
    assert verdict(arm, [-0.1, -0.11, -0.12]) == "disagrees"
    assert verdict(arm, [0.1]) == "one seed tells nothing"
    equal = replace(arm, expected="equal")
    assert verdict(equal, [0.01, 0.02, 0.0]) == "agrees: equal within 0.05"
    assert verdict(equal, [-0.25, 0.05, -0.2]) == "too few seeds to tell"
    assert verdict(equal, [0.1, 0.11, 0.12]) == "disagrees"
    assert plot(study, results, tmp_path / "a" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_one_model_each_counts_as_one_arm(tmp_path):
    study = read_study("kinds", tmp_path, changes={"seeds": [1]})
    values = {kind: 0.1 * i for i, kind in enumerate(study.kinds)}
    results = [result("separate", 1, {kind: value}) for kind, value in values.items()]
    assert by_seed(study, results, study.arm("separate"), ALL) == [pytest.approx(0.25)]
    assert by_seed(study, results, study.arm("separate"), "speed") == [pytest.approx(values["speed"])]


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
