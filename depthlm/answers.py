"""The number in a model's free text, converted to the unit that was asked for. Text is never evaluated.

Rules, in this order:

1. The last ``<answer>…</answer>`` that holds a number is all that is read; else the whole text (its last 4,000
   characters).
2. Every quantity is found: a number (plain, 1,234.5, 3,2, 3.2e1, 3.2×10^1, ½, number words) with its unit, if it has
   one (a number word needs one, or stands alone); neighbours as in ``5 ft 6 in`` are one; a range ``3 to 4 m`` is its
   middle; in ``3 ± 0.5`` the tolerance is no quantity of its own.
3. The last quantity with a unit of the right dimension wins; but a bare number that follows the last ``=`` wins over
   one with a unit before it. Without any, the last bare number. Quantities of another dimension (the ``2 s`` of a speed
   answer) never count.
4. A comma followed by exactly three digits groups thousands; any other comma between digits is a decimal comma.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

# An answer is at the end; what a model wrote before it can be of any length.
MAX_CHARS = 4000
MAX_NUMBER_CHARS = 40

_PLAIN = re.compile(r"\s*(\d{1,9}(?:\.\d{1,12})?)\s*\Z")

# Factors to metres, metres per second and seconds, by dimension.
_UNITS: dict[str, dict[str, float]] = {
    "m": {
        "m": 1, "meter": 1, "meters": 1, "metre": 1, "metres": 1,
        "cm": 0.01, "centimeter": 0.01, "centimeters": 0.01, "centimetre": 0.01, "centimetres": 0.01,
        "mm": 0.001, "millimeter": 0.001, "millimeters": 0.001, "millimetre": 0.001, "millimetres": 0.001,
        "dm": 0.1, "km": 1000, "kilometer": 1000, "kilometers": 1000, "kilometre": 1000, "kilometres": 1000,
        "ft": 0.3048, "foot": 0.3048, "feet": 0.3048, "in": 0.0254, "inch": 0.0254, "inches": 0.0254, "″": 0.0254,
        "yd": 0.9144, "yard": 0.9144, "yards": 0.9144, "mile": 1609.344, "miles": 1609.344,
    },
    "m/s": {
        "m/s": 1, "mps": 1, "m s^-1": 1, "m·s⁻¹": 1, "meters per second": 1, "metres per second": 1,
        "meter per second": 1, "metre per second": 1, "meters/second": 1, "metres/second": 1, "m/sec": 1,
        "cm/s": 0.01, "mm/s": 0.001, "km/s": 1000, "km/h": 1 / 3.6, "kmh": 1 / 3.6, "kph": 1 / 3.6, "km/hr": 1 / 3.6,
        "kilometers per hour": 1 / 3.6, "kilometres per hour": 1 / 3.6, "mph": 0.44704, "miles per hour": 0.44704,
        "ft/s": 0.3048, "feet per second": 0.3048,
    },
    "s": {
        "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1, "ms": 0.001, "millisecond": 0.001,
        "milliseconds": 0.001, "min": 60, "mins": 60, "minute": 60, "minutes": 60, "h": 3600, "hr": 3600, "hour": 3600,
        "hours": 3600,
    },
    # known, so that they are not taken for bare numbers
    "other": {"px": 1, "pixel": 1, "pixels": 1, "%": 1, "percent": 1, "°": 1, "deg": 1, "degree": 1, "degrees": 1,
              "kg": 1, "m²": 1, "m^2": 1},
}  # fmt: skip
_BY_NAME = {name: (dimension, factor) for dimension, units in _UNITS.items() for name, factor in units.items()}
_UNIT = "|".join(re.escape(name) for name in sorted(_BY_NAME, key=len, reverse=True))

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: 10 * tens for tens, word in enumerate(_TENS.split(), 1)}
_WORDS |= {word: value for value, word in enumerate(_ONES.split())}
_WORD = "|".join(sorted(_WORDS, key=len, reverse=True))
_FRACTIONS = {"½": 0.5, "¼": 0.25, "¾": 0.75, "⅓": 1 / 3, "⅔": 2 / 3}
_FRACTION = "".join(_FRACTIONS)

_QUANTITY = re.compile(
    rf"""
    (?<![\w.,^])
    (?P<sign>[-−])?\s?
    (?:
      (?P<digits>\d[\d.,]{{0,{MAX_NUMBER_CHARS}}})(?P<fraction>[{_FRACTION}])?
      (?:e(?P<exp>[+-]?\d{{1,3}})(?!\w)|\s?[×x*]\s?10\s?\^?\s?\{{?(?P<power>[+-−]?\d{{1,3}})\}}?)?
      | (?P<lone>[{_FRACTION}])
      | \.(?P<point>\d{{1,12}})
      | (?P<word>{_WORD})(?:-(?P<ones>{_WORD}))?(?P<half>\s+and\s+a\s+half)?(?!\w)
      | (?P<halfword>half)\s+an?(?!\w)
    )
    (?:\s{{0,2}}-?(?P<unit>{_UNIT})(?![\w/^²]))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NOT_FINITE = re.compile(r"(?<!\w)(?:[-+]?inf(?:inity)?|nan|∞)(?!\w)", re.IGNORECASE)
