"""One run of ``depthlm eval run``: how its model is asked, where its files lie, what is said of it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from depthlm.errors import DepthLMError
from depthlm.models.asked_as import GENERAL, profile_of
from depthlm.profiles import PROFILES, Profile
from depthlm.suite import Suite
from eval.answer_file import check_same_run, read_answers
from eval.ask import ask_suite, make_header
from eval.engines import Engine
from eval.score import write_result

SHOWN_FAILURES = 10
CONCURRENCY, TIMEOUT_S, ATTEMPTS = 32, 120.0, 5


@dataclass
class OneRun:
    """One run's suite, settings and folder.

    Args:
        label: its name on the leaderboard and of its folder.
        models: folders or names by which its profile is known, an adapter's before its base's; None: no language
            model answers.
    """

    args: argparse.Namespace
    suite: Suite
    label: str | None
    models: Sequence[str | Path] | None = None

    @cached_property
    def profile(self) -> Profile:
        return PROFILES.get(self._profile[0])

    @cached_property
    def notes(self) -> list[str]:
        """What a reader of the scores has to know of how the model was asked."""
        if self.models is None:
            return []
        name, why = self._profile
        told = [f"asked by the profile {name}: {why}"] if name == GENERAL and why else []
        return told + ([self.profile.note] if self.profile.note else [])

    @cached_property
    def _profile(self) -> tuple[str, str]:
        if self.models is None:
            return self.suite.settings.get("profile", GENERAL), ""
        return (self.args.profile, "") if self.args.profile else profile_of(*self.models)

    def folder(self, model: str) -> Path:
        """Of the run's files, for a model of this name."""
        return self.args.out / (folder_name(self.label or model) or "model")

    def endpoint(
        self, url: str, model: str | None, encoding: str = "png", *, seeded: bool = True, **more: Any
    ) -> Engine:
        """The engine that asks a server.

        Args:
            encoding: of images, where --encoding doesn't say.
            seeded: whether requests may have a seed.
            more: arguments of `ChatEndpoint`.
        """
        from eval.engines.endpoint import EndpointEngine

        args = self.args
        try:
            extra = json.loads(args.request_json or "{}")
        except ValueError as error:
            raise DepthLMError("--request-json", f"is no JSON: {error}", "e.g. '{\"top_p\": 1}'") from error
        if not isinstance(extra, dict):
            raise DepthLMError("--request-json", "is no object", "e.g. '{\"top_p\": 1}'")
        extra = extra if seeded else {"seed": None, **extra}
        more |= {"timeout_s": args.timeout or TIMEOUT_S, "attempts": args.attempts or ATTEMPTS, "extra": extra}
        return EndpointEngine(url, model, encoding=args.encoding or encoding, **self.answers, **more)

    @property
    def answers(self) -> dict[str, Any]:
        """Settings of the answers that every engine takes."""
        args = self.args
        tokens = args.max_tokens or self.profile.max_tokens
        return {"max_tokens": tokens, "samples": args.samples or 1, "logprobs": bool(args.logprobs)}

    @property
    def per_conversation(self) -> int:
        return self.args.per_conversation or 1

    def complete(self, engine: Engine, more: dict[str, Any]) -> bool:
        """Whether all answers of this run are there.

        Raises:
            DepthLMError: those of another run are.
        """
        path = self.folder(engine.model) / "answers.jsonl"
        if self.args.fresh or not path.is_file():
            return False
        try:
            answers = read_answers(path)
        except DepthLMError:  # asking will say what is wrong with it, or mend it
            return False
        header = make_header(self.suite, engine, self.profile.name, self.per_conversation, **more)
        check_same_run(path, answers.header, header)
        return all(item.id in answers.texts for item in self.suite.items)

    def ask(self, engine: Engine, more: dict[str, Any], least_concurrency: int = 1) -> int:
        """Ask what is missing and score, also what there is of a run that stops; the exit status.

        Args:
            more: of the answers' header: origin, engine, fingerprint, notes.
            least_concurrency: questions under way at once that the engine needs.

        Raises:
            DepthLMError: see `eval.ask.ask_suite`.
        """
        args, folder = self.args, self.folder(engine.model or "endpoint")
        if self.models is not None and not args.profile:
            print(f"asked by the profile {self.profile.name}: {self._profile[1]}", file=sys.stderr)
        if self.models is not None and self.profile.note:
            print(f"note: {self.profile.note}", file=sys.stderr)
        header = {"notes": self.notes, **({"label": self.label} if self.label else {}), **more}
        try:
            summary = ask_suite(
                self.suite,
                engine,
                folder / "answers.jsonl",
                max(args.concurrency or CONCURRENCY, least_concurrency),
                profile=self.profile.name,
                per_conversation=self.per_conversation,
                workers=args.workers,
                header=header,
                fresh=args.fresh,
            )
        except DepthLMError as error:
            if error.kind == "endpoint fails":  # what was answered before is worth its numbers
                self.score(folder)
            raise
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
        if answers.cut:
            print(f"{len(answers.cut)} answers were cut off at the longest allowed: give a larger --max-tokens")


def folder_name(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")


def report(row: dict[str, Any], folder: Path, label: str) -> None:
    """One line about a result."""
    name = "delta1" if "delta1" in row else "score"
    delta = row[name]
    print(f"{label}: {name} {delta['value']:.3f} ({delta['low']:.3f} to {delta['high']:.3f}), {row['n']} questions, "
          f"{row['unparsable']} unparsable, {row['missing']} missing -> {folder / 'result.jsonl'}")  # fmt: skip
    if (calibration := row.get("calibration")) is not None:
        print(f"90% intervals hold {calibration['0.9']:.1%} of the truths")
