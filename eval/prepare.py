"""Questions made ready in other processes, ahead of the requests: rendering and encoding an image takes longer than a
GPU takes to answer. Questions about the same frames go to one process in a row, which decodes them once.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2

from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS
from depthlm.suite import Item
from depthlm.suite_view import SuiteView
from eval.engines import Packer

# Questions of one job: enough that handing it over costs little, few enough that memory stays flat.
JOB_QUESTIONS = 4
# With fewer questions, starting processes would take longer than it saves.
FEW = 200
# More processes than these draw faster than any server reads.
MOST_WORKERS = 8


@dataclass(frozen=True)
class Ready:
    """Questions of one conversation, ready to be sent; or why they can't be."""

    items: list[Item]
    packed: Any = None
    error: DepthLMError | None = None


def conversations(items: Sequence[Item], most: int = 1) -> list[list[Item]]:
    """The items, those about the same frame together, at most ``most`` of them to a conversation.

    Only questions about one frame can share one, as far as there are colours for their markers: a second view, or a
    stored image, is asked about alone.
    """
    together: dict[Any, list[Item]] = {}
    for item in items:
        together.setdefault(tuple(item.frame_ids) or item.id, []).append(item)
    out: list[list[Item]] = []
    for members in together.values():
        alone = bool(members[0].images) or len(members[0].frame_ids) != 1
        points = 0
        for i, item in enumerate(members):
            points += len(item.labels)
            if i == 0 or alone or len(out[-1]) >= most or points > len(COLOURS):
                out.append([])
                points = len(item.labels)
            out[-1].append(item)
    return out


def jobs(found: Iterable[list[Item]]) -> Iterator[list[list[Item]]]:
    """Conversations in jobs: of the same frames, up to JOB_QUESTIONS questions."""
    part: list[list[Item]] = []
    for conversation in found:
        other = part and part[-1][0].frame_ids != conversation[0].frame_ids
        if part and (other or sum(map(len, part)) >= JOB_QUESTIONS):
            yield part
            part = []
        part.append(conversation)
    if part:
        yield part


_worker: tuple[SuiteView, Packer] | None = None


def _start_worker(view: SuiteView, packer: Packer) -> None:
    global _worker
    _worker = view, packer
    if (parent := multiprocessing.parent_process()) is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client's own to answer
        cv2.setNumThreads(1)  # there are processes enough; threads in each would only take turns
        # a client that is killed leaves nobody behind
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _prepare(job: list[list[Item]]) -> list[Ready]:
    assert _worker is not None
    return [ready for items in job for ready in make_ready(items, *_worker)]


def make_ready(items: list[Item], view: SuiteView, packer: Packer | None) -> list[Ready]:
    """A conversation made ready; where its markers have no room beside each other, its questions one by one."""
    if packer is None:
        return [Ready(items)]
    try:
        return [Ready(items, packer(view.show(*items)))]
    except DepthLMError as error:
        if len(items) == 1:
            return [Ready(items, error=error)]
        return [ready for item in items for ready in make_ready([item], view, packer)]


async def prepared(
    found: Sequence[list[Item]], view: SuiteView, packer: Packer | None, ahead: int, workers: int | None = None
) -> AsyncIterator[Ready]:
    """The conversations in order, each made ready.

    Args:
        packer: None: nothing is looked at, and nothing made ready.
        ahead: about so many questions wait ready.
        workers: processes; 0 for a thread of this one. By default one for every two cores,
            at most `MOST_WORKERS`, and none for a few questions.
    """
    if packer is None:
        for items in found:
            yield Ready(items)
        return
    if workers is None:
        cores = len(os.sched_getaffinity(0))
        # half of the cores: the others serve, where the server is here too
        workers = max(1, min(cores // 2, MOST_WORKERS)) if sum(map(len, found)) >= FEW else 0
    pool = _pool(view, packer, workers)
    loop, waiting = asyncio.get_running_loop(), jobs(found)
    under_way: deque[asyncio.Future[list[Ready]]] = deque()
    most = max(workers + 1, -(-ahead // JOB_QUESTIONS))
    try:
        while True:
            while len(under_way) < most and (job := next(waiting, None)) is not None:
                under_way.append(loop.run_in_executor(pool, _prepare, job))
            if not under_way:
                return
            for ready in await under_way.popleft():
                yield ready
    except BrokenExecutor as error:
        mend = "give fewer --workers, or free memory, and run again"
        raise DepthLMError("preparing questions", "a process that draws images was ended", mend) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pool(view: SuiteView, packer: Packer, workers: int) -> Executor:
    if workers == 0:
        return ThreadPoolExecutor(1, initializer=_start_worker, initargs=(view, packer))
    context = multiprocessing.get_context("spawn")  # a forked one would share the event loop's and torch's threads
    return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(view, packer))
