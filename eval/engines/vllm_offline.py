"""vLLM in this process, without a server: for batches of questions on one machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.serving.endpoint import TOP_LOGPROBS
from depthlm.serving.vllm_process import VLLMServer
from depthlm.spread import Token, from_samples, from_tokens, said
from eval.engines import Reply
from eval.engines.in_process import Asked, InProcess


def unseeded(server: VLLMServer, samples: int) -> bool:
    """Whether requests may have no seed: on a CPU, vLLM 0.31 ends at a seeded draw after a prompt that was read in
    parts ("CPU Generator does not use offset"), as prompts are once many are under way. Greedy answers draw nothing.
    """
    return samples > 1 and server.on_cpu


class VLLMOfflineEngine(InProcess):
    """The model that ``server`` would serve, with the same settings; the server itself is not started."""

    def __init__(self, server: VLLMServer, **options: Any) -> None:
        super().__init__(server.model_name, **options)
        self.server = server
        if unseeded(server, self.samples):
            self.settings["seed"] = None
        self._llm: Any = None
        self._environment: dict[str, str] | None = None

    def load(self) -> None:
        self._environment = dict(os.environ)  # the engine's processes inherit it
        os.environ.update(self.server.environment())
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        further = engine_settings(self.server.extra_args)
        try:
            self._llm = LLM(**self.server.engine_arguments() | further)
        except Exception as error:  # vLLM ends in many ways; each is told in its own log above
            reason = f"vLLM did not start: {str(error).partition(chr(10))[0]}"
            raise DepthLMError(self.model, reason, "see its log above", "server failed") from error
        adapter = self.server.adapter
        self._lora = None if adapter is None else LoRARequest(self.model, 1, str(adapter.resolve()))

    def answer(self, batch: Sequence[Asked]) -> list[Reply]:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=self.settings["temperature"],
            max_tokens=self.max_tokens,
            seed=self.settings["seed"],
            n=self.samples,
            logprobs=TOP_LOGPROBS if self.logprobs else None,
        )
        chats = [_with_images(asked) for asked in batch]
        outputs = self._llm.chat(chats, params, use_tqdm=False, lora_request=self._lora)
        return [self._read(output.outputs) for output in outputs]

    def _read(self, outputs: Sequence[Any]) -> Reply:
        cut = any(output.finish_reason == "length" for output in outputs)
        first = outputs[0]
        if self.samples > 1:
            return Reply(first.text, 0.0, from_samples([output.text for output in outputs]), cut)
        if not self.logprobs:
            return Reply(first.text, 0.0, cut=cut)
        tokens = []
        for token, others in zip(first.token_ids, first.logprobs, strict=True):
            told = tuple((other.decoded_token or "", other.logprob) for other in others.values())
            tokens.append(Token(others[token].decoded_token or "", others[token].logprob, told))
        return Reply(first.text, 0.0, from_tokens(said(tokens, first.text)) if tokens else (), cut)

    def unload(self) -> None:
        llm, self._llm = self._llm, None
        try:
            if llm is not None:
                llm.llm_engine.engine_core.shutdown()
        finally:
            if self._environment is not None:
                for name in os.environ.keys() - self._environment.keys():
                    del os.environ[name]
                os.environ.update(self._environment)
                self._environment = None


def engine_settings(words: Sequence[str]) -> dict[str, Any]:
    """Arguments of vLLM's command line as keyword arguments of ``vllm.LLM``, by vLLM's own parser.

    Raises:
        DepthLMError: one is unknown, has a wrong value, or is of the server alone.
    """
    if not words:
        return {}
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM's types are not looked at
        def error(self, message: str) -> Any:
            raise ValueError(message)

    parser = EngineArgs.add_cli_args(Parser(add_help=False))
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # only what is given
    try:
        return vars(parser.parse_args(list(words)))
    except (ValueError, TypeError, argparse.ArgumentError) as error:
        mend = "vllm-offline takes arguments of the engine only; take --engine vllm for those of the server"
        raise DepthLMError("--vllm-args", str(error), mend) from error


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
