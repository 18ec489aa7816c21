"""`depthlm study`: carry a study out, and write the document of those that are done."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from depthlm.cli import manual
from depthlm.errors import DepthLMError

STUDY = """\
Trains the arms of one study with several seeds, asks each model the same held-out
questions, and compares: OUT/NAME-SIZE/README.md with a table and a plot. Scenes are
rendered once for all studies. Stopped at any moment, the same command goes on.

NAME may be several studies, or `report`: that trains nothing and writes those that
are done into one document, --document.
"""
EXAMPLES = """\
  depthlm study marker
  depthlm study focal --seeds 1,2,3,4,5 --jobs 4
  depthlm study report --document docs/studies.md
  depthlm study marker --size large --train stores/mine --test stores/held-out \\
      --set model_name_or_path=Qwen/Qwen2.5-VL-3B-Instruct --set profile=qwen2.5-vl
"""
HEADER = """\
# Studies

What the method claims, tried with this code on a small model. A study's arms differ in one setting; everything else,
the start, the scenes, the number of questions, is the same. Each has its arms in `recipes/study/plans/NAME.yaml` and is
repeated by the command under its title. A disagreement with the paper is told as it is.

"""


def add(subparsers: Any) -> None:
    """Add ``depthlm study`` to the command line."""
    from recipes.study.plan import SIZES, names

    parser = manual(subparsers, "study", "Try one claim about training in small.", STUDY, EXAMPLES)
    parser.add_argument("name", nargs="+", metavar="NAME", choices=[*names(), "report"], help=", ".join(names()))
    parser.add_argument("--size", choices=SIZES, default="small", help="small: two CPU cores; large: a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder of all studies (runs/studies)")
    parser.add_argument("--seeds", type=_numbers, help="e.g. 1,2,3; default: the plan's")
    parser.add_argument("--jobs", type=int, help="runs at a time; default: the plan's")
    parser.add_argument("--samples", type=int, help="questions each arm is trained on; default: the plan's")
    parser.add_argument("--questions", type=int, help="held-out questions of each kind; default: the plan's")
    parser.add_argument("--train", type=Path, nargs="+", default=[], help="own frame stores to train on")
    parser.add_argument("--test", type=Path, nargs="+", default=[], help="own frame stores to be asked about")
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], help="recipe argument of all arms: KEY=VALUE"
    )
    parser.add_argument("--document", type=Path, help="report: Markdown file to write; plots go to images/ beside it")
    parser.set_defaults(run=study)


def study(args: argparse.Namespace) -> int:
    """``depthlm study``."""
    from recipes.study.plan import names, read_study
    from recipes.study.report import plot, report
    from recipes.study.run import carry_out, finished

    changes = {key: getattr(args, key) for key in ("seeds", "jobs", "samples", "questions") if getattr(args, key)}
    options = {"changes": changes, "arguments": dict(args.set), "train": args.train, "test": args.test}
    if "report" in args.name:
        if args.document is None or args.name != ["report"]:
            raise DepthLMError("report", "needs --document and no other name", "depthlm study report --document FILE")
        parts = []
        for name in names():
            plan = read_study(name, args.out, args.size, **options)
            if results := finished(plan):
                picture = Path("images") / f"study_{name}.png"
                plot(plan, results, args.document.parent / picture)
                parts.append(report(plan, results, picture.as_posix()))
        if not parts:
            raise DepthLMError(args.out, "holds no finished study", "depthlm study NAME")
        args.document.write_text(HEADER + "\n".join(parts), encoding="utf-8")
        print(f"{args.document}: {len(parts)} studies")
        return 0
    for name in args.name:
        plan = read_study(name, args.out, args.size, **options)
        results = carry_out(plan)
        plot(plan, results, plan.folder / "plot.png")
        text = report(plan, results, "plot.png")
        (plan.folder / "README.md").write_text(text, encoding="utf-8")
        print(text)
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, e.g. 1,2,3") from None


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return name, yaml.safe_load(value)
