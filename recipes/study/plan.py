"""A study as data: plans/NAME.yaml -> stores, suites and training runs, each the arguments of a command.

``plans/settings.yaml`` holds what all studies share at each size; a study's own file says its arms and what differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from depthlm.errors import DepthLMError

PLANS = Path(__file__).parent / "plans"
SHARED = "settings"
SIZES = ("small", "large")
# What of a run's arguments decides what it is asked, and so which suite it is scored on.
ASKED = ("profile", "intrinsics", "pointing")
Expected = Literal["higher", "equal"]


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        key: its name in folders; ``label`` is its name in tables.
        arguments: of the recipe, beside those that all arms share.
        recipe: "sft" or "grpo".
        expected: the paper's direction against the study's reference arm; None for the reference itself, or where the
            paper says nothing.
        each: one model for each of the study's kinds, with its share of the steps.
        as_long_as: key of the arm whose training time this one gets, instead of its number of samples.
        longer: how many times as long as the reference arm the paper found it to train, in words.
    """

    key: str
    label: str
    arguments: dict[str, Any] = field(default_factory=dict)
    recipe: Literal["sft", "grpo"] = "sft"
    expected: Expected | None = None
    each: bool = False
    as_long_as: str | None = None
    longer: str | None = None


@dataclass(frozen=True)
class Store:
    """A frame store: the user's own folder, or one to be rendered with ``options`` of ``depthlm data synthetic``."""

    path: Path
    options: dict[str, Any] | None = None


