"""The question kinds: phrasings, the exact answer, its unit. One kind is one small file, used by training, evaluation
and serving alike, so that prompts can't drift apart.

To add a kind, write a module with a ``KIND`` and name it in ``KINDS`` below, or offer it from another package by the
entry-point group ``depthlm.questions``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from depthlm.registry import Registry

Unit = Literal["m", "m/s", "s"]
UNIT_WORDS: dict[str, str] = {"m": "metres", "m/s": "metres per second", "s": "seconds"}


@dataclass(frozen=True)
class Geometry:
    """What an answer is computed from.

    Args:
        points: (n, 3) float64 marked points in the first camera's frame (OpenCV), metres.
        poses: camera-to-world of each image, 4x4 float64, metres; empty when the kind needs none.
    """

    points: NDArray[np.float64]
    poses: tuple[NDArray[np.float64], ...] = ()


@dataclass(frozen=True)
class Wording:
    """A question but for what points at its points.

    Args:
        phrasing: a text with ``{a}`` (and ``{b}``) for the marked points and ``{given}`` for a stated number.
        given: that number, in the SI unit that the text names.
    """

    phrasing: str
    given: float = 1.0

    def text(self, names: Sequence[str]) -> str:
        """The question's text; ``names`` describe its marked points. Not ``str.format``: a phrasing may be data."""
        text = self.phrasing.replace("{given}", f"{self.given:.1f}")
        for mark, name in zip(("{a}", "{b}"), names, strict=False):
            text = text.replace(mark, name)
        return text


@dataclass(frozen=True)
class Kind:
    """One kind of question.

    Args:
        name: its key in suites, mixes and results.
        unit: of the answer.
        points: marked points it speaks of.
        images: images it is asked about.
        phrasings: texts with ``{a}`` (and ``{b}``) for the marked points and ``{given}`` for a stated number.
        truth: exact answer in float64 from the geometry and the given number.
        given: numbers that ``{given}`` is drawn from, SI units; empty when the kind states none.
        reasoned: True when the answer first states the distance, then divides it by the given number.
    """

    name: str
    unit: Unit
    points: int
    images: int
    phrasings: tuple[str, ...]
    truth: Callable[[Geometry, float], float]
    given: tuple[float, ...] = ()
    reasoned: bool = False

    def draw(self, rng: np.random.Generator) -> Wording:
        """One of its phrasings, and of the numbers that it may state."""
        given = float(rng.choice(self.given)) if self.given else 1.0
        return Wording(self.phrasings[int(rng.integers(len(self.phrasings)))], given)

    def question(self, names: Sequence[str], given: float, phrasing: int = 0) -> str:
        """The question's text; ``names`` describe its marked points, ``given`` its stated number."""
        return Wording(self.phrasings[phrasing], given).text(names)

    def answer(self, geometry: Geometry, given: float, reasoned: bool = True) -> str:
        """The supervised answer: two decimals; a reasoned one is exact arithmetic on the numbers it states."""
        if not (self.reasoned and reasoned):
            return two_decimals(self.truth(geometry, given))
        distance = two_decimals(float(np.linalg.norm(geometry.points[0])))
        result = (Decimal(distance) / Decimal(f"{given:.1f}")).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
        return f"The point is {distance} m away. {distance} / {given:.1f} = {result}"


def two_decimals(value: float) -> str:
    """Plain decimal text with two decimals."""
    return f"{value:.2f}"


KINDS: Registry[Kind] = Registry(
    "question kind",
    {
        "distance": "depthlm.questions.distance:KIND",
        "axis_distance": "depthlm.questions.axis_distance:KIND",
        "speed": "depthlm.questions.speed:KIND",
        "travel_time": "depthlm.questions.travel_time:KIND",
        "two_point": "depthlm.questions.two_point:KIND",
        "camera_motion": "depthlm.questions.camera_motion:KIND",
    },
    "depthlm.questions",
)


def corpus() -> list[str]:
    """Every phrasing filled in, answers and camera words: what a small tokenizer is fitted to."""
    from depthlm.camera import Camera
    from depthlm.markers import COLOURS
    from depthlm.prompt import camera_words, point_name

    names = [point_name("arrow", colour) for colour in COLOURS]
    names += [point_name(kind, "red") for kind in ("dot", "cross")]
    lines = [camera_words([Camera.from_fov(640, 480, 70)]), "You are a helpful assistant."]
    geometry = Geometry(np.array([[0.3, 0.2, 4.1], [1.0, 0.5, 3.0]]), (np.eye(4), np.eye(4)))
    for key in KINDS.names():
        kind = KINDS.get(key)
        for i in range(len(kind.phrasings)):
            for a, b in zip(names, names[1:] + names[:1], strict=True):
                lines.append(kind.question([a, b], 4.0, i))
        lines += [kind.answer(geometry, 4.0)] * 8
    return lines
