"""What an answer is worth to GRPO: plain functions of one answer, mixed by weights.

DepthLM ("SFT is More Efficient Than GRPO") tried a δ1 indicator, the negative L1 error (its best) and the negative
relative error. The smooth log-ratio gives near misses something to climb; format and length keep answers readable and
short. An answer without a readable number is worth as little as the worst one that has any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depthlm.answers import parse_answer
from depthlm.errors import DepthLMError
from depthlm.metrics import DELTA

# An error counts up to this multiple of the truth: beyond, and without a number, an answer is simply wrong.
WORST = 2.0
FREE_TOKENS, TOKENS_TO_WORST = 32, 256
_CLEAN = re.compile(r"(?:.*=\s*)?\d+(?:\.\d+)?\s*(?:m/s|m|s)?\.?\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """One completion.

    Args:
        text: what the model wrote.
        value: the number read from it, in the question's unit; None when there is none, or it is not positive.
        truth: the exact answer, same unit, positive.
        tokens: length of the completion.
    """

    text: str
    value: float | None
    truth: float
    tokens: int


def delta1(answer: Answer) -> float:
    """1 within a factor of 1.25 of the truth, else 0."""
    if answer.value is None:
        return 0.0
    return float(max(answer.value / answer.truth, answer.truth / answer.value) < DELTA)


def negative_l1(answer: Answer) -> float:
    """Minus the absolute error, in the question's unit; at worst minus twice the truth."""
    worst = WORST * answer.truth
    return -worst if answer.value is None else -min(abs(answer.value - answer.truth), worst)


def negative_relative(answer: Answer) -> float:
    """Minus the relative error (AbsRel); at worst -2."""
    return negative_l1(answer) / answer.truth


def log_ratio(answer: Answer) -> float:
    """1 at the truth, 1/2 at a factor of 1.25 from it, towards 0 far off: 1 / (1 + (ln(value/truth) / ln 1.25)²)."""
    if answer.value is None:
        return 0.0
    return 1 / (1 + (math.log(answer.value / answer.truth) / math.log(DELTA)) ** 2)


def format(answer: Answer) -> float:
    """1 when the text is, or after a calculation ends in, a plain number with or without its unit, else 0."""
    return float(answer.value is not None and _CLEAN.match(answer.text.strip()) is not None)


def length(answer: Answer) -> float:
    """0 up to 32 tokens, then falling to -1 at 288: a reasoned answer needs about 30."""
    return -min(1.0, max(0, answer.tokens - FREE_TOKENS) / TOKENS_TO_WORST)


REWARDS: Mapping[str, Callable[[Answer], float]] = {
    "delta1": delta1,
    "negative_l1": negative_l1,
    "negative_relative": negative_relative,
    "log_ratio": log_ratio,
    "format": format,
    "length": length,
}


def reward_functions(mix: Mapping[str, float]) -> tuple[list[Callable[..., list[float]]], list[float]]:
    """TRL's reward functions and their weights, of ``name -> weight``.

    Raises:
        DepthLMError: an unknown name, no positive weight at all, or one that is not finite.
    """
    for name, weight in mix.items():
        if name not in REWARDS:
            raise DepthLMError(f"reward {name!r}", "is not known", f"known are {', '.join(REWARDS)}")
        if not math.isfinite(weight) or weight < 0:
            raise DepthLMError(f"reward {name!r}", f"has the weight {weight}", "give a positive number")
    if not any(weight > 0 for weight in mix.values()):
        raise DepthLMError("rewards", "have no weight", "e.g. --rewards negative_l1=1,format=0.2")
    return [_as_trl(name) for name in mix], list(mix.values())


def _as_trl(name: str) -> Callable[..., list[float]]:
    rate = REWARDS[name]

    def reward(
        completions: Sequence[Sequence[Mapping[str, Any]]],
        completion_ids: Sequence[Sequence[int]],
        truth: Sequence[float],
        unit: Sequence[str],
        **_: Any,
    ) -> list[float]:
        rows = zip(completions, completion_ids, truth, unit, strict=True)
        return [rate(read(turns[-1]["content"], len(ids), t, u)) for turns, ids, t, u in rows]

    reward.__name__ = name  # as it stands in the logs
    return reward


def read(text: str | Sequence[Mapping[str, Any]], tokens: int, truth: float, unit: str) -> Answer:
    """A completion as an `Answer`; the text may come in parts, as chat messages have them."""
    if not isinstance(text, str):
        text = "".join(part.get("text", "") for part in text)
    value = parse_answer(text, unit).value
    return Answer(text, value if value is not None and value > 0 else None, truth, tokens)
