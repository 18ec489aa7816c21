"""Where the groups of a curation are made: in this process, in processes of this machine, or on a Ray cluster.

Each runner calls ``make(reader, *arguments)`` once for every group and yields (number, result) as results come, in any
order. A worker that dies costs the time of its group: the group is made again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal

from data_gen.readers import Reader
from depthlm.errors import DepthLMError

logger = logging.getLogger("depthlm.curate")

Engine = Literal["processes", "ray"]
Make = Callable[..., dict[str, Any]]
Groups = dict[int, tuple[Any, ...]]
Results = Iterator[tuple[int, dict[str, Any]]]

# A group whose worker dies so often is at fault itself, most likely for want of memory.
DEATHS = 3
_reader: Reader | None = None  # of this worker process


def run_here(reader: Reader, make: Make, groups: Groups, workers: int) -> Results:
    """One after the other, in this process."""
    for number, arguments in groups.items():
        yield number, make(reader, *arguments)


def run_processes(reader: Reader, make: Make, groups: Groups, workers: int) -> Results:
    """On ``workers`` processes of this machine; when one dies, new ones make what is missing.

    Raises:
        DepthLMError: workers died ``DEATHS`` times without finishing a group.
    """
    missing, deaths = dict(groups), 0
    while missing:
        try:
            for number, result in _run_pool(reader, make, missing, workers):
                deaths = 0
                del missing[number]
                yield number, result
        except BrokenProcessPool as error:
            deaths += 1
            if deaths == DEATHS:
                raise DepthLMError(
                    f"group {min(missing)}",
                    "its worker process died, again and again, perhaps for lack of memory",
                    "run again with fewer --workers: it resumes",
                    "dead worker",
                ) from error
            logger.warning("a worker process died; %d groups are left to new ones", len(missing))


def _run_pool(reader: Reader, make: Make, groups: Groups, workers: int) -> Results:
    # spawn: a forked copy of a process that has started threads (arrow, numba) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(groups)), context, initializer=_start_worker, initargs=(reader,))
    try:
        futures = {pool.submit(_make_here, make, arguments): number for number, arguments in groups.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(reader: Reader) -> None:
    global _reader
    _reader = reader
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A killed parent would leave its workers waiting for work for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _make_here(make: Make, arguments: tuple[Any, ...]) -> dict[str, Any]:
    return make(_reader, *arguments)


def run_ray(reader: Reader, make: Make, groups: Groups, workers: int) -> Results:
    """On the Ray cluster that ``RAY_ADDRESS`` names, or the one that runs on this machine, or a new local one.

    Ray itself makes the groups of a dead worker again. No more than ``workers`` groups are under way at once.

    Raises:
        DepthLMError: Ray is not installed, no cluster answers at the address, or a group's worker died again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise DepthLMError("--engine ray", "Ray is not installed", "pip install 'depthlm[cluster]'") from error
    started = not ray.is_initialized()
    if started:
        _connect(ray)
    try:
        task = ray.remote(num_cpus=1, max_retries=DEATHS)(make)
        shared, waiting, running = ray.put(reader), list(groups.items()), {}
        while waiting or running:
            while waiting and len(running) < workers:
                number, arguments = waiting.pop(0)
                running[task.remote(shared, *arguments)] = number
            (done,), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done), ray.get(done)
    except ray.exceptions.WorkerCrashedError as error:
        mend = "give Ray's workers more memory and run again: it resumes"
        raise DepthLMError("--engine ray", "a worker died, again and again", mend, "dead worker") from error
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any) -> None:
    """Join the running cluster, or start one on this machine."""
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address=address or "auto", **quiet)
    except ConnectionError as error:
        if address:
            raise DepthLMError(
                f"RAY_ADDRESS={address}", "no Ray cluster answers there", "start it, or unset it"
            ) from error
        ray.init(include_dashboard=False, **quiet)


RUNNERS: dict[str, Callable[[Reader, Make, Groups, int], Results]] = {
    "here": run_here,
    "processes": run_processes,
    "ray": run_ray,
}
