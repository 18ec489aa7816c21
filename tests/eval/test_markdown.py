"""Text in Markdown, as a real parser reads it."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from eval.markdown import aligned, escaped

# What GitHub's parser and others make links of, in text outside code: mail too, and bare domains.
AUTOLINK = re.compile(
    r"(https?|ftp)://|www\.|(mailto|xmpp):\w|[-.\w+]+@[-\w]+|[a-z][a-z0-9-]*\.(com|org|ai|io|md|py|de)\b", re.IGNORECASE
)


def inline(markdown: str, where: str) -> list:
    """What the parser finds in the first paragraph, heading or cell after the opening tag."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    at = next(i for i, token in enumerate(tokens) if token.type == f"{where}_open")
    return tokens[at + 1].children


@pytest.mark.parametrize(
    "label",
    [
        "http://evil.example/x",
        "see HTTPS://evil.example, or not",
        "ftp://evil.example",
        "www.evil.com",
        "evil.com/model",
        "<http://evil.example>",
        "[click](http://evil.example)",
        "![img](http://evil.example/x.png)",
        "mailto:me@evil.com",
        "xmpp:me@evil.com",
        "me@evil.com | you",
        "a|b http://evil.example/?a|b",
        "<img src=x> model.py",
    ],
)
def test_no_label_becomes_a_link_and_each_is_shown_as_it_is(label):
    table = "\n".join(aligned(["Model", "δ1"], [[escaped(label), "0.5"]]))
    found = inline(table, "td")
    assert {token.type for token in found} <= {"text", "code_inline", "text_special"}, "a tag, an image or a link"
    shown = "".join(token.content for token in found)
    assert shown == label
    text = "|".join(token.content for token in found if token.type != "code_inline")
    assert not AUTOLINK.search(text), text


def test_ordinary_labels_are_no_code_and_a_line_stays_one():
    for label in (
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "nano, 8 samples",
        "DepthLM (Cai et al.)",
        "δ1: no change",
        "v1.0 é",
        "constant:2.0",
    ):
        assert escaped(label) == label
    assert escaped("a\n\n# b `c` [d] <e> !f |g") == "a # b 'c' \\[d\\] &lt;e> \\!f \\|g"