_REFUSAL = re.compile(r"\b(?:sorry|cannot|can't|can’t|unable|not able|impossible|not possible)\b", re.IGNORECASE)
_RANGE = re.compile(r"\s*(?:-|–|—|~|to|and|or)\s*", re.IGNORECASE)
_TOLERANCE = re.compile(r"\s*(?:±|\+/-|\\pm)\s*")
_OPERATOR = re.compile(r"\s*[/*×÷+]\s*")
_MARKUP = re.compile(r"\\(?:text|mathrm|boxed|mathbf)\s?\{|\\[,;! ]|[$*_{}\\]|`")


@dataclass(frozen=True)
class Parsed:
    """What was read from an answer.

    Args:
        value: in the unit asked for; None when there is no such number.
        unit_found: the unit as it was written, if any.
        reason: why ``value`` is None.
    """

    value: float | None
    unit_found: str | None = None
    reason: str | None = None


@dataclass
class _Quantity:
    value: float
    unit: str | None
    start: int
    end: int

    @property
    def dimension(self) -> str | None:
        return _BY_NAME[self.unit][0] if self.unit else None

    @property
    def base(self) -> float:
        """In metres, metres per second or seconds."""
        return self.value * _BY_NAME[self.unit][1] if self.unit else self.value


def parse_answer(text: str, unit: str) -> Parsed:
    """Read the number from a model's text (see the module for the rules).

    Args:
        unit: the unit asked for: "m", "m/s" or "s".
    """
    if plain := _PLAIN.match(text[:64]) if len(text) <= 64 else None:
        return Parsed(float(plain[1]))
    for part in _parts(text):
        found = _read(part, unit)
        if found.value is not None:
            return found
    return found


def _parts(text: str) -> list[str]:
    """What is read, most telling first: the last tagged answer, then the text's end; never more than MAX_CHARS each."""
    tail = text[-MAX_CHARS:]
    lower = tail.lower()
    start = lower.rfind("<answer>")
    parts = []
    if start >= 0:
        end = lower.find("</answer>", start)
        parts.append(tail[start + 8 : end if end >= 0 else len(tail)])
    return [*parts, tail]


def _read(text: str, unit: str) -> Parsed:
    clean = _MARKUP.sub(lambda m: " " * (len(m[0])) if m[0] != "*" else m[0], text.replace("**", "  "))
    quantities = _merge(clean, _quantities(clean))
    if not quantities:
        if _NOT_FINITE.search(clean):
            return Parsed(None, reason="not finite")
        if _REFUSAL.search(clean):
            return Parsed(None, reason="refusal")
        return Parsed(None, reason="no number")
    result = _choose(clean, quantities, unit)
    if result is None:
        return Parsed(None, quantities[-1].unit, "another unit")
    if not math.isfinite(result.base):
        return Parsed(None, result.unit, "not finite")
    return Parsed(result.base, result.unit)


