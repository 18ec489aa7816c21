"""What was measured: an answer's number with its unit and 90% interval, and how both were found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from depthlm.answers import parse_answer
from depthlm.photo import Photo
from depthlm.questions import Kind
from depthlm.shown import Shown
from depthlm.spread import Spread, Token, estimate, from_samples, from_tokens

# The share of a model's answers that an interval holds.
LEVEL = 0.9
# A quotient of two decimals is so near to the exact one; a per mille more for models that round otherwise.
ROUNDING_M = 0.0051
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Measurement:
    """An answer, read.

    Args:
        kind: of question, see `depthlm.questions.KINDS`.
        value: in ``unit``; None where the answer holds no number, see ``reason``. Of several samples it is the median.
        unit: "m", "m/s" or "s".
        interval: the central 90% of the model's answers, by samples or by the log-probabilities of one answer's tokens;
            None where neither is known. It holds ``value``, and tells how sure the model is, not how right.
        text: the answer as it came; of several samples the first.
        question: as it was asked.
        model: whose answer it is.
        points: of each marked point its ``name``, ``colour`` and ``x``, ``y`` in the photo's pixels.
        cameras: of each photo ``width``, ``height``, ``fx``, ``fy``, ``cx``, ``cy`` in px, and ``known_from``: given,
            exif, estimated or assumed.
        warnings: what a reader of the number has to know.
        reason: why there is no value; "" where there is one.
    """

    kind: str
    value: float | None
    unit: str
    interval: tuple[float, float] | None
    text: str
    question: str
    model: str
    points: list[dict[str, Any]] = field(default_factory=list)
    cameras: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Measurement:
        """What `to_dict` gave, fields unknown here left out."""
        known = {name: found[name] for name in cls.__dataclass_fields__ if name in found}
        if known.get("interval") is not None:
            low, high = known["interval"]
            known["interval"] = (float(low), float(high))
        return cls(**known)

    def __str__(self) -> str:
        if self.value is None:
            return f"no {self.kind}: {self.reason}"
        out = f"{self.value:.2f} {self.unit}"
        return out if self.interval is None else f"{out} (90%: {self.interval[0]:.2f} to {self.interval[1]:.2f})"


def read_measurement(
    kind: Kind,
    given: float | None,
    shown: Shown,
    photos: Sequence[Photo],
    texts: Sequence[str],
    tokens: Sequence[Token] = (),
    *,
    model: str,
    names: Sequence[str] = (),
    cut: bool = False,
    notes: Sequence[str] = (),
) -> Measurement:
    """Read an answer to `depthlm.asking.ask_about`.

    Args:
        given: the number that the question states.
        texts: the answer, or several samples.
        tokens: the answer's, with their log-probabilities.
        names: of the points, for the reader; by default their colours.
        cut: whether the answer was ended by the longest length allowed.
        notes: further warnings.
    """
    parsed = parse_answer(texts[0], kind.unit)
    value, reason, interval = parsed.value, parsed.reason or "", None
    warnings = [f"{_of(photos, i)}{photo.warning}" for i, photo in enumerate(photos) if photo.warning]
    warnings += notes
    if len(texts) > 1:
        if (found := estimate(from_samples(texts), kind.unit)) is not None:
            value, interval, reason = found.median, found.bounds[LEVEL], ""
        else:
            value, reason = None, "fewer than half of the samples hold a number"
    elif value is not None and tokens:
        interval = _interval(kind, given, value, tokens)
        if interval is not None:  # token by token, the likeliest number may be a rare one
            interval = min(interval[0], value), max(interval[1], value)
    if value is not None and interval is None:
        warnings.append("the server tells no log-probabilities: the interval is not known; ask for samples")
    if cut:
        warnings.append("the answer was cut off at the longest length allowed")
    return Measurement(
        kind=kind.name,
        value=value,
        unit=kind.unit,
        interval=interval,
        text=texts[0],
        question=shown.texts[-1],
        model=model,
        points=_points(shown, names),
        cameras=[camera_told(photo) for photo in photos],
        warnings=warnings,
        reason=reason,
    )


def _interval(kind: Kind, given: float | None, value: float, tokens: Sequence[Token]) -> tuple[float, float] | None:
    """The central 90% by one answer's tokens.

    A reasoned answer says the distance first; what follows is arithmetic on it, and sure of itself however unsure the
    distance is. So the distance's alternatives are weighed, and the arithmetic done on them.
    """
    if kind.reasoned and given:
        spread = _first_number(tokens)
        stated, distance = parse_answer(spread[0][0], "m").value if spread else None, estimate(spread, "m")
        # the number that is stated, not the median of what might have been, which often is another
        if stated is not None and distance is not None and abs(stated / given - value) <= ROUNDING_M + 1e-3 * value:
            low, high = distance.bounds[LEVEL]
            return low / given, high / given
    found = estimate(from_tokens(tokens), kind.unit)
    return None if found is None else found.bounds[LEVEL]


def _first_number(tokens: Sequence[Token]) -> Spread:
    """The spread of an answer's first number: of its tokens up to the one behind that number."""
    number = _NUMBER.search("".join(token.text for token in tokens))
    if number is None:
        return ()
    kept, begins = [], 0
    for token in tokens:
        kept.append(token)
        if begins >= number.end():
            break
        begins += len(token.text)
    return from_tokens(kept)


def _points(shown: Shown, names: Sequence[str]) -> list[dict[str, Any]]:
    out = []
    for i, point in enumerate(shown.points[0] if shown.points else ()):
        x, y = point["source_xy"]
        name = names[i] if i < len(names) and names[i] else point["colour"]
        out.append({"name": name, "colour": point["colour"], "x": x, "y": y})
    return out


def camera_told(photo: Photo) -> dict[str, Any]:
    """A photo's camera as answers tell it: size, intrinsics in px, and ``known_from``."""
    camera = photo.camera
    out: dict[str, Any] = {"width": camera.width, "height": camera.height}
    out |= {name: float(getattr(camera, name)) for name in ("fx", "fy", "cx", "cy")}
    return out | {"known_from": photo.camera_from}


def _of(photos: Sequence[Photo], i: int) -> str:
    return f"image {i + 1}: " if len(photos) > 1 else ""
