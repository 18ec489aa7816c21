"""What README, docs, configs and help pages tell a user to type is understood, and what they point to is there."""

import re
import shlex
from pathlib import Path

import pytest

from depthlm.cli import build_parser, installed_commands

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "depthlm").rglob("README.md"))]


def parsers(parser, name="depthlm"):
    """The parser of ``depthlm`` and of each of its sub-commands, with their names."""
    yield name, parser
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        for word, sub in action.choices.items():
            yield from parsers(sub, f"{name} {word}")


PARSER = build_parser(installed_commands())
HELP = dict(parsers(PARSER))


def shell_lines(text: str) -> list[str]:
    """Commands in ```sh blocks, continued lines joined, comments left out."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def examples(parser) -> list[str]:
    lines = (parser.epilog or "").replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("depthlm ")]


COMMANDS = [(page.name, line) for page in PAGES for line in shell_lines(page.read_text())]
COMMANDS += [(f"{name} --help", line) for name, parser in HELP.items() for line in examples(parser)]


def test_there_is_something_to_test():
    assert len(HELP) >= 11
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=[f"{where}: {line[:60]}" for where, line in COMMANDS])
def test_commands_are_understood(where, line):
    words = shlex.split(line)
    if words[0] == "depthlm":
        if words[-1] == "--help":
            assert " ".join(words[:-1]) in HELP
        else:
            PARSER.parse_args(words[1:])  # exits when a flag or an action is not known
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    for word in words:  # files of this repository
        if re.match(r"(recipes|eval|benchmarks|docs|requirements|depthlm|data_gen)/.*\.\w+$", word):
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("name", HELP)
def test_help_reads_like_a_manual_page(name):
    text = HELP[name].format_help()
    assert "\nexamples:\n" in text
    assert f"  {name} " in text.partition("\nexamples:\n")[2]
    undocumented = [a.dest for a in HELP[name]._actions if not a.help and not a.choices]
    assert not undocumented


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
