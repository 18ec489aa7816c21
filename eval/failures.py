"""The worst answers of a run on one HTML page: pictures as the model saw them, and where it fails most.

Wrong is what δ1 counts as wrong: answers off by a factor of 1.25 or more, without a positive number, or missing. They
are sorted by how far off they are, |log(value / truth)|; those without a positive number have no such measure and stand
apart.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from depthlm.errors import DepthLMError
from depthlm.metrics import delta
from depthlm.suite import Item, Suite, evenly
from depthlm.suite_view import SuiteView
from eval.breakdowns import BREAKDOWNS
from eval.pages import render
from eval.result_tables import BREAKDOWNS as BREAKDOWN_TITLES
from eval.scored_run import ScoredRun, read_run
from eval.tables import KIND_LABELS
from eval.text_file import write_text

# Small enough that a page of a hundred opens at once.
IMAGE_SIDE, QUALITY = 640, 82
# A published marker is 8 px long: in an image larger than a card it can't be seen, so each point is shown closer, too.
CARD_SIDE, CLOSE_W, CLOSE_H, CLOSE_QUALITY = 400, 96, 64, 92
MOST_TEXT = 4000


@dataclass(frozen=True)
class Picture:
    """A JPEG as a data URI, of ``width`` x ``height`` px.

    Args:
        rings: what the page draws around its points: each a colour, and percent of the width and of the height.
    """

    uri: str
    width: int
    height: int
    rings: Sequence[tuple[str, float, float]] = ()


@dataclass(frozen=True)
class Card:
    """One wrong answer.

    Args:
        off: how far off, in words: "3.2× too high"; or why there is no number to say it of.
        closer: the surroundings of each point, where the pictures are too small to see a marker.
        value, interval: with the unit; empty where there is none.
        inside: whether the interval holds the truth; None without one.
        facts: what else is known of the question, by name.
    """

    off: str
    pictures: list[Picture]
    closer: list[Picture]
    question: str
    truth: str
    value: str
    interval: str
    inside: bool | None
    text: str | None
    kind: str
    dataset: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Share:
    """How many of a group's questions were answered wrong."""

    name: str
    wrong: int
    n: int

    @property
    def share(self) -> float:
        return self.wrong / self.n


def write_failures(suite: Suite, run: Path, out: Path, count: int = 50) -> Path:
    """Write the page.

    Args:
        run: see `eval.scored_run.read_run`.
        count: most answers to show, of those with a number and of those without each.

    Raises:
        DepthLMError: the run is of another suite, a frame or an image can't be read, or ``out`` can't be written.
    """
    if count < 1:
        raise DepthLMError("--count", f"is {count}", "give 1 or more")
    scored = read_run(run)
    items, view = {item.id: item for item in scored.items(suite)}, scored.view(suite)
    rows = [scored.predictions[name] for name in items]
    wrong = [row for row in rows if not _right(row)]
    far = sorted((row for row in wrong if _has_number(row)), key=lambda row: -abs(_log_ratio(row)))
    without = [row for row in wrong if not _has_number(row)]
    cards, apart = (
        [_card(scored, view, items[row["id"]], row) for row in part] for part in (far[:count], evenly(without, count))
    )
    header = scored.result.header
    page = render(
        "failures.html",
        label=scored.result.label,
        suite=suite,
        profile=view.profile.name,
        origin=scored.result.origin,  # experts and baselines see no marker
        conversations=header.get("per_conversation") or 1,
        n=len(rows),
        wrong=len(wrong),
        missing=sum(row["text"] is None for row in rows),
        far=len(far),
        without=len(without),
        cards=cards,
        rings=any(card.closer for card in [*cards, *apart]),
        apart=apart,
        reasons=Counter(_reason(row) for row in without).most_common(),
        panels=_panels(rows),
        kinds={card.kind: KIND_LABELS.get(card.kind, card.kind) for card in [*cards, *apart]},
        datasets=sorted({card.dataset for card in [*cards, *apart]}),
    )
    write_text(out, page)
    return out


def _right(row: dict[str, Any]) -> bool:
    value = math.nan if row["value"] is None else row["value"]
    return bool(delta([value], [row["truth"]])[0])


def _has_number(row: dict[str, Any]) -> bool:
    return row["value"] is not None and math.isfinite(row["value"]) and row["value"] > 0


