"""Suite x engine -> answers.jsonl: every question once, bounded, resumable.

The file's first line says whose answers to which suite follow. Then one line per answer, written as it comes::

    {"id": "…", "text": "3.20", "latency_s": 0.41, "elapsed_s": 7.9}      and "spread" where it was asked for
    {"id": "…", "error": "no answer in 5 attempts: …", "elapsed_s": 8.2}

A failed question is asked again next time. ``elapsed_s`` counts from the session's own line, so that the working time
is known even of a run that was killed.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from depthlm.errors import DepthLMError
from depthlm.profiles import PROFILES
from depthlm.suite import Item, Suite, evenly
from depthlm.suite_view import SuiteView
from eval.answer_file import AnswerFile
from eval.engines import Engine, Reply
from eval.prepare import Ready, conversations, make_ready, prepared
from eval.provenance import versions


@dataclass(frozen=True)
class AskSummary:
    """What ``ask_suite`` did: questions answered before, answered now, and those that failed with their reasons."""

    kept: int
    asked: int
    failures: dict[str, str]


def limit_suite(suite: Suite, count: int | None) -> Suite:
    """``count`` evenly spaced questions of a suite, under a hash of their own; the suite itself for None."""
    if count is None or count >= len(suite.items):
        return suite
    if count < 1:
        raise DepthLMError("--limit", f"{count} questions", "give 1 or more")
    items = evenly(suite.items, count)
    info = {**suite.info, "hash": f"{suite.hash}-{count}of{len(suite.items)}", "count": count, "limit": count}
    return replace(suite, info=info, items=items)


def make_header(
    suite: Suite, engine: Engine, profile: str, per_conversation: int = 1, /, **more: Any
) -> dict[str, Any]:
    """First line of an answers file."""
    return {
        "suite": suite.name,
        "suite_hash": suite.hash,
        "count": len(suite.items),
        "limit": suite.info.get("limit"),
        "model": engine.model,
        "profile": profile,
        "profile_digest": hashlib.sha256(repr(PROFILES.get(profile)).encode()).hexdigest()[:8],
        "per_conversation": per_conversation,
        "settings": engine.settings,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def ask_suite(
    suite: Suite,
    engine: Engine,
    out: Path,
    concurrency: int = 16,
    *,
    profile: str | None = None,
    per_conversation: int = 1,
    workers: int | None = None,
    header: dict[str, Any] | None = None,
    fresh: bool = False,
    failures_in_row: int = 10,
    progress: bool = True,
) -> AskSummary:
    """Ask all questions of a suite that ``out`` has no answer to yet.

    Args:
        out: answers.jsonl; made, or continued when it holds answers of the same suite, model and settings.
        concurrency: most conversations under way at once.
        profile: how the model wants to be asked; by default as the suite was frozen.
        per_conversation: most questions about one image that are asked one after the other in one conversation; those
            after one that failed are asked in a conversation of their own.
        workers: processes that make questions ready, see `eval.prepare.prepared`.
        header: further fields of the file's first line, e.g. ``label`` and ``fingerprint``.
        fresh: throw away the answers that ``out`` holds.
        failures_in_row: after so many questions have failed with none answered between, the rest is not asked.

    Raises:
        DepthLMError: ``out`` can't be written or is of another run, the engine can't start, or it fails throughout;
            what was answered is kept.
    """
    for name, value in (("--concurrency", concurrency), ("--per-conversation", per_conversation)):
        if value < 1:
            raise DepthLMError(name, f"is {value}", "give 1 or more")
    view = SuiteView(suite, profile)

    async def ask() -> AskSummary:
        _check_writable(out)  # before a slow start of the engine
        try:
            await engine.start()
            told = make_header(suite, engine, view.profile.name, per_conversation, **(header or {}))
            with AnswerFile(out, told, fresh) as file:
                known = file.answers.texts.keys()
                # Conversations are those of an undisturbed run, whatever has its answer already.
                found = [
                    items
                    for items in conversations(suite.items, per_conversation)
                    if any(item.id not in known for item in items)
                ]
                run = _Run(engine, view, file, failures_in_row)
                kept = sum(item.id in known for item in suite.items)
                with tqdm(total=len(suite.items), initial=kept, unit="q", desc="asking", disable=not progress) as bar:
                    await run.all(prepared(found, view, engine.packer(), concurrency, workers), concurrency, bar)
                return AskSummary(kept, run.answered, run.failures)
        finally:
            await engine.close()

    return asyncio.run(ask())


def _check_writable(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
        if out.exists():
            with out.open("ab"):
                pass
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error.strerror}", "check --out and its permissions") from error


class _Run:
    """One session of asking: workers that draw from one source, so that memory stays flat."""

    def __init__(self, engine: Engine, view: SuiteView, file: AnswerFile, failures_in_row: int) -> None:
        self.engine, self.file, self.failures_in_row = engine, file, failures_in_row
        self._view = copy.copy(view)  # the other one may be at work in a thread
        self.answered = 0
        self.failures: dict[str, str] = {}
        self._in_row = 0
        self._began = time.monotonic()
        self._drawing = asyncio.Lock()

    async def all(self, source: AsyncIterator[Ready], concurrency: int, bar: tqdm[Any]) -> None:
        """Ask what ``source`` gives; stops at the first error that is not one question's own."""
        queue: asyncio.Queue[Ready | None] = asyncio.Queue(1)  # what waits ready, waits in ``source``
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed(source, queue, concurrency))
                for _ in range(concurrency):
                    group.create_task(self._work(queue, bar))
        except ExceptionGroup as group_error:
            # Workers fail together; the first says what happened.
            raise group_error.exceptions[0] from None

    async def _feed(self, source: AsyncIterator[Ready], queue: asyncio.Queue[Ready | None], workers: int) -> None:
        began = False
        async with aclosing(source):
            async for ready in source:
                if not began:
                    self.file.append({"session": datetime.now(UTC).isoformat(timespec="seconds")})
                    self._began, began = time.monotonic(), True
                await queue.put(ready)
        for _ in range(workers):
            await queue.put(None)

    async def _work(self, queue: asyncio.Queue[Ready | None], bar: tqdm[Any]) -> None:
        while (ready := await queue.get()) is not None:
            await self._converse(ready, bar)

    async def _converse(self, ready: Ready, bar: tqdm[Any]) -> None:
        """Ask what has no answer yet of a conversation; after one that fails, the others in one of their own.

        What is known already is not asked again, but said before what follows it.
        """
        known = self.file.answers.texts
        before: list[str] = []
        for number, item in enumerate(ready.items, 1):
            if item.id in known:
                before.append(known[item.id])
                continue
            try:
                if ready.error is not None:
                    raise ready.error
                reply = await self.engine.ask(item, ready.packed, before)
            except DepthLMError as error:
                self._fail(item, error, counts=ready.error is None)
                bar.update()
                bar.set_postfix(failed=len(self.failures))
                for other in await self._ready_again(ready.items[number:]):
                    await self._converse(other, bar)
                return
            self._keep(item, reply)
            bar.update()
            before.append(reply.text)

    async def _ready_again(self, items: list[Item]) -> list[Ready]:
        """Questions, ready to be asked without those before them; none where all have their answers."""
        if all(item.id in self.file.answers.texts for item in items):
            return []
        async with self._drawing:  # in one thread at a time
            return await asyncio.to_thread(make_ready, items, self._view, self.engine.packer())

    def _keep(self, item: Item, reply: Reply) -> None:
        row: dict[str, Any] = {"id": item.id, "text": reply.text, "latency_s": round(reply.latency_s, 4)}
        if reply.spread:
            row["spread"] = [[text, round(weight, 6)] for text, weight in reply.spread]
        if reply.cut:
            row["cut"] = True
        self.answered, self._in_row = self.answered + 1, 0
        self.file.append({**row, "elapsed_s": self._elapsed()})

    def _fail(self, item: Item, error: DepthLMError, counts: bool) -> None:
        """Note a failure; one that ``counts`` is the engine's, and many in a row end the run."""
        self.failures[item.id] = error.reason
        self.file.append({"id": item.id, "error": error.reason, "elapsed_s": self._elapsed()})
        self._in_row += counts
        if counts and self._in_row >= self.failures_in_row:
            raise DepthLMError(
                self.engine.model,
                f"stopped: {self._in_row} questions in a row failed, the last with: {error.reason}",
                f"see to what answers and run again; {self.answered} new answers are kept",
                "endpoint fails",
            )

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 3)
