"""``depthlm eval run | score | leaderboard | gallery | pictures``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.cli import manual
from depthlm.errors import DepthLMError

if TYPE_CHECKING:
    from depthlm.suite import Suite
    from eval.engines import Engine

EVAL = """\
A suite is a folder made by `depthlm data freeze`. Each run gets a folder of its own with
  answers.jsonl      every answer as it came; an interrupted run continues from it
  predictions.jsonl  the number found in each answer, or why none was found
  result.jsonl       all metrics with 95% intervals, by kind and dataset; what the leaderboard reads
"""
RUN = """\
All questions of SUITE that have no answer yet are asked, then scored.

Name what answers, one of:
  --model        a model folder, an adapter folder or a hub name: vLLM is started for it, and stopped
  --endpoint     the address of any OpenAI-compatible chat interface, with --model for its name there
  --baseline     constant:VALUE, best-constant (knows the truths), random, truth

An endpoint's key is read from the environment variable DEPTHLM_API_KEY and written nowhere. Overload, server
errors and time-outs are tried again with growing waits; a question that still fails is listed, makes the exit
status 1, and is asked again by the next run.
"""
RUN_EXAMPLES = """\
  depthlm eval run suites/rooms --model runs/model --out results
  depthlm eval run suites/rooms --endpoint http://localhost:8000 --model my-model --out results
  depthlm eval run suites/rooms --baseline constant:2.0 --out results
"""
SCORE = """\
Score answers.jsonl against its suite and write predictions.jsonl and result.jsonl; asks nothing. Of use after a change
of the parser or the metrics, or for answers that came from elsewhere.
"""
SCORE_EXAMPLES = """\
  depthlm eval score suites/rooms results/my-model/answers.jsonl --out rescored
"""
LEADERBOARD = """\
Write leaderboard.md, leaderboard.csv and leaderboard.html (one file, needs nothing else) from result.jsonl files, or
from all such files in folders, with the published DepthLM tables beside them, cited. Results of different suites (name,
form and content hash) never share a table; VSI-Bench has its own.
"""
LEADERBOARD_EXAMPLES = """\
  depthlm eval leaderboard results --out leaderboard
  depthlm eval leaderboard results/*/result.jsonl --out leaderboard
"""
VSI = """\
Print a Markdown table in the columns of VSI-Bench's own: mean relative accuracy of numbers, accuracy of choices, and
their mean over the eight tasks, in percent. The suite is made by `depthlm data vsi-bench`.
"""
VSI_EXAMPLES = """\
  depthlm data vsi-bench VSI-Bench --out suites/vsi --frames 16
  depthlm eval run suites/vsi --model Qwen/Qwen2.5-VL-3B-Instruct --max-tokens 16 --out results
  depthlm eval vsi-bench results/*/result.jsonl
"""
GALLERY = """\
Draw marked images with question, truth and answer, kinds in turn; frames are green where the answer is within 25%.
"""
GALLERY_EXAMPLES = """\
  depthlm eval gallery suites/rooms results/my-model/predictions.jsonl --out gallery.png --count 24
"""
PICTURES = """\
Draw contact_sheet.png and scatter.png of the best measured model among the results (or of --label), and loss.png of
its training.
"""
PICTURES_EXAMPLES = """\
  depthlm eval pictures suites/rooms --results results --trainer-state runs/model/trainer_state.json --out pictures