def _log_ratio(row: dict[str, Any]) -> float:
    return math.log(row["value"]) - math.log(row["truth"])


def _reason(row: dict[str, Any]) -> str:
    return str(row["reason"]) if row["value"] is None else "not a positive number"


def _panels(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[Share]]]:
    """Shares of wrong answers: kinds and datasets with the worst first, ranges in their order."""
    titles = {"kind": "By question kind", "dataset": "By dataset", **BREAKDOWN_TITLES}
    panels = []
    for by, title in titles.items():
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row.get(by) is not None:
                groups.setdefault(row[by], []).append(row)
        shares = [
            Share(KIND_LABELS.get(key, key) if by == "kind" else key, sum(not _right(row) for row in part), len(part))
            for key, part in groups.items()
        ]
        order = BREAKDOWNS.get(by, ())
        shares.sort(key=lambda share: order.index(share.name) if order else -share.share)
        if len(shares) > 1:  # a single group says what the total says
            panels.append((title, shares))
    return panels


def _card(scored: ScoredRun, view: SuiteView, item: Item, row: dict[str, Any]) -> Card:
    shown = scored.shown(view, item)
    large = bool(shown.images) and max(shown.images[0].shape) > CARD_SIDE
    points = shown.points[0] if shown.points and large else ()
    low, high = (row.get("bounds") or {}).get("0.9") or (None, None)
    has_interval = low is not None and high is not None
    return Card(
        off=_off(row),
        pictures=[_picture(pixels, points if i == 0 else ()) for i, pixels in enumerate(shown.images)],
        closer=[_closer(shown.images[0], point) for point in points],
        question=shown.texts[0],
        truth=_amount(item.truth, item.unit),
        value="" if row["value"] is None else _amount(row["value"], item.unit),
        interval=f"{_number(low)} to {_amount(high, item.unit)}" if has_interval else "",
        inside=low <= item.truth <= high if has_interval else None,
        text=None if row["text"] is None else _shortened(row["text"]),
        kind=item.kind,
        dataset=item.dataset,
        facts=dict(_facts(item, row)),
    )


def _facts(item: Item, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Kind", KIND_LABELS.get(item.kind, item.kind)
    yield "Dataset", item.dataset
    for by, name in {"depth_range": "Depth", "region": "Region", "fov": "Field of view"}.items():
        if row.get(by):
            yield name, row[by]
    yield "Frame" if len(item.frame_ids) == 1 else "Frames", ", ".join(item.frame_ids)
    yield "Question", item.id


def _off(row: dict[str, Any]) -> str:
    if not _has_number(row):
        return _reason(row)
    ratio = _log_ratio(row)
    factor = math.exp(min(abs(ratio), 700.0))  # beyond it, exp overflows
    return f"{_number(factor, 2 if factor < 2 else 1)}× too {'high' if ratio > 0 else 'low'}"


def _number(value: float, decimals: int = 2) -> str:
    return f"{value:.{decimals}f}" if abs(value) < 1e6 else f"{value:.1e}"


def _amount(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}"


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} … ({len(text)} characters)"


def _picture(pixels: NDArray[np.uint8], points: Sequence[dict[str, Any]]) -> Picture:
    """(h, w, 3) RGB -> a JPEG no side of which is above IMAGE_SIDE, with rings around the points."""
    image = Image.fromarray(pixels)
    rings = [
        (point["colour"], *(100 * (at + 0.5) / size for at, size in zip(point["xy"], image.size, strict=True)))
        for point in points
    ]
    if max(image.size) > IMAGE_SIDE:
        image = ImageOps.contain(image, (IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    return Picture(_jpeg(image, QUALITY), *image.size, rings)


def _closer(pixels: NDArray[np.uint8], point: dict[str, Any]) -> Picture:
    """CLOSE_W x CLOSE_H px around a point, not resampled."""
    image = Image.fromarray(pixels)
    left, top = (
        max(0, min(round(at) - side // 2, size - side))
        for at, side, size in zip(point["xy"], (CLOSE_W, CLOSE_H), image.size, strict=True)
    )
    part = image.crop((left, top, min(left + CLOSE_W, image.width), min(top + CLOSE_H, image.height)))
    return Picture(_jpeg(part, CLOSE_QUALITY, subsampling=0), *part.size)


def _jpeg(image: Image.Image, quality: int, **options: int) -> str:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, optimize=True, **options)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
