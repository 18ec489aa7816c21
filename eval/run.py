"""``depthlm eval run``: which engine asks, how, and what is written where."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from depthlm.errors import DepthLMError
from depthlm.models.asked_as import GENERAL, profile_of, read_asked_as
from depthlm.profiles import PROFILES, Profile
from depthlm.suite import Suite, read_suite
from eval.answer_file import IDENTITY, read_answers
from eval.ask import ask_suite, limit_suite, make_header
from eval.engines import Engine
from eval.score import write_result

SHOWN_FAILURES = 10


def run(args: argparse.Namespace) -> int:
    """Carry out ``depthlm eval run``; the exit status.

    Raises:
        DepthLMError: arguments that don't go together, or what asking and scoring raise.
    """
    _check(args)
    suite = limit_suite(read_suite(args.suite), args.parity or args.limit)
    if args.baseline:
        from eval.engines.baselines import make_baseline

        return _Run(args, suite, args.label).ask(make_baseline(args.baseline, suite), {"origin": "baseline"})
    if args.maps or args.depth_model:
        return _expert(args, suite)
    if args.endpoint:
        asked = _Run(args, suite, args.label or args.model, None, args.model)
        return asked.ask(asked.endpoint(args.endpoint, args.model))
    if args.parity:
        return _parity(args, suite)
    return _local(args, suite, args.engine, args.label)


# What answers, by the argument that names it; --model beside --endpoint is a name there.
ANSWERERS = ("baseline", "endpoint", "maps", "depth_model", "model")


def _check(args: argparse.Namespace) -> None:
    named = [name for name in ANSWERERS if getattr(args, name)]
    if not named:
        raise DepthLMError("eval run", "nothing to ask", "give --model, --endpoint, --maps, … or --baseline")
    if len(named) > 1 and named != ["endpoint", "model"]:
        both = " and ".join(f"--{name.replace('_', '-')}" for name in named)
        raise DepthLMError("eval run", f"{both} both name what answers", "give one of them")
    local = named == ["model"]
    if args.adapter and not local:
        raise DepthLMError("--adapter", "is put on a --model that is run here", "drop it")
    if args.engine != "vllm" and not local:
        raise DepthLMError("--engine", "runs a --model", "drop it")
    if args.samples < 1:
        raise DepthLMError("--samples", f"is {args.samples}", "give 1 or more")
    if args.samples > 1 and args.logprobs:
        raise DepthLMError("--logprobs", "is of one answer, not of --samples", "drop one of them")
    if args.parity is not None and (not local or args.samples > 1):
        raise DepthLMError("--parity", "compares the greedy answers of one model", "give --model alone")


@dataclass
class _Run:
    """One run's suite, settings and folder.

    Args:
        label: its name on the leaderboard and of its folder.
        folder_of: model's folders or names, by which its profile is known.
    """

    args: argparse.Namespace
    suite: Suite
    label: str | None
    models: tuple[str | Path, ...] | None = None
    named: str | None = None

    @property
    def blind(self) -> bool:
        """Whether what answers is no language model, and has no profile."""
        return bool(self.args.baseline or self.args.maps or self.args.depth_model)

    @cached_property
    def profile(self) -> Profile:
        return PROFILES.get(self._profile[0])

    @cached_property
    def notes(self) -> list[str]:
        """What a reader of the scores has to know of how the model was asked."""
        if self.blind:
            return []
        name, why = self._profile
        told = [f"{why} ({name})"] if name == GENERAL and why else []
        return told + ([self.profile.note] if self.profile.note else [])

    @cached_property
    def _profile(self) -> tuple[str, str]:
        if self.args.profile:
            return self.args.profile, ""
        if self.blind:
            return self.suite.settings.get("profile", GENERAL), ""
        return profile_of(*(self.models or ([self.named] if self.named else [])))

    def folder(self, label: str) -> Path:
        return self.args.out / (re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.") or "model")

    def endpoint(self, url: str, model: str | None, encoding: str = "png") -> Engine:
        """The engine that asks a server."""
        from eval.engines.endpoint import EndpointEngine

        args = self.args
        try:
            extra = json.loads(args.request_json)
        except ValueError as error:
            raise DepthLMError("--request-json", f"is no JSON: {error}", "e.g. '{\"top_p\": 1}'") from error
        if not isinstance(extra, dict):
            raise DepthLMError("--request-json", "is no object", "e.g. '{\"top_p\": 1}'")
        more = {"timeout_s": args.timeout, "attempts": args.attempts, "extra": extra}
        return EndpointEngine(url, model, encoding=args.encoding or encoding, **self.answers, **more)

    @property
    def answers(self) -> dict[str, Any]:
        """Settings of the answers that every engine takes."""
        args = self.args
        tokens = args.max_tokens or self.profile.max_tokens
        return {"max_tokens": tokens, "samples": args.samples, "logprobs": args.logprobs}

    def header(self, more: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the answers' file says beside the engine's own."""
        label = {"label": self.label} if self.label else {}
        return {"notes": self.notes, **label, **(more or {})}

    def complete(self, engine: Engine, more: dict[str, Any]) -> bool:
        """Whether all answers of exactly this run are there."""
        path = self.folder(self.label or engine.model) / "answers.jsonl"
        if self.args.fresh or not path.is_file():
            return False
        try:
            answers = read_answers(path)
        except DepthLMError:  # asking will say what is wrong with it, or mend it
            return False
        header = make_header(self.suite, engine, self.profile.name, self.args.per_conversation, **more)
        same = all(answers.header.get(key) == header.get(key) for key in IDENTITY)
        return same and all(item.id in answers.texts for item in self.suite.items)

    def ask(self, engine: Engine, more: dict[str, Any] | None = None) -> int:
        """Ask what is missing and score; the exit status."""
        args, folder = self.args, self.folder(self.label or engine.model or "endpoint")
        for note in self.notes:
            print(f"note: {note}", file=sys.stderr)
        if args.fresh:
            (folder / "answers.jsonl").unlink(missing_ok=True)
        summary = ask_suite(
            self.suite,
            engine,
            folder / "answers.jsonl",
            args.concurrency,
            profile=self.profile.name,
            per_conversation=args.per_conversation,
            workers=args.workers,
            header=self.header(more),
        )
        self.score(folder)
        for name, reason in list(summary.failures.items())[:SHOWN_FAILURES]:
            print(f"failed: {name}: {reason}", file=sys.stderr)
        if summary.failures:
            print(f"{len(summary.failures)} questions have no answer; run the same again to ask them", file=sys.stderr)
            return 1
        return 0

    def score(self, folder: Path) -> None:
        """Score a folder's answers and say how they did."""
        answers = read_answers(folder / "answers.jsonl")
        if self.args.label:
            answers.header["label"] = self.args.label
        label = str(answers.header.get("label") or answers.header["model"])
        report(write_result(self.suite, answers, folder), folder, label)


