"""Carrying a study out: stores and suites once, then its runs, several at a time, each a command that can be typed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from depthlm.errors import DepthLMError
from depthlm.models.loading import resolve
from depthlm.store import replace_file
from depthlm.suite import ANSWERS, Item, read_suite
from recipes.study.plan import Run, Store, Study, Suite

RECIPES = Path(__file__).parents[1]
RESULT, LOG = "result.json", "log.txt"
DEPTHLM = (sys.executable, "-m", "depthlm.cli")


def carry_out(study: Study) -> list[dict[str, Any]]:
    """Do what is not yet done of a study; results of all its runs.

    Interrupted at any moment, the same call goes on: a run counts once its result.json is there, and is made again
    from its beginning otherwise.

    Raises:
        DepthLMError: a command failed (its last lines are told), or the folder holds results of another plan.
    """
    runs = list(study.runs())
    for run in runs:
        _check_same(study, run)
    for store in (*study.train, *study.test):
        _draw(store)
    for suite in {run.suite.path: run.suite for run in runs}.values():
        _freeze(suite)
    bar = tqdm(total=len(runs), desc=f"study {study.name}", unit="run")
    now = [run for run in runs if run.arm.as_long_as is None]
    done = _all(study, now, bar)
    later = [_as_long_as(run, done) for run in runs if run.arm.as_long_as is not None]
    done += _all(study, later, bar)
    bar.close()
    return done


def finished(study: Study) -> list[dict[str, Any]]:
    """Results of a study all of whose runs are done; empty where one is not.

    Raises:
        DepthLMError: they are of another plan.
    """
    runs = list(study.runs())
    paths = [run.folder / RESULT for run in runs]
    if not all(path.is_file() for path in paths):
        return []
    for run in runs:
        _check_same(study, run)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _all(study: Study, runs: Sequence[Run], bar: Any) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(study.jobs) as pool:
        futures = [pool.submit(_train, study, run) for run in runs]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _check_same(study: Study, run: Run) -> None:
    path = run.folder / RESULT
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))["made_with"]
    now = json.loads(json.dumps(_made_with(study, run)))
    free = {"max_steps"} if run.arm.as_long_as else set()
    changed = sorted(k for k in (before.keys() | now.keys()) - free if before.get(k) != now.get(k))
    if changed:
        mend = "give another --out, or remove it"
        raise DepthLMError(run.folder, f"holds a run with other {', '.join(changed)}", mend)


def _made_with(study: Study, run: Run) -> dict[str, Any]:
    """All that a run's result depends on; drawn stores and suites have their options in their names."""
    stores = [store.path.name if store.options else str(store.path) for store in study.train]
    start = _fingerprint(resolve(str(run.arguments["model_name_or_path"])))
    made = {"recipe": run.arm.recipe, "stores": stores, "suite": run.suite.path.name, "start": start}
    if encoder := run.arguments.get("spatial_encoder"):
        from depthlm.spatial.encoder import FROM_SCRATCH, resolve_encoder  # slow: only where there is one

        made["encoder"] = encoder if encoder == FROM_SCRATCH else _fingerprint(resolve_encoder(encoder))
    return run.arguments | made


@cache
def _fingerprint(model: str) -> str:
    """Of a model folder's weights; a hub's model is known by its name."""
    files = sorted(Path(model).glob("*.safetensors"))
    if not files:
        return model
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _as_long_as(run: Run, done: Sequence[dict[str, Any]]) -> Run:
    """The run with as many steps as fit into the other arm's training time, at this arm's own pace."""
    seconds = {r["arm"]: r["seconds"] for r in done if r["seed"] == run.seed and r["recipe"] == run.arm.recipe}
    steps = {r["arm"]: r["steps"] for r in done if r["seed"] == run.seed and r["recipe"] == run.arm.recipe}
    pace = next(seconds[arm] / steps[arm] for arm in seconds)
    time = next(r["seconds"] for r in done if r["seed"] == run.seed and r["arm"] == run.arm.as_long_as)
    return dataclasses.replace(run, arguments=run.arguments | {"max_steps": max(1, round(time / pace))})


