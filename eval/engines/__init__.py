"""What answers questions: one small contract for endpoints, vLLM servers and baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from depthlm.suite import Item


@dataclass(frozen=True)
class Reply:
    """An answer as the model gave it, and the seconds it took, retries included."""

    text: str
    latency_s: float


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

    async def ask(self, item: Item) -> Reply:
        """Answer one question; raises DepthLMError when this one has no answer, after the engine's own retries."""

    async def close(self) -> None:
        """Free what ``start`` took."""