def report(row: dict[str, Any], folder: Path, label: str) -> None:
    """One line about a result."""
    name = "delta1" if "delta1" in row else "score"
    delta = row[name]
    print(f"{label}: {name} {delta['value']:.3f} ({delta['low']:.3f} to {delta['high']:.3f}), {row['n']} questions, "
          f"{row['unparsable']} unparsable, {row['missing']} missing -> {folder / 'result.jsonl'}")  # fmt: skip
    if (calibration := row.get("calibration")) is not None:
        print(f"90% intervals hold {calibration['0.9']:.1%} of the truths")


def _name(args: argparse.Namespace) -> str:
    """What a run is called when it has no label: its model's last folder or its hub name."""
    source = args.adapter or args.model
    return Path(source).resolve().name if Path(source).is_dir() else str(source)


def _local(args: argparse.Namespace, suite: Suite, kind: str, label: str | None) -> int:
    """Ask a model that is run here, unless every question has its answer already."""
    from depthlm.serving.vllm_process import VLLMServer
    from eval.provenance import fingerprint

    label = label or _name(args)
    server = VLLMServer(
        args.model,
        adapter=args.adapter,
        max_model_len=args.max_model_len,
        images_per_prompt=max(item.image_count for item in suite.items),
        extra_args=shlex.split(args.vllm_args),
        log=args.out / re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.") / "vllm.log",
        on_progress=lambda seconds, line: print(f"waiting for vLLM, {seconds:.0f} s: {line[:120]}", file=sys.stderr),
    )
    models = tuple(model for model in (server.adapter, server.model) if model)
    asked = _Run(args, suite, label, models)
    _warn_of_training(suite, models)
    folders = [Path(folder) for folder in (server.model, server.adapter) if folder and Path(folder).is_dir()]
    more = {"fingerprint": "-".join(fingerprint(folder) for folder in folders) or None}
    if kind == "vllm":
        if asked.complete(asked.endpoint("http://localhost", server.model_name), more):
            return _nothing_to_ask(asked, label)
        with server:
            return asked.ask(asked.endpoint(server.base_url, server.model_name, "bmp"), more)
    options = {"batch": args.batch, **asked.answers}
    if kind == "transformers":
        from eval.engines.transformers_engine import TransformersEngine

        engine: Engine = TransformersEngine(server.model, server.model_name, adapter=server.adapter, **options)
    else:
        from eval.engines.vllm_offline import VLLMOfflineEngine

        engine = VLLMOfflineEngine(server, **options)
    return _nothing_to_ask(asked, label) if asked.complete(engine, more) else asked.ask(engine, more)