"""


def add(subparsers: Any) -> None:
    """Add ``depthlm eval`` to the command line."""
    parser = manual(
        subparsers, "eval", "Ask a model a suite's questions, score it, compare.", EVAL, "  depthlm eval run --help"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_run(actions)
    score = manual(actions, "score", "Score answers again.", SCORE, SCORE_EXAMPLES)
    score.add_argument("suite", type=Path, help="suite folder")
    score.add_argument("answers", type=Path, help="answers.jsonl")
    score.add_argument("--out", type=Path, help="folder of result.jsonl (default: the answers' folder)")
    score.set_defaults(run=score_answers)
    board = manual(actions, "leaderboard", "Compare results.", LEADERBOARD, LEADERBOARD_EXAMPLES)
    board.add_argument("results", type=Path, nargs="+", help="result.jsonl files, or folders with such files inside")
    board.add_argument("--out", type=Path, required=True, help="folder to write")
    board.set_defaults(run=leaderboard)
    vsi = manual(actions, "vsi-bench", "Show VSI-Bench results as its own table.", VSI, VSI_EXAMPLES)
    vsi.add_argument("results", type=Path, nargs="+", help="result.jsonl files of a VSI-Bench suite")
    vsi.set_defaults(run=vsi_table)
    gallery = manual(actions, "gallery", "Draw a contact sheet of answers.", GALLERY, GALLERY_EXAMPLES)
    gallery.add_argument("suite", type=Path, help="suite folder")
    gallery.add_argument("predictions", type=Path, help="predictions.jsonl of a run on that suite")
    gallery.add_argument("--out", type=Path, required=True, help="PNG to write")
    gallery.add_argument("--count", type=int, default=16, help="questions (default: 16)")
    gallery.set_defaults(run=draw_gallery)
    pictures = manual(
        actions, "pictures", "Draw contact sheet, scatter plot and loss curve.", PICTURES, PICTURES_EXAMPLES
    )
    pictures.add_argument("suite", type=Path, help="suite folder")
    pictures.add_argument("--results", type=Path, required=True, help="folder of runs, as `eval run --out` makes it")
    pictures.add_argument("--label", help="the run to draw (default: the best that is no baseline)")
    pictures.add_argument("--trainer-state", type=Path, help="trainer_state.json, for the loss curve")
    pictures.add_argument("--out", type=Path, required=True, help="folder to write")
    pictures.set_defaults(run=draw_pictures)


def _add_run(actions: Any) -> None:
    run = manual(actions, "run", "Ask a model and score it.", RUN, RUN_EXAMPLES)
    run.add_argument("suite", type=Path, help="suite folder")
    what = run.add_argument_group("what answers")
    what.add_argument("--model", metavar="DIR|NAME", help="model for vLLM, or the name at the endpoint")
    what.add_argument("--adapter", metavar="DIR", help="LoRA adapter served on top of --model")
    what.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible interface, e.g. http://localhost:8000/v1")
    what.add_argument("--baseline", metavar="NAME", help="constant:VALUE, best-constant, random or truth")
    what.add_argument("--max-model-len", type=int, help="longest prompt plus answer of the started vLLM, tokens")
    how = run.add_argument_group("how it is asked")
    how.add_argument("--concurrency", type=int, default=16, help="questions under way at once (default: 16)")
    how.add_argument("--max-tokens", type=int, default=256, help="longest answer, tokens (default: 256)")
    how.add_argument("--timeout", type=float, default=120.0, help="seconds for one attempt (default: 120)")
    how.add_argument("--attempts", type=int, default=5, help="attempts per question (default: 5)")
    how.add_argument("--limit", type=int, help="only so many questions, evenly spaced; counts as another suite")
    how.add_argument(
        "--request-json",
        default="{}",
        metavar="JSON",
        help="more fields of each request; null removes one, e.g. '{\"temperature\": null}'",
    )
    where = run.add_argument_group("where it is written")
    where.add_argument("--out", type=Path, required=True, help="folder of results; the run's own is made in it")
    where.add_argument("--label", help="the run's name on the leaderboard (default: the model's name)")
    where.add_argument("--fresh", action="store_true", help="throw away the answers of an earlier run of this name")
    run.set_defaults(run=run_suite)


def run_suite(args: argparse.Namespace) -> int:
    """``depthlm eval run``."""
    from depthlm.suite import read_suite
    from eval.ask import limit_suite

    if args.baseline and (args.model or args.endpoint or args.adapter):
        raise DepthLMError("--baseline", "goes with neither --model, --adapter nor --endpoint", "give one of them")
    if args.endpoint and args.adapter:
        raise DepthLMError("--adapter", "is loaded by a vLLM started here, not by an endpoint", "drop one of them")
    if not (args.baseline or args.model or args.endpoint):
        raise DepthLMError("eval run", "nothing to ask", "give --model, --endpoint or --baseline")
    suite = limit_suite(read_suite(args.suite), args.limit)
    if args.baseline:
        from eval.engines.baselines import make_baseline

        return _ask_and_score(args, suite, make_baseline(args.baseline, suite), {"baseline": True})
    if args.endpoint:
        return _ask_and_score(args, suite, _endpoint(args, args.endpoint, args.model), {})
    return _run_vllm(args, suite)


def _endpoint(args: argparse.Namespace, url: str, model: str | None) -> Engine:
    from eval.engines.endpoint import EndpointEngine

    try:
        extra = json.loads(args.request_json)
    except ValueError as error:
        raise DepthLMError("--request-json", f"is no JSON: {error}", "e.g. '{\"top_p\": 1}'") from error
    if not isinstance(extra, dict):
        raise DepthLMError("--request-json", "is no object", "e.g. '{\"top_p\": 1}'")
    settings = {"max_tokens": args.max_tokens, "timeout_s": args.timeout, "attempts": args.attempts, "extra": extra}
    return EndpointEngine(url, model, **settings)


def _run_vllm(args: argparse.Namespace, suite: Suite) -> int:
    """Start vLLM for a model, unless every question has its answer already."""
    from depthlm.serving.vllm_process import VLLMServer
    from eval.provenance import fingerprint

    images = max(len(item.images) for item in suite.items)
    server = VLLMServer(
        args.model,
        adapter=args.adapter,
        max_model_len=args.max_model_len,
        images_per_prompt=images,
        log=_folder(args, args.label or _name(args)) / "vllm.log",
        on_progress=lambda seconds, line: print(f"waiting for vLLM, {seconds:.0f} s: {line[:120]}", file=sys.stderr),
    )
    folders = [Path(folder) for folder in (server.model, server.adapter) if folder and Path(folder).is_dir()]
    more = {"fingerprint": "-".join(fingerprint(folder) for folder in folders) or None}
    planned = _endpoint(args, "http://localhost", server.model_name)
    if not args.fresh and _complete(_folder(args, args.label or _name(args)) / "answers.jsonl", suite, planned, more):
        print("every question has its answer; vLLM is not started", file=sys.stderr)
        return _score(args, suite, _folder(args, args.label or _name(args)))
    with server:
        return _ask_and_score(args, suite, _endpoint(args, server.base_url, server.model_name), more)


def _name(args: argparse.Namespace) -> str:
    """What a run is called when it has no label: its model's last folder or its hub name."""
    source = args.adapter or args.model
    return Path(source).resolve().name if Path(source).is_dir() else str(source)


