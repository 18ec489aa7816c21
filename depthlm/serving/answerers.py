"""Who answers a question that is shown: a server, or a model in this process. One small contract for both."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
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

    async def answer(self, shown: Shown, max_tokens: int, samples: int = 1) -> Completion:
        """Answer: greedily with the tokens' log-probabilities, or by so many samples; raises DepthLMError."""

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

    async def answer(self, shown: Shown, max_tokens: int, samples: int = 1) -> Completion:
        try:
            return await self._answer(shown, max_tokens, samples, self._tells_logprobs and samples == 1)
        except DepthLMError as error:
            if error.kind != "refused" or "logprob" not in error.reason.lower() or not self._tells_logprobs:
                raise
        self._tells_logprobs = False  # some providers refuse the field, they are not asked again
        return await self._answer(shown, max_tokens, samples, False)

    async def _answer(self, shown: Shown, max_tokens: int, samples: int, logprobs: bool) -> Completion:
        settings = answer_settings(max_tokens, samples, logprobs)
        if samples > 1:
            del settings["seed"]  # vLLM 0.31 on a CPU ends at a seeded draw after a prompt that was read in parts
        packer = ChatPacker(self.endpoint.served_name or "", settings, self.encoding)
        body = await asyncio.to_thread(lambda: packer(shown).body())
        return await self.endpoint.complete(body, "the question", samples)

    async def close(self) -> None:
        await self.endpoint.close()


class LocalAnswerer:
    """A model (and adapter) by transformers in this process: no server has to start, and each question is slow."""

    def __init__(self, source: str | Path, adapter: str | Path | None = None) -> None:
        self.source, self.adapter = source, adapter
        self.model = Path(adapter or source).name
        self._loaded: tuple[Any, Any] | None = None
        self._thread: ThreadPoolExecutor | None = None

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

    async def answer(self, shown: Shown, max_tokens: int, samples: int = 1) -> Completion:
        assert self._thread is not None, "start() first"
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, shown, max_tokens, samples)

    def _answer(self, shown: Shown, max_tokens: int, samples: int) -> Completion:
        from depthlm.models.answering import answer_batch

        assert self._loaded is not None
        model, processor = self._loaded
        more = {"exact": shown.canonical, "samples": samples, "logprobs": samples == 1}
        found = answer_batch(model, processor, [(shown.messages(), shown.images)], max_tokens, **more)[0]
        return Completion(found.samples or (found.text,), tuple(Token(*told) for told in found.tokens), found.cut)

    async def close(self) -> None:
        thread, self._thread, self._loaded = self._thread, None, None
        if thread is not None:
            thread.shutdown()
