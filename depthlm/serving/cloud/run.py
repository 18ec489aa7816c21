"""One session of asking about a grid of points: rounds, groups of points on one image, bounded concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from depthlm.asking import Canvas
from depthlm.camera import Floats
from depthlm.depth_grid import Bools, Grid, unsettled
from depthlm.errors import DepthLMError
from depthlm.measuring import read_measurement
from depthlm.questions import KINDS
from depthlm.serving.answerers import ServerAnswerer
from depthlm.serving.cloud.log import Index, PointAnswer, PointLog
from depthlm.serving.cloud.questions import ask_distances, dealt
from depthlm.serving.cloud.result import CloudSettings, answered_z
from depthlm.serving.endpoint import Completion
from depthlm.serving.spatial_model import SpatialModel
from depthlm.shown import Shown

# Called with the points that are done, and with those known to be asked; the latter grows where neighbours disagree.
Progress = Callable[[int, int], None]
# After so many questions that failed with none answered between, the rest is not asked.
FAILURES_IN_ROW = 10
NO_ROOM = "no room for a marker"


@dataclass(frozen=True)
class _Job:
    """A conversation about points, in the order of its questions."""

    points: Sequence[Index]
    shown: Shown


class CloudRun:
    """Asks round after round until nothing is missing.

    What the log knows is not asked again, but taken up in the round that it belongs to: rounds and groups are those of
    a run that was never interrupted.

    Attributes:
        answers: of the points that came up so far.
        failed: points that have none, and why.
        asked: how many were answered in this session.
    """

    def __init__(
        self, model: SpatialModel, canvas: Canvas, settings: CloudSettings, grid: Grid, kept: PointLog, report: Progress
    ) -> None:
        self.model, self.canvas, self.settings, self.grid, self.kept = model, canvas, settings, grid, kept
        self.answers: dict[Index, PointAnswer] = {}
        self.failed: dict[Index, DepthLMError] = {}
        self.asked = 0
        self._report, self._xy = report, grid.xy
        self._in_row = self._total = 0

    async def all(self) -> None:
        """Ask about all points that are needed; stops at the first error that is not one point's own.

        Raises:
            DepthLMError: question after question fails, or the log can't be written.
        """
        while missing := unsettled(*self.found(), self.settings.first_step, self.settings.threshold)[0]:
            self._total = len(self.answers) + len(self.failed) + len(missing)
            self._tell()
            await self._round(missing)

    def found(self) -> tuple[Floats, Bools]:
        """z by what is known, and which points need not be asked (again)."""
        z, tried = answered_z(self.canvas.photo, self.grid, self.answers)
        for at in self.failed:
            tried[at] = True
        return z, tried

    def _tell(self) -> None:
        self._report(len(self.answers) + len(self.failed), self._total)

    async def _round(self, missing: Sequence[Index]) -> None:
        async with aclosing(self._jobs(missing)) as source:
            lock = asyncio.Lock()
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.settings.concurrency, len(missing))):
                        group.create_task(self._work(source, lock))
            except ExceptionGroup as error:  # workers fail together; the first says what happened
                raise error.exceptions[0] from None

    async def _work(self, source: AsyncIterator[_Job], lock: asyncio.Lock) -> None:
        while True:
            async with lock:  # one image is drawn at a time
                job = await anext(source, None)
            if job is None:
                return
            await self._converse(job)

    async def _jobs(self, missing: Sequence[Index]) -> AsyncIterator[_Job]:
        """What to ask; groups that have no room on one image are halved."""
        groups = dealt(missing, self.settings.markers)[::-1]
        while groups:
            group = groups.pop()
            if all(at in self.kept.answers for at in group):
                self.answers |= {at: self.kept.answers[at] for at in group}
                self._tell()
                continue
            try:
                found = await asyncio.to_thread(self._show, group)
            except DepthLMError as error:
                if error.kind != "bad point":
                    raise
                if len(group) > 1:
                    groups += [group[len(group) // 2 :], group[: len(group) // 2]]
                else:  # not logged: it costs nothing to find out again
                    self.failed[group[0]] = DepthLMError("point", error.reason, kind=NO_ROOM)
                    self._tell()
                continue
            if self.settings.together == "conversation":
                yield _Job(group, found[0])
            else:
                for at, shown in zip(group, found, strict=True):
                    yield _Job([at], shown)

    def _show(self, group: Sequence[Index]) -> list[Shown]:
        answerer, encoding = self.model.answerer, None
        if len(group) > 1 and isinstance(answerer, ServerAnswerer):
            encoding = answerer.encoding
        xy = self._xy[tuple(np.transpose(group))]
        return ask_distances(self.canvas, xy, self.settings.together, encoding)

    async def _converse(self, job: _Job) -> None:
        texts: list[str] = []
        for i, at in enumerate(job.points):
            if (answer := self.kept.answers.get(at)) is None:
                try:
                    found = await self._answer(job.shown, texts)
                except DepthLMError as error:
                    self._fail(job.points[i:], error)  # without this answer they would be asked something else
                    return
                answer = self._read(job.shown, found)
                self._in_row, self.asked = 0, self.asked + 1
                self.kept.add(at, tuple(self._xy[at].tolist()), answer)
            self.answers[at] = answer
            texts.append(answer.text)
            self._tell()

    async def _answer(self, shown: Shown, texts: Sequence[str]) -> Completion:
        longest = self.canvas.profile.max_tokens
        if texts:
            return await self.model.answerer.answer(shown, longest, answers=texts)
        return await self.model.answerer.answer(shown, longest)

    def _read(self, shown: Shown, found: Completion) -> PointAnswer:
        kind, name = KINDS.get("distance"), self.model.answerer.model
        read = read_measurement(
            kind, None, shown, [self.canvas.photo], found.texts, found.tokens, model=name, cut=found.cut
        )
        if read.value is not None and read.value <= 0:
            return PointAnswer(None, None, found.text, "a distance is positive", found.cut)
        return PointAnswer(read.value, read.interval, found.text, read.reason, found.cut)

    def _fail(self, points: Sequence[Index], error: DepthLMError) -> None:
        """Note points without an answer; many in a row, and the run ends."""
        for at in points:
            self.failed[at] = DepthLMError("point", error.reason, kind=error.kind)
            self.kept.add(at, tuple(self._xy[at].tolist()), error)
        self._tell()
        self._in_row += 1
        if self._in_row >= FAILURES_IN_ROW:
            raise DepthLMError(
                self.model.answerer.model,
                f"stopped: {self._in_row} questions in a row failed, the last with: {error.reason}",
                "see to what answers and run again; what was answered is kept",
                "endpoint fails",
            )
