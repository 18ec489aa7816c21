"""Transformers' own generation: slow, and the reference for all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.spread import Spread, Token, from_samples, from_tokens
from eval.engines import Reply
from eval.engines.in_process import Asked, InProcess

if TYPE_CHECKING:
    from depthlm.models.answering import Answer


class TransformersEngine(InProcess):
    """A model (and adapter) by `depthlm.models.loading.load_model`.

    Args:
        source: folder or name of the model.
        name: what the answers are filed under.
        adapter: a PEFT adapter's folder.
        dtype: of the weights; "auto": as stored, on a CPU float32.
    """

    def __init__(
        self, source: str | Path, name: str, *, adapter: str | Path | None = None, dtype: str = "auto", **options: Any
    ) -> None:
        super().__init__(name, **options)
        self.source, self.adapter, self.dtype = source, adapter, dtype
        self._loaded: tuple[Any, Any] | None = None

    def load(self) -> None:
        import torch

        from depthlm.models.answering import left_padded
        from depthlm.models.loading import load_model, load_processor

        dtype = "float32" if self.dtype == "auto" and not torch.cuda.is_available() else self.dtype
        torch.manual_seed(0)
        model = load_model(self.source, dtype, adapter=self.adapter)
        if torch.cuda.is_available():
            model.to("cuda")
        self._loaded = model, left_padded(load_processor(self.source))

    def answer(self, batch: Sequence[Asked]) -> list[Reply]:
        from depthlm.models.answering import answer_batch

        assert self._loaded is not None, "start() first"
        model, processor = self._loaded
        chats = [(asked.messages, asked.shown.images) for asked in batch]
        exact = all(asked.shown.canonical for asked in batch)
        more = {"exact": exact, "samples": self.samples, "logprobs": self.logprobs}
        found = answer_batch(model, processor, chats, self.max_tokens, **more)
        return [Reply(answer.text, 0.0, _spread(answer), answer.cut) for answer in found]

    def unload(self) -> None:
        self._loaded = None


def _spread(answer: Answer) -> Spread:
    if answer.samples:
        return from_samples(answer.samples)
    return from_tokens([Token(*told) for told in answer.tokens]) if answer.tokens else ()
