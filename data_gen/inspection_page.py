"""A web page of a frame store that needs no other file: pictures are inside it, and nothing runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 110rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; white-space: nowrap; }
th, td { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); margin-top: 1rem; }
code { background: var(--soft); padding: 0 .25rem; overflow-wrap: anywhere; }
nav a { margin-right: 1rem; } .wide { overflow-x: auto; }
"""
HOW = (
    "Labels are dots coloured by z: red is near. Where a frame has a dense map, magenta lines are its jumps of more "
    "than 10 %: they lie on the outlines of things unless depth and image are shifted. Wrong units show in the "
    "histogram of z: rooms lie at 0.5 to 10 m, streets at 2 to 100 m."
)


@dataclass(frozen=True)
class Section:
    """A dataset: its name, facts in words, and pictures (PNG)."""

    name: str
    facts: dict[str, str]
    pictures: Sequence[bytes]


def page(sections: Sequence[Section], reports: dict[str, dict[str, Any]]) -> str:
    """The page as HTML; every text that comes from the data is escaped.

    Args:
        reports: store -> ``keys``, ``skipped`` (kind -> count, examples) and ``dropped`` (kind -> count), or nothing.
    """
    links = "".join(f'<a href="#d{i}">{escape(section.name)}</a>' for i, section in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    body += "".join(_report(name, report) for name, report in reports.items() if report)
    title = escape(", ".join(reports))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"<nav>{links}</nav><p>{HOW}</p>{body}</body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in section.facts.items())
    images = "".join(
        f'<img alt="{what} of {escape(section.name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for what, data in zip(("frames", "statistics"), section.pictures, strict=True)
    )
    return f'<h2 id="d{number}">{escape(section.name)}</h2><div class="wide"><table>{rows}</table></div>{images}'


def _report(name: str, report: dict[str, Any]) -> str:
    skipped, dropped = report["skipped"], report["dropped"]
    total = sum(count for count, _ in skipped.values())
    parts = [f"<h2>Curation of {escape(name)}</h2><p>{total} of {report['keys']} frames skipped.</p>"]
    if skipped:
        rows = "".join(
            f'<tr><th>{escape(kind)}</th><td class="number">{count}</td>'
            f"<td>{'<br>'.join(f'<code>{escape(str(example))}</code>' for example in examples[:2])}</td></tr>"
            for kind, (count, examples) in skipped.items()
        )
        parts.append(f'<h3>Frames skipped</h3><div class="wide"><table>{rows}</table></div>')
    if dropped:
        rows = "".join(
            f'<tr><th>{escape(kind)}</th><td class="number">{count:,}</td></tr>' for kind, count in dropped.items()
        )
        parts.append(f"<h3>Measured points that give no label</h3><table>{rows}</table>")
    return "".join(parts)
