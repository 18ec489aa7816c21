"""Models in this process: what waits at the same time is answered as one batch, in a thread."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from depthlm.errors import DepthLMError
from depthlm.shown import Shown
from depthlm.suite import Item
from eval.engines import Packer, Reply

# How long a batch that is not full waits for more questions.
GATHER_S = 0.02


@dataclass(frozen=True)
class Asked:
    """A question with the answers before it."""

    shown: Shown
    answers: tuple[str, ...]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """See `Shown.messages`."""
        return self.shown.messages(self.answers)


def as_shown(shown: Shown) -> Shown:
    """Nothing has to be packed for a model in this process."""
    return shown


class InProcess(ABC):
    """An engine that answers in batches of up to ``batch`` questions.

    Args:
        max_tokens: longest answer.
        samples, logprobs: as in `depthlm.serving.endpoint.ChatEndpoint`.
    """

    def __init__(self, model: str, *, batch: int, max_tokens: int, samples: int = 1, logprobs: bool = False) -> None:
        if batch < 1:
            raise DepthLMError("--batch", f"is {batch}", "give 1 or more")
        self.model, self.batch = model, batch
        self.max_tokens, self.samples, self.logprobs = max_tokens, samples, logprobs
        self.settings: dict[str, Any] = {"temperature": 1.0 if samples > 1 else 0, "max_tokens": max_tokens, "seed": 0}
        self.settings |= {"n": samples} if samples > 1 else {}
        self.settings |= {"logprobs": True} if logprobs else {}
        self._queue: asyncio.Queue[tuple[Asked, asyncio.Future[Reply]]] = asyncio.Queue()
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    def load(self) -> None:
        """Load the model; called once, in the thread in which ``answer`` is."""

    @abstractmethod
    def answer(self, batch: Sequence[Asked]) -> list[Reply]:
        """Each answer; how long it took is measured elsewhere."""

    @abstractmethod
    def unload(self) -> None:
        """Let go of the model, or of what there is of one that could not be loaded."""

    async def start(self) -> None:
        """Load the model.

        Raises:
            DepthLMError: it can't be loaded.
        """
        self._queue, self._thread = asyncio.Queue(), ThreadPoolExecutor(1, "model")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self.load)
        except Exception as error:
            await self.close()
            if isinstance(error, DepthLMError):
                raise
            mend = "free the accelerator's memory, or take a smaller model" if _is_memory(error) else ""
            raise DepthLMError(self.model, f"can't be loaded: {_first_line(error)}", mend, "load failed") from error
        self._task = asyncio.create_task(self._serve(self._thread))

    def packer(self) -> Packer:
        """Questions as they are shown."""
        return as_shown

    async def ask(self, item: Item, packed: Shown, before: Sequence[str]) -> Reply:
        """Answer the next question of a conversation.

        Raises:
            DepthLMError: the model fails.
        """
        began = time.monotonic()
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        await self._queue.put((Asked(packed, tuple(before)), future))
        return replace(await future, latency_s=time.monotonic() - began)

    async def _serve(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            waiting = [await self._queue.get()]
            deadline = loop.time() + GATHER_S
            while len(waiting) < self.batch and (left := deadline - loop.time()) > 0:
                try:
                    waiting.append(await asyncio.wait_for(self._queue.get(), left))
                except TimeoutError:
                    break
            try:
                answers = await loop.run_in_executor(thread, self.answer, [asked for asked, _ in waiting])
                answered = list(zip(waiting, answers, strict=True))
            except Exception as error:
                failed = error if isinstance(error, DepthLMError) else _told(self.model, error)
                for _, future in waiting:
                    if not future.done():
                        future.set_exception(failed)
                continue
            for (_, future), answer in answered:
                if not future.done():
                    future.set_result(answer)

    async def close(self) -> None:
        """Let go of the model."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                await asyncio.get_running_loop().run_in_executor(thread, self.unload)
            finally:
                thread.shutdown()


def _told(model: str, error: Exception) -> DepthLMError:
    mend = "take a smaller --batch" if _is_memory(error) else ""
    return DepthLMError(model, f"failed: {_first_line(error)}", mend, "no answer")


def _is_memory(error: Exception) -> bool:
    return "out of memory" in str(error).lower()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
