"""Baselines as first-class models: a constant, the best constant, a random number, the truth."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from depthlm.errors import DepthLMError
from depthlm.metrics import best_constant
from depthlm.suite import Item, Suite
from eval.engines import Reply

# Random answers are log-uniform in this range, in the unit of the question: about where indoor and street truths lie.
RANDOM_RANGE = (0.5, 50.0)
BASELINES = ("constant:VALUE", "best-constant", "random", "truth")


class Baseline:
    """An engine that answers without looking: ``answer(item)`` is the text."""

    def __init__(self, model: str, answer: Callable[[Item], str], settings: Mapping[str, Any]) -> None:
        self.model, self._answer, self.settings = model, answer, dict(settings)

    async def start(self) -> None:
        """Nothing to make ready."""

    def packer(self) -> None:
        """Nothing is looked at."""

    async def ask(self, item: Item, packed: None, before: Sequence[str]) -> Reply:
        """The answer, at once."""
        return Reply(self._answer(item), 0.0)

    async def close(self) -> None:
        """Nothing to free."""


def make_baseline(spec: str, suite: Suite, seed: int = 0) -> Baseline:
    """The baseline that ``spec`` names: ``constant:2.0``, ``best-constant``, ``random`` or ``truth``.

    ``best-constant`` knows the suite's truths: for each kind it takes the number with the highest delta1, an upper
    bound of what any fixed answer reaches.

    Raises:
        DepthLMError: no such baseline, or a constant that is no positive number.
    """
    name, _, value = spec.partition(":")
    if name == "constant":
        constant = _positive(value, spec)
        return Baseline(f"constant {constant:g}", lambda item: f"{constant:g}", {"constant": constant})
    if spec == "best-constant":
        best = best_constants(suite.items)
        return Baseline("best constant per kind", lambda item: best[item.kind], {"constants": best})
    if spec == "random":
        low, high = RANDOM_RANGE
        return Baseline("random", lambda item: random_answer(item.id, seed), {"range": [low, high], "seed": seed})
    if spec == "truth":
        return Baseline("truth", lambda item: item.answer if item.unit == "choice" else f"{item.truth:.12g}", {})
    raise DepthLMError(f"--baseline {spec}", "is not known", f"known: {', '.join(BASELINES)}")


def _positive(text: str, spec: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise DepthLMError(f"--baseline {spec}", f"{text!r} is no positive number", "for instance constant:2.0")
    return value


def random_answer(item_id: str, seed: int) -> str:
    """Log-uniform in ``RANDOM_RANGE``; a function of the question's id and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{item_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    low, high = RANDOM_RANGE
    return f"{low * (high / low) ** share:.2f}"


def best_constants(items: Sequence[Item]) -> dict[str, str]:
    """For each kind the number within a factor of 1.25 of most truths, as text."""
    truths: dict[str, list[float]] = {}
    for item in items:
        truths.setdefault(item.kind, []).append(item.truth)
    return {kind: f"{best_constant(values)[0]:.12g}" for kind, values in sorted(truths.items())}