def _quantities(text: str) -> list[_Quantity]:
    found = []
    for match in _QUANTITY.finditer(text):
        value = _value(match)
        if value is None:
            continue
        unit = match["unit"]
        if match["word"] and unit is None and match[0].strip() != text.strip():
            continue  # "from one image" is no answer
        if unit is not None:
            unit = unit if unit in _BY_NAME else unit.lower()
        found.append(_Quantity(-value if match["sign"] else value, unit, match.start(), match.end()))
    return found


def _value(match: re.Match[str]) -> float | None:
    if match["word"]:
        return _WORDS[match["word"].lower()] + _WORDS.get((match["ones"] or "").lower(), 0) + bool(match["half"]) * 0.5
    if match["halfword"]:
        return 0.5
    if match["lone"]:
        return _FRACTIONS[match["lone"]]
    if match["point"]:
        return float("0." + match["point"])
    digits = match["digits"].rstrip(".,")
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"\d+,\d+", digits):
        digits = digits.replace(",", ".")
    if not re.fullmatch(r"\d+(?:\.\d+)?", digits):
        return None  # 3.2.1, a date, …
    exponent = int((match["exp"] or match["power"] or "0").replace("−", "-"))
    return float(f"{digits}e{exponent}") + _FRACTIONS.get(match["fraction"] or "", 0.0)


def _merge(text: str, found: list[_Quantity]) -> list[_Quantity]:
    """Join ``5 ft 6 in``, ``3 to 4 m`` and ``3 ± 0.5 m`` into one quantity each."""
    out: list[_Quantity] = []
    for quantity in found:
        last = out[-1] if out else None
        between = text[last.end : quantity.start] if last else ""
        if last and _TOLERANCE.fullmatch(between):
            out[-1] = _Quantity(last.value, last.unit or quantity.unit, last.start, quantity.end)
        elif last and _is_range(text, last, quantity, between):
            unit = quantity.unit or last.unit
            low = _Quantity(last.value, last.unit or unit, 0, 0).base
            high = _Quantity(abs(quantity.value), unit, 0, 0).base
            factor = _BY_NAME[unit][1] if unit else 1.0
            out[-1] = _Quantity((low + high) / 2 / factor, unit, last.start, quantity.end)
        elif last and _is_compound(last, quantity, between):
            factor = _BY_NAME[last.unit or ""][1]
            out[-1] = _Quantity(last.value + quantity.base / factor, last.unit, last.start, quantity.end)
        else:
            out.append(quantity)
    return out


def _is_range(text: str, low: _Quantity, high: _Quantity, between: str) -> bool:
    if low.dimension not in (None, high.dimension) or low.value < 0:
        return False
    if between.strip() == "" and high.value < 0 and text[high.start] in "-−":  # 3-4
        return abs(high.base) > low.base
    if not _RANGE.fullmatch(between) or high.value <= 0:
        return False
    if between.strip().lower() == "and":  # only in "between 3 and 4"
        return text[: low.start].rstrip().lower().endswith("between")
    return True


def _is_compound(big: _Quantity, small: _Quantity, between: str) -> bool:
    if between.strip() not in ("", "and", ",") or not big.unit or not small.unit or big.dimension != small.dimension:
        return False
    return _BY_NAME[small.unit][1] < _BY_NAME[big.unit][1] and small.value > 0


def _choose(text: str, quantities: list[_Quantity], unit: str) -> _Quantity | None:
    """The last stated result among the quantities, or None when all are of another dimension."""
    right = [q for q in quantities if q.dimension == unit]
    bare = [q for q in quantities if q.dimension is None]
    equals = text.rfind("=")
    after = [q for q in bare if q.start > equals >= 0]
    if after and (not right or right[-1].start < equals):
        return after[0] if _OPERATOR.match(text[after[0].end :]) is None else after[-1]
    if right:
        return right[-1]
    return bare[-1] if bare else None