def _expert(args: argparse.Namespace, suite: Suite) -> int:
    """Ask depth maps: those of a folder, or those that a depth model predicts first."""
    from eval.dense import add_dense
    from eval.depth_maps import MapFolder
    from eval.engines.depth_map import DepthMapEngine, predict_maps

    label = args.label or Path(args.maps or args.depth_model).name
    asked = _Run(args, suite, label)
    folder, note = Path(args.maps) if args.maps else asked.folder(label) / "maps", ""
    if args.depth_model:
        note = predict_maps(suite, args.depth_model, folder)
    maps = MapFolder(folder, args.map_unit)
    status = asked.ask(DepthMapEngine(suite, label, maps), {"origin": "expert", "notes": [note] if note else []})
    if count := add_dense(suite, maps, asked.folder(label)):
        print(f'{count} whole maps scored too: rows "dense" of result.jsonl, and dense.jsonl')
    return status


def _nothing_to_ask(asked: _Run, label: str) -> int:
    print("every question has its answer; the model is not started", file=sys.stderr)
    asked.score(asked.folder(label))
    return 0


def _warn_of_training(suite: Suite, models: tuple[str | Path, ...]) -> None:
    """Say where a suite asks otherwise than the model was trained."""
    trained = next((found for model in models if (found := read_asked_as(model)) is not None), None)
    for name in ("intrinsics", "pointing"):
        asked = suite.settings.get(name)
        if trained is not None and asked not in (None, getattr(trained, name)):
            print(f"note: {suite.name} asks with {name} {asked}, the model was trained with {getattr(trained, name)}",
                  file=sys.stderr)  # fmt: skip


def _parity(args: argparse.Namespace, suite: Suite) -> int:
    """The same questions by two engines; 1 where an answer differs."""
    reference = "transformers"
    if args.engine == reference:
        raise DepthLMError("--parity", "compares an engine with transformers", "give --engine vllm or vllm-offline")
    label = args.label or _name(args)
    said = {}
    for engine in (args.engine, reference):
        name = f"{label} ({engine})"
        if status := _local(args, suite, engine, name):
            return status
        said[engine] = read_answers(_Run(args, suite, name).folder(name) / "answers.jsonl").texts
    one, other = said[args.engine], said[reference]
    differ = [item for item in suite.items if one[item.id] != other[item.id]]
    for item in differ[:SHOWN_FAILURES]:
        print(f"{item.id}: {args.engine} {one[item.id]!r}, {reference} {other[item.id]!r}, true {item.truth:.2f}")
    print(f"parity: {len(suite.items) - len(differ)} of {len(suite.items)} answers are the same")
    return 1 if differ else 0
