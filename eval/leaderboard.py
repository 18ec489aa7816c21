"""Results -> leaderboard.md, leaderboard.csv and leaderboard.html, beside the published tables.

    python eval/leaderboard.py results --out runs/leaderboard
    python eval/leaderboard.py results/*/result.jsonl --out runs/leaderboard

Results of one suite (name, form and content hash) make one section; numbers of different suites never share a column
with each other. Published rows come from ``published.csv``, marked with their source: they were measured on other
images. A suite in two forms has them beside the form ``as-published`` only. VSI-Bench has sections of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from depthlm.errors import DepthLMError
from eval.published import read_published
from eval.rendering import to_csv, to_html, to_markdown
from eval.results import find_results, read_result
from eval.sections import build_sections
from eval.text_file import write_text


def write_leaderboard(paths: Sequence[Path], out: Path) -> list[Path]:
    """Read results, in files and folders, and write the three forms into ``out``; returns their paths.

    Raises:
        DepthLMError: no result given, one that can't be read, or ``out`` can't be written.
    """
    results = [read_result(path) for path in find_results(paths)]
    published = read_published()
    sections = build_sections(results, published)
    files = {
        "leaderboard.md": to_markdown(sections, published),
        "leaderboard.csv": to_csv(results, published),
        "leaderboard.html": to_html(sections, published),
    }
    for name, text in files.items():
        write_text(out / name, text)
    return [out / name for name in files]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="result.jsonl files, or folders with such files inside")
    parser.add_argument("--out", type=Path, default=Path("leaderboard"), help="folder to write (default: leaderboard)")
    args = parser.parse_args(argv)
    try:
        for path in write_leaderboard(args.results, args.out):
            print(path)
    except DepthLMError as error:
        print(f"leaderboard: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
