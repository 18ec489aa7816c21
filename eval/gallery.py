"""A contact sheet: marked images with question, truth and prediction, framed green or red by delta1."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, ImageOps

from depthlm.errors import DepthLMError
from depthlm.metrics import DELTA
from depthlm.shown import Shown
from depthlm.suite import Item, Suite, evenly
from eval.scored_run import read_run

COLUMNS, TILE_W, IMAGE_H, FRAME, GAP = 4, 360, 240, 6, 16
TEXT_SIZE, TEXT_LINES, LINE_H, CHARACTERS, RING = 14, 7, 18, 46, 11
RIGHT, WRONG, PAPER, INK, SOFT = "#2b8a57", "#c0412c", "#fbfaf7", "#1d2421", "#5d6863"


def contact_sheet(suite: Suite, run: Path, out: Path, count: int = 16, title: str = "") -> Path:
    """Write a PNG of ``count`` questions, of every kind in turn, as a run's model was shown them, with its answers.

    Args:
        run: see `eval.scored_run.read_run`.

    Raises:
        DepthLMError: the run is of another suite, a frame or an image can't be read, or ``out`` can't be written.
    """
    if count < 1:
        raise DepthLMError("--count", f"is {count}", "give 1 or more")
    scored = read_run(run)
    items, view = choose(scored.items(suite), count), scored.view(suite)
    tiles = [_tile(item, scored.shown(view, item), scored.predictions[item.id]) for item in items]
    columns = min(COLUMNS, len(tiles))
    lines = -(-len(tiles) // columns)
    width, height = tiles[0].size
    head = 52
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), head + lines * (height + GAP)), PAPER)
    text = title or f"{suite.name}: {len(items)} of {len(suite.items)} questions"
    ImageDraw.Draw(sheet).text((GAP, 16), text, INK, _font(20, bold=True))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (GAP + i % columns * (width + GAP), head + i // columns * (height + GAP)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out)
    except OSError as error:
        raise DepthLMError(out, f"can't be written: {error}", "check --out and its permissions") from error
    return out


def choose(items: list[Item], count: int) -> list[Item]:
    """``count`` questions: the kinds in turn, evenly spread within each."""
    kinds: dict[str, list[Item]] = {}
    for item in items:
        kinds.setdefault(item.kind, []).append(item)
    share = -(-count // max(1, len(kinds)))
    spread = [evenly(members, share) for members in kinds.values()]
    turns = [members[i] for i in range(share) for members in spread if i < len(members)]
    return turns[:count]


def _tile(item: Item, shown: Shown, answer: dict[str, Any]) -> Image.Image:
    """One question: (TILE_W + frame) wide, images side by side, then the wrapped text."""
    truth, value = float(item.truth), answer["value"]
    right = value is not None and value > 0 and max(value / truth, truth / value) < DELTA
    colour = RIGHT if right else WRONG
    tile = Image.new("RGB", (TILE_W + 2 * FRAME, IMAGE_H + 2 * FRAME + TEXT_LINES * LINE_H + 10), PAPER)
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, TILE_W + 2 * FRAME - 1, IMAGE_H + 2 * FRAME - 1), fill=colour)
    draw.rectangle((FRAME, FRAME, FRAME + TILE_W - 1, FRAME + IMAGE_H - 1), fill="#e9ebe5")
    part = TILE_W // max(1, len(shown.images))
    for i, pixels in enumerate(shown.images):
        small = ImageOps.contain(Image.fromarray(pixels), (part - (i > 0) * 4, IMAGE_H))
        left = FRAME + i * part + (part - small.width + (i > 0) * 4) // 2
        top = FRAME + (IMAGE_H - small.height) // 2
        tile.paste(small, (left, top))
        if i == 0 and small.width < pixels.shape[1] / 2:  # too small to see a marker
            _draw_rings(draw, shown, (left, top), small.width / pixels.shape[1])
    _write_text(draw, item, shown.texts[0], answer, colour)
    return tile


def _draw_rings(draw: ImageDraw.ImageDraw, shown: Shown, corner: tuple[int, int], scale: float) -> None:
    """Rings around the points of the first image, whose corner lies there at this scale."""
    for point in shown.points[0] if shown.points else ():
        x, y = (start + (at + 0.5) * scale - 0.5 for start, at in zip(corner, point["xy"], strict=True))
        for radius, colour in ((RING, point["colour"]), (RING - 2, "white")):
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius), outline=colour, width=2 if radius == RING else 1
            )


def _write_text(draw: ImageDraw.ImageDraw, item: Item, question: str, answer: dict[str, Any], colour: str) -> None:
    y = IMAGE_H + 2 * FRAME + 6
    said = answer["text"] if answer["text"] is not None else answer["reason"]
    for line in _shorten(textwrap.wrap(question, CHARACTERS), 3):
        draw.text((2, y), line, INK, _font(TEXT_SIZE))
        y += LINE_H
    draw.text((2, y), f"true {item.truth:.2f} {item.unit}   ({item.kind.replace('_', ' ')})", SOFT, _font(TEXT_SIZE))
    y += LINE_H
    shown = textwrap.wrap(" ".join(str(said)[:2000].split()) or "(empty answer)", CHARACTERS - 8)
    for i, line in enumerate(_shorten(shown, 3)):
        draw.text((2, y), ("said " if i == 0 else "     ") + line, colour, _font(TEXT_SIZE, bold=True))
        y += LINE_H


def _shorten(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The DejaVu font that comes with matplotlib: on every machine, with the signs that answers hold."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), size)