def _draw(store: Store) -> None:
    if store.options is None or (store.path / "report.json").is_file():
        return
    words = [word for name, value in store.options.items() for word in (f"--{name}", str(value))]
    _call([*DEPTHLM, "data", "synthetic", "--out", str(store.path), *words], f"store {store.path.name}")


def _freeze(suite: Suite) -> None:
    if (suite.path / "suite.json").is_file():
        return
    shutil.rmtree(suite.path, ignore_errors=True)
    options = {name: value for name, value in suite.options.items() if name != "stores"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--out", str(suite.path)]
    _call([*DEPTHLM, "data", "freeze", *suite.options["stores"], *words], f"suite {suite.path.name}")


def _call(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DepthLMError(what, f"failed: {_last_line(done.stderr)}", " ".join(command))


def command_of(study: Study, run: Run) -> list[str]:
    """What trains and scores one run."""
    start = [sys.executable] if study.launch == ("python",) else list(study.launch)
    arguments = run.arguments | {
        "output_dir": run.folder,
        "eval_suite": run.suite.path,
        "eval_steps": run.steps,
        "save_strategy": "no",
        "report_to": "none",
        # what the models were like before: the same for all seeds
        "eval_on_start": str(run.seed == study.seeds[0]).lower(),
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", *_words(value))]
    return [*start, str(RECIPES / f"{run.arm.recipe}.py"), "--stores", *(str(s.path) for s in study.train), *words]


def _words(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [word for part in value for word in _words(part)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def _train(study: Study, run: Run) -> dict[str, Any]:
    path = run.folder / RESULT
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    command = command_of(study, run)
    environment = os.environ | {"OMP_NUM_THREADS": str(study.threads)}
    with (run.folder / LOG).open("w", encoding="utf-8") as log:
        log.write(" ".join(command) + "\n\n")
        log.flush()
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    if status:
        last = _last_line((run.folder / LOG).read_text(encoding="utf-8", errors="replace"))
        raise DepthLMError(run.folder / LOG, f"the run ended with status {status}: {last}", "see the log")
    result = _result(study, run)
    replace_file(path, (json.dumps(result, indent=1) + "\n").encode())
    for file in run.folder.iterdir():  # the models of dozens of runs are of no more use
        if file.name not in (RESULT, LOG, "trainer_state.json") and file.is_file():
            file.unlink()
    return result


def _result(study: Study, run: Run) -> dict[str, Any]:
    history = json.loads((run.folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    asked = [row for row in history if "eval_delta1" in row]
    items = read_suite(run.suite.path).items
    first = run.folder / ANSWERS / "step-0.jsonl"
    runtime = next(row["train_runtime"] for row in history if "train_runtime" in row)
    return {
        "arm": run.arm.key,
        "recipe": run.arm.recipe,
        "seed": run.seed,
        "kind": run.kind,
        "made_with": json.loads(json.dumps(_made_with(study, run))),
        "right": _right(run.folder / ANSWERS / f"step-{run.steps}.jsonl", items),
        "start": _right(first, items) if first.is_file() else None,
        "unparsable": asked[-1]["eval_unparsable"],
        "steps": run.steps,
        "samples": run.steps * run.questions_per_step,
        "seconds": round(runtime - sum(row["eval_runtime"] for row in asked), 1),
    }


def _right(answers: Path, items: Sequence[Item]) -> dict[str, dict[str, bool]]:
    """By kind, then by what was asked about: whether the answer was right."""
    right = {row["id"]: row["right"] for row in map(json.loads, answers.read_text(encoding="utf-8").splitlines())}
    out: dict[str, dict[str, bool]] = {}
    for item in items:
        out.setdefault(item.kind, {})[_asked_about(item)] = right[item.id]
    return out


def _asked_about(item: Item) -> str:
    """The frames, their points in the source's pixels, the truth: the same in every way of asking."""
    points = [f"{x:.2f},{y:.2f}" for x, y in (point["source_xy"] for point in item.points)]
    return " ".join([*item.frame_ids, *points, f"{item.truth:.5g}"])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][:300]