@dataclass(frozen=True)
class Suite:
    """Frozen questions about the held-out stores, in one way of asking."""

    path: Path
    options: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training with its evaluation."""

    arm: Arm
    seed: int
    kind: str | None
    folder: Path
    arguments: dict[str, Any]
    questions_per_step: int
    suite: Suite

    @property
    def steps(self) -> int:
        return int(self.arguments["max_steps"])


@dataclass(frozen=True)
class Study:
    """A study at one size.

    Args:
        claim: what the paper found, with its place; ``notes``: what limits this study.
        reference: key of the arm that the others are compared with.
        kinds: of questions.
        judged: the kind that the claim is about; None: all kinds alike.
        samples: questions trained on by each arm.
    """

    name: str
    size: str
    title: str
    claim: str
    notes: str
    reference: str
    arms: tuple[Arm, ...]
    kinds: tuple[str, ...]
    judged: str | None
    samples: int
    questions: int
    seeds: tuple[int, ...]
    jobs: int
    threads: int
    launch: tuple[str, ...]
    hardware: str
    train: tuple[Store, ...]
    test: tuple[Store, ...]
    arguments: dict[str, dict[str, Any]]
    folder: Path

    def arm(self, key: str) -> Arm:
        return next(arm for arm in self.arms if arm.key == key)

    def suite(self, arguments: Mapping[str, Any], kinds: Sequence[str]) -> Suite:
        """The suite that asks about ``kinds`` as the arguments train. Suites of one study ask the same, but for points
        that one of them does not show."""
        asked = {name: arguments[name] for name in ASKED if name in arguments}
        options = {
            "stores": [str(store.path) for store in self.test],
            "mix": ",".join(kinds),
            "count": self.questions * len(kinds),
            **asked,
        }
        return Suite(self.folder.parent / "suites" / _named(asked.get("pointing", "marker"), options), options)

    def runs(self) -> Iterator[Run]:
        """All runs, those of one seed together, so that a study stopped early has whole seeds."""
        for seed in self.seeds:
            for arm in self.arms:
                for kind in self.kinds if arm.each else (None,):
                    yield self._run(arm, seed, kind)

    def _run(self, arm: Arm, seed: int, kind: str | None) -> Run:
        common = self.arguments["all"] | self.arguments[arm.recipe]
        arguments = common | arm.arguments | {"seed": seed, "sample_seed": seed}
        arguments["mix"] = kind or arguments.get("mix") or ",".join(self.kinds)
        # as many questions a step in every arm, and so as many steps
        batch = int(arguments["per_device_train_batch_size"])
        points = int(arguments.get("points_per_image", 1))
        arguments["per_device_train_batch_size"] = max(1, batch // points)
        questions = arguments["per_device_train_batch_size"] * points // int(arguments.get("num_generations", 1))
        share = len(self.kinds) if arm.each else 1
        arguments["max_steps"] = max(1, round(self.samples / share / questions))
        folder = self.folder / arm.key / f"seed-{seed}"
        suite = self.suite(arguments, (kind,) if kind else self.kinds)
        return Run(arm, seed, kind, folder / kind if kind else folder, arguments, questions, suite)


def names() -> list[str]:
    """Names of all studies."""
    return sorted(path.stem for path in PLANS.glob("*.yaml") if path.stem != SHARED)


def read_study(
    name: str,
    out: Path,
    size: str = "small",
    *,
    changes: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    train: Sequence[Path] = (),
    test: Sequence[Path] = (),
) -> Study:
    """The study ``name`` at a size.

    Args:
        out: folder of all studies' stores, suites and runs.
        changes: settings other than the plan's: seeds, jobs, samples, questions.
        arguments: recipe arguments laid over the plan's, for all arms; an arm's own stay.
        train, test: the user's own stores instead of the plan's.

    Raises:
        DepthLMError: no such study or size, or own stores for training or for testing alone.
    """
    if name not in names():
        raise DepthLMError(f"study {name!r}", "is not known", f"known: {', '.join(names())}")
    if size not in SIZES:
        raise DepthLMError(f"size {size!r}", "is not known", f"one of {', '.join(SIZES)}")
    if bool(train) != bool(test):
        raise DepthLMError("stores", "of the user's own are given for one side alone", "give --train and --test")
    shared, own = _load(SHARED)[size], _load(name)
    plan = {**shared, **own, **own.get(size, {}), **(changes or {})}
    arms = tuple(_arm(key, spec or {}) for key, spec in plan["arms"].items())
    given = {
        recipe: shared["arguments"].get(recipe, {})
        | own.get("arguments", {}).get(recipe, {})
        | own.get(size, {}).get("arguments", {}).get(recipe, {})
        for recipe in ("all", "sft", "grpo")
    }
    given["all"] |= dict(arguments or {})
    return Study(
        name=name,
        size=size,
        title=plan["title"],
        claim=" ".join(plan["claim"].split()),
        notes=" ".join(plan["notes"].split()),
        reference=plan["reference"],
        arms=arms,
        kinds=tuple(plan["kinds"]),
        judged=plan.get("judged"),
        samples=int(plan["samples"]),
        questions=int(plan["questions"]),
        seeds=tuple(plan["seeds"]),
        jobs=int(plan["jobs"]),
        threads=int(plan["threads"]),
        launch=tuple(plan["launch"]),
        hardware=plan["hardware"],
        train=_stores(out, train, plan["train"]),
        test=_stores(out, test, plan["test"]),
        arguments=given,
        folder=out / f"{name}-{size}",
    )


def _arm(key: str, spec: dict[str, Any]) -> Arm:
    own = {name: spec[name] for name in ("recipe", "expected", "each", "as_long_as", "longer") if name in spec}
    arguments = {name: value for name, value in spec.items() if name != "label" and name not in own}
    return Arm(key, spec.get("label", key.replace("_", " ")), arguments, **own)


def _stores(out: Path, own: Sequence[Path], planned: Sequence[dict[str, Any]]) -> tuple[Store, ...]:
    if own:
        return tuple(Store(path.resolve()) for path in own)
    return tuple(Store(out / "stores" / _named("drawn", options), options) for options in planned)


def _named(word: str, options: Mapping[str, Any]) -> str:
    """A folder name that is another one for other options."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()
    return f"{word}-{digest[:10]}"


def _load(name: str) -> dict[str, Any]:
    return yaml.safe_load((PLANS / f"{name}.yaml").read_text(encoding="utf-8"))
