"""How sure a model is: other answers that it might have given, each with a weight -> median and central intervals.

Two ways to get them. Samples: n answers drawn at temperature 1, equally heavy; exact, and n times the work. Token
log-probabilities: of the greedy answer's last number, each digit's alternatives, completed by the rest of that number;
one request, but an approximation, and blind to how an answer's own reasoning would have gone on: for answers that
state several numbers, draw samples.

Where the number ends is weighed too: by the token behind it, be it the one that ends the answer (see `said`). Without
such a token, of an answer that was cut off or a server that tells nothing of the end, the number surely ends there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from depthlm.answers import parse_answer

LEVELS = (0.5, 0.8, 0.9)
Spread = tuple[tuple[str, float], ...]

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Token:
    """One token of an answer: its text, its log-probability and those of the most likely others.

    The text is empty where it is no part of the answer's: of the token that ends it.
    """

    text: str
    logprob: float
    others: tuple[tuple[str, float], ...] = ()


def from_samples(texts: Sequence[str]) -> Spread:
    """Samples, equally heavy."""
    return tuple((text, 1 / len(texts)) for text in texts)


def said(tokens: Sequence[Token], text: str) -> list[Token]:
    """An answer's tokens; those whose text its own lacks, as the one that ends it, with an empty text."""
    return [token if token.text.strip() in text else replace(token, text="") for token in tokens]


def from_tokens(tokens: Sequence[Token]) -> Spread:
    """The answers that the tokens' alternatives make; their weights sum to 1, the answer itself first."""
    texts = [token.text for token in tokens]
    whole = "".join(texts)
    numbers = list(_NUMBER.finditer(whole))
    if not numbers:
        return ((whole, 1.0),)
    start, end = numbers[-1].span()
    found: list[tuple[str, float]] = []
    begins, weight = 0, 1.0
    for token in tokens:
        behind = begins == end  # another digit might have stood there
        if behind or (token.text and start <= begins < end):
            going_on = 0.0
            for text, logprob in token.others:
                other = text.strip()
                if text != token.text and (other == "." or other.isdigit()):
                    rest = _completed(whole[begins:end], token.text.strip(), other)
                    if rest is not None:
                        found.append((whole[:begins] + rest + whole[end:], weight * math.exp(logprob)))
                        going_on += math.exp(logprob)
            # behind the number, whatever does not go on with it leaves it as it is
            weight *= max(1 - going_on, 0.0) if behind else math.exp(token.logprob)
        if behind:
            break
        begins += len(token.text)
    total = weight + sum(share for _, share in found)
    return tuple((text, share / total) for text, share in [(whole, weight), *found] if share > 0)


def _completed(rest: str, token: str, other: str) -> str | None:
    """A number's rest, which begins with ``token``, had ``other`` been said there; None where that is no number."""
    if other == ".":
        if "." in rest:  # 12.5 with a point after the 1: 1.5
            return None if rest.startswith(".") else "." + rest.split(".", 1)[1]
        return "." + rest
    if token.isdigit():
        return other + rest[len(token) :]
    return other + rest  # 3.42 with a 1 before the point: 31.42


@dataclass(frozen=True)
class Estimate:
    """Median and central intervals of an answer's spread, in the unit asked for; ``bounds`` of each of LEVELS."""

    median: float
    bounds: dict[float, tuple[float, float]]


def estimate(spread: Sequence[tuple[str, float]], unit: str) -> Estimate | None:
    """What the answers say together; None where fewer than half of them, by weight, hold a number."""
    parsed = [(parse_answer(text, unit).value, weight) for text, weight in spread]
    values = np.array([value for value, _ in parsed if value is not None], np.float64)
    weights = np.array([weight for value, weight in parsed if value is not None], np.float64)
    if weights.sum() <= 0.5 * sum(weight for _, weight in parsed):
        return None
    order = np.argsort(values, kind="stable")
    values, shares = values[order], np.cumsum(weights[order]) / weights.sum()

    def quantile(q: float) -> float:
        return float(values[min(int(np.searchsorted(shares, q - 1e-12)), len(values) - 1)])

    def median() -> float:
        i = int(np.searchsorted(shares, 0.5 - 1e-9))
        halves = shares[i] < 0.5 + 1e-9 and i + 1 < len(values)  # as many on either side: midway between the two
        return float(values[i] + values[i + 1]) / 2 if halves else float(values[i])

    bounds = {level: (quantile((1 - level) / 2), quantile((1 + level) / 2)) for level in LEVELS}
    return Estimate(median(), bounds)
