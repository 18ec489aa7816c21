"""What answers questions: one small contract for endpoints, vLLM in process, transformers and baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from depthlm.shown import Shown
from depthlm.suite import Item


@dataclass(frozen=True)
class Reply:
    """An answer as the model gave it.

    Args:
        latency_s: seconds it took, retries included.
        spread: other answers that it might have given, each with its weight; empty where none were asked for. See
            `depthlm.spread`.
        cut: whether the answer, or one of its samples, was ended by ``max_tokens``.
    """

    text: str
    latency_s: float
    spread: tuple[tuple[str, float], ...] = ()
    cut: bool = False


# Makes of a question, as it is shown, what an engine sends. Runs in other processes.
Packer = Callable[[Shown], Any]


class Engine(Protocol):
    """Answers one question at a time; `eval.ask.ask_suite` calls it from many tasks of one event loop.

    Attributes:
        model: whose answers these are; answers of another model are never mixed with them.
        settings: JSON-ready; what else an answer depends on. Answers asked under other settings are not resumed.
    """

    model: str
    settings: dict[str, Any]

    async def start(self) -> None:
        """Make ready, inside the event loop; raises DepthLMError when no question can be answered."""

    def packer(self) -> Packer | None:
        """How questions are made ready, known once started; None where nothing is looked at."""

    async def ask(self, item: Item, packed: Any, before: Sequence[str]) -> Reply:
        """Answer the next question of a conversation, after the answers to those ``before``.

        Raises:
            DepthLMError: it has no answer, after the engine's own retries.
        """

    async def close(self) -> None:
        """Free what ``start`` took."""
