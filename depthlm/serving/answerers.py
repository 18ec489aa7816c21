"""Who answers a question that is shown: a server, or a model in this process. One small contract for both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from depthlm.errors import DepthLMError
from depthlm.serving.chat_request import ChatPacker
from depthlm.serving.endpoint import ChatEndpoint, Completion, answer_settings
from depthlm.shown import Shown
from depthlm.spread import Token


class Answerer(Protocol):
    """Answers one question at a time; called from many tasks of one event loop.

    Attributes:
        model: whose answers these are; known once started.
    """

    model: str

    async def start(self) -> None:
        """Make ready, inside the event loop; raises DepthLMError when no question can be answered."""

    async def answer(self, shown: Shown, max_tokens: int, samples: int = 1, answers: Sequence[str] = ()) -> Completion:
        """Answer: greedily with the tokens' log-probabilities, or by so many samples; raises DepthLMError.

        Args:
            answers: to the conversation's questions before; the next one is asked.
        """

    async def close(self) -> None:
        """Free what ``start`` took."""


class ServerAnswerer:
    """Asks an OpenAI-compatible server; images are sent as they are shown."""

    def __init__(self, endpoint: ChatEndpoint, encoding: str = "png") -> None:
        self.endpoint, self.encoding = endpoint, encoding
        self._tells_logprobs = True

    @property
    def model(self) -> str:
        return self.endpoint.model

    async def start(self) -> None:
        await self.endpoint.start()

    async def answer(self, shown: Shown, max_tokens: int, samples: int = 1, answers: Sequence[str] = ()) -> Completion:
        try:
            return await self._answer(shown, max_tokens, samples, answers, self._tells_logprobs and samples == 1)
        except DepthLMError as error:
            if error.kind != "refused" or "logprob" not in error.reason.lower() or not self._tells_logprobs:
                raise
        self._tells_logprobs = False  # some providers refuse the field, they are not asked again
        return await self._answer(shown, max_tokens, samples, answers, False)

    async def _answer(
        self, shown: Shown, max_tokens: int, samples: int, answers: Sequence[str], logprobs: bool
    ) -> Completion:
        settings = answer_settings(max_tokens, samples, logprobs)
        packer = ChatPacker(self.endpoint.served_name or "", settings, self.encoding)
        body = await asyncio.to_thread(lambda: packer(shown).body(answers))
        return await self.endpoint.complete(body, "the question", samples)

    async def close(self) -> None:
        await self.endpoint.close()


@dataclass(eq=False)
class _Waiting:
    """A question that waits for the model, and the future of its answer."""

    shown: Shown
    answers: Sequence[str]
    max_tokens: int
    samples: int
    answered: asyncio.Future[Completion]

    def fits(self, other: _Waiting) -> bool:
        """Whether both can be answered in one batch."""
        same = self.max_tokens == other.max_tokens and self.samples == other.samples
        return same and self.shown.canonical == other.shown.canonical


class LocalAnswerer:
    """A model (and adapter) by transformers in this process: no server has to start, and each question is slow.

    Args:
        batch: most questions answered at once, of those that wait together.
    """

    def __init__(self, source: str | Path, adapter: str | Path | None = None, batch: int = 8) -> None:
        self.source, self.adapter, self.batch = source, adapter, batch
        self.model = Path(adapter or source).name
        self._loaded: tuple[Any, Any] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[_Waiting] = []
        self._work: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._thread = ThreadPoolExecutor(1, "model")
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    def _load(self) -> None:
        import torch

        from depthlm.models.answering import left_padded
        from depthlm.models.loading import load_model, load_processor

        torch.manual_seed(0)
        model = load_model(self.source, "auto" if torch.cuda.is_available() else "float32", adapter=self.adapter)
        if torch.cuda.is_available():
            model.to("cuda")
        self._loaded = model, left_padded(load_processor(self.source))

    async def answer(self, shown: Shown, max_tokens: int, samples: int = 1, answers: Sequence[str] = ()) -> Completion:
        assert self._thread is not None, "start() first"
        loop = asyncio.get_running_loop()
        waiting = _Waiting(shown, tuple(answers), max_tokens, samples, loop.create_future())
        self._waiting.append(waiting)
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._answer_waiting())
        return await waiting.answered

    async def _answer_waiting(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # whoever asks at the same time is answered at the same time
            self._waiting = [each for each in self._waiting if not each.answered.cancelled()]
            batch = [each for each in self._waiting if each.fits(self._waiting[0])][: self.batch]
            self._waiting = [each for each in self._waiting if each not in batch]
            await self._answer_batch(batch)

    async def _answer_batch(self, batch: Sequence[_Waiting]) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, batch)
        except Exception as error:  # each one's own error, whatever it is
            if len(batch) > 1:
                for each in batch:
                    await self._answer_batch([each])
            elif not batch[0].answered.done():
                batch[0].answered.set_exception(error)
            return
        for each, answer in zip(batch, found, strict=True):
            if not each.answered.done():
                each.answered.set_result(answer)

    def _answer(self, batch: Sequence[_Waiting]) -> list[Completion]:
        from depthlm.models.answering import answer_batch

        if not batch:
            return []
        assert self._loaded is not None
        model, processor = self._loaded
        first = batch[0]
        more = {"exact": first.shown.canonical, "samples": first.samples, "logprobs": first.samples == 1}
        chats = [(each.shown.messages(each.answers), each.shown.images) for each in batch]
        found = answer_batch(model, processor, chats, first.max_tokens, **more)
        return [
            Completion(each.samples or (each.text,), tuple(Token(*told) for told in each.tokens), each.cut)
            for each in found
        ]

    async def close(self) -> None:
        thread, self._thread, self._loaded = self._thread, None, None
        if thread is not None:
            thread.shutdown()
