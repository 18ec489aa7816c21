"""vLLM in this process, without a server: for batches of questions on one machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.serving.vllm_process import VLLMServer
from eval.engines.endpoint import TOP_LOGPROBS
from eval.engines.in_process import Asked, InProcess
from eval.spread import Spread, Token, from_samples, from_tokens


class VLLMOfflineEngine(InProcess):
    """The model that ``server`` would serve, with the same settings; the server itself is not started."""

    def __init__(self, server: VLLMServer, **options: Any) -> None:
        super().__init__(server.model_name, **options)
        self.server = server
        self._llm: Any = None

    def load(self) -> None:
        self._environment = dict(os.environ)  # the engine's processes inherit it
        os.environ.update(self.server.environment())
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        try:
            self._llm = LLM(**self.server.engine_arguments())
        except Exception as error:  # vLLM ends in many ways; each is told in its own log above
            reason = f"vLLM did not start: {str(error).partition(chr(10))[0]}"
            raise DepthLMError(self.model, reason, "see its log above", "server failed") from error
        adapter = self.server.adapter
        self._lora = None if adapter is None else LoRARequest(self.model, 1, str(adapter.resolve()))

    def answer(self, batch: Sequence[Asked]) -> list[tuple[str, Spread]]:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=self.settings["temperature"],
            max_tokens=self.max_tokens,
            seed=0,
            n=self.samples,
            logprobs=TOP_LOGPROBS if self.logprobs else None,
        )
        chats = [_with_images(asked) for asked in batch]
        outputs = self._llm.chat(chats, params, use_tqdm=False, lora_request=self._lora)
        return [self._read(output.outputs) for output in outputs]

    def _read(self, outputs: Sequence[Any]) -> tuple[str, Spread]:
        if self.samples > 1:
            texts = [output.text for output in outputs]
            return texts[0], from_samples(texts)
        first = outputs[0]
        if not self.logprobs:
            return first.text, ()
        tokens = []
        for token, others in zip(first.token_ids, first.logprobs, strict=True):
            said = others[token]
            if said.decoded_token and said.decoded_token in first.text:  # not the token that ends the answer
                told = tuple((o.decoded_token or "", o.logprob) for o in others.values())
                tokens.append(Token(said.decoded_token, said.logprob, told))
        return first.text, from_tokens(tokens) if tokens else ()

    def unload(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            for name in os.environ.keys() - self._environment.keys():
                del os.environ[name]
            os.environ.update(self._environment)


def _with_images(asked: Asked) -> list[dict[str, Any]]:
    """The messages with their images in place, as vLLM takes them."""
    images = iter(asked.shown.images)
    return [
        {
            **message,
            "content": [
                {"type": "image_pil", "image_pil": Image.fromarray(next(images))} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in asked.messages
    ]