def _complete(path: Path, suite: Suite, engine: Engine, more: dict[str, Any]) -> bool:
    """Whether all answers of exactly this run are there."""
    from eval.answer_file import IDENTITY, read_answers
    from eval.ask import make_header

    if not path.is_file():
        return False
    try:
        answers = read_answers(path)
    except DepthLMError:  # asking will say what is wrong with it, or mend it
        return False
    header = make_header(suite, engine, **more)
    same = all(answers.header.get(key) == header.get(key) for key in IDENTITY)
    return same and all(item.id in answers.texts for item in suite.items)


def _folder(args: argparse.Namespace, label: str) -> Path:
    return args.out / (re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.") or "model")


def _ask_and_score(args: argparse.Namespace, suite: Suite, engine: Engine, more: dict[str, Any]) -> int:
    from eval.ask import ask_suite

    label = args.label or (_name(args) if args.model else engine.model)
    folder = _folder(args, label or "endpoint")
    if args.fresh:
        (folder / "answers.jsonl").unlink(missing_ok=True)
    header = {**more, **({"label": label} if label else {})}
    summary = ask_suite(suite, engine, folder / "answers.jsonl", args.concurrency, header=header)
    status = _score(args, suite, folder)
    for name, reason in list(summary.failures.items())[:10]:
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if summary.failures:
        print(f"{len(summary.failures)} questions have no answer; run the same again to ask them", file=sys.stderr)
        return 1
    return status


def _score(args: argparse.Namespace, suite: Suite, folder: Path) -> int:
    from eval.answer_file import read_answers
    from eval.score import write_result

    answers = read_answers(folder / "answers.jsonl")
    if args.label:
        answers.header["label"] = args.label
    _report(write_result(suite, answers, folder), folder, str(answers.header.get("label") or answers.header["model"]))
    return 0


def _report(row: dict[str, Any], folder: Path, label: str) -> None:
    name = "delta1" if "delta1" in row else "score"
    delta = row[name]
    print(f"{label}: {name} {delta['value']:.3f} ({delta['low']:.3f} to {delta['high']:.3f}), {row['n']} questions, "
          f"{row['unparsable']} unparsable, {row['missing']} missing -> {folder / 'result.jsonl'}")  # fmt: skip


def score_answers(args: argparse.Namespace) -> int:
    """``depthlm eval score``."""
    from depthlm.suite import read_suite
    from eval.answer_file import read_answers
    from eval.ask import limit_suite
    from eval.score import write_result

    answers = read_answers(args.answers)
    suite = limit_suite(read_suite(args.suite), answers.header.get("limit"))
    out = args.out or args.answers.parent
    _report(write_result(suite, answers, out), out, str(answers.header.get("label") or answers.header["model"]))
    return 0


def leaderboard(args: argparse.Namespace) -> int:
    """``depthlm eval leaderboard``."""
    from eval.leaderboard import write_leaderboard

    for path in write_leaderboard(args.results, args.out):
        print(path)
    return 0


def vsi_table(args: argparse.Namespace) -> int:
    """``depthlm eval vsi-bench``."""
    from eval.jsonl import read_lines
    from eval.vsi_bench import table

    found = []
    for path in args.results:
        header, *rows = read_lines(path)
        if not rows or "score" not in rows[0]:
            raise DepthLMError(path, "is no result of a VSI-Bench suite", "make one: depthlm data vsi-bench")
        found.append((str(header["label"]), rows))
    print(table(found), end="")
    return 0


def draw_gallery(args: argparse.Namespace) -> int:
    """``depthlm eval gallery``."""
    from depthlm.suite import read_suite
    from eval.gallery import contact_sheet

    print(contact_sheet(read_suite(args.suite), args.predictions, args.out, args.count))
    return 0


def draw_pictures(args: argparse.Namespace) -> int:
    """``depthlm eval pictures``."""
    from depthlm.suite import read_suite
    from eval.gallery import contact_sheet
    from eval.plots import loss_plot, scatter_plot
    from eval.results import read_result

    suite = read_suite(args.suite)
    found = {path: read_result(path) for path in sorted(args.results.glob("*/result.jsonl"))}
    found = {p: r for p, r in found.items() if r.header["suite_hash"].startswith(suite.hash)}
    wanted = {p: r for p, r in found.items() if r.header["label"] == args.label or not args.label}
    if not wanted:
        known = ", ".join(sorted({str(r.header["label"]) for r in found.values()}))
        raise DepthLMError(
            args.results,
            f"holds no result {args.label or ''} on {suite.name} ({suite.hash})",
            f"there are: {known or 'none'}",
        )
    path = max(wanted, key=lambda p: (wanted[p].origin == "model", wanted[p].delta1))
    title = f"{wanted[path].header['label']} on {wanted[path].header['suite']}"
    predictions = path.parent / "predictions.jsonl"
    print(contact_sheet(suite, predictions, args.out / "contact_sheet.png", title=title))
    print(scatter_plot(predictions, args.out / "scatter.png", title))
    if args.trainer_state:
        print(loss_plot(args.trainer_state, args.out / "loss.png"))
    return 0
