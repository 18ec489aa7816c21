"""``depthlm eval run | score | compare | failures | images | leaderboard | vsi-bench | gallery | pictures``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from depthlm.cli import manual, not_negative, positive, positive_float
from depthlm.errors import DepthLMError
from depthlm.profiles import PROFILES
from depthlm.serving.chat_request import ENCODINGS

LOCAL_ENGINES = ("vllm", "vllm-offline", "transformers")

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
  --depth-model  a metric depth model of transformers (an expert): its map is read at the marked pixels
  --maps         the same of any depth model: a folder with FRAME.npy (metres) or FRAME.png (16 bit) for each image,
                 as `depthlm eval images SUITE` writes them
  --baseline     constant:VALUE, best-constant (knows the truths), random, truth

How the model is asked (focal length, marker, prompt) is its profile: what depthlm.json in its folder says, else what
its name or architecture tells, else the general one; --profile wins over all.

An endpoint's key is read from the environment variable DEPTHLM_API_KEY and written nowhere. Overload, server
errors and time-outs are tried again with growing waits; a question that still fails is listed, makes the exit
status 1, and is asked again by the next run.
"""
RUN_EXAMPLES = """\
  depthlm eval run suites/rooms --model runs/model --out results
  depthlm eval run suites/rooms --endpoint http://localhost:8000 --model my-model --out results
  depthlm eval run suites/rooms --model runs/model --samples 8 --label "model, 8 samples" --out results
  depthlm eval run suites/rooms --model runs/model --parity 50 --out parity
  depthlm eval run suites/rooms --baseline constant:2.0 --out results
"""
SCORE = """\
Score answers.jsonl against its suite and write predictions.jsonl and result.jsonl; asks nothing. Of use after a change
of the parser or the metrics, or for answers that came from elsewhere.
"""
SCORE_EXAMPLES = """\
  depthlm eval score suites/rooms results/my-model/answers.jsonl --out rescored
"""
COMPARE = """\
Print how much better A does than B on the suite that both answered: δ1 of each, the difference with its 95% interval
and p-value, who was right where the other was not, and how much nearer A's answers are; in total, and by question
kind, dataset, depth range, image region and field of view. Questions are paired, images resampled; of groups there is
also a p-value that is corrected for their number.
"""
COMPARE_EXAMPLES = """\
  depthlm eval compare results/tuned results/base
  depthlm eval compare results/tuned/result.jsonl results/base/result.jsonl --out comparison.json
"""
FAILURES = """\
Write one HTML page, which needs nothing else, of the answers that are farthest from the truth: the image as the model
saw it, the question, what was said and where the question belongs; with the share of wrong answers by kind, dataset,
depth range, image region and field of view above. Answers without a number stand apart, with their reasons.
"""
FAILURES_EXAMPLES = """\
  depthlm eval failures suites/rooms results/my-model --out failures.html
  depthlm eval failures suites/rooms results/my-model/predictions.jsonl --out failures.html --count 100
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
IMAGES = """\
Writes the original image of each frame that SUITE asks about as FRAME.jpg (or its own format), and cameras.json with
the intrinsics of each. Predict FRAME.npy for each, z in metres, and score them: depthlm eval run SUITE --maps DIR.
"""
IMAGES_EXAMPLES = """\
  depthlm eval images suites/rooms --out images
  depthlm eval run suites/rooms --maps predicted --label "my depth model" --out results
"""
GALLERY = """\
Draw marked images with question, truth and answer, kinds in turn; frames are green where the answer is within 25%.
"""
GALLERY_EXAMPLES = """\
  depthlm eval gallery suites/rooms results/my-model --out gallery.png --count 24
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
    images = manual(actions, "images", "Write a suite's images, for depth models of your own.", IMAGES, IMAGES_EXAMPLES)
    images.add_argument("suite", type=Path, help="suite folder")
    images.add_argument("--out", type=Path, required=True, help="folder to write")
    images.set_defaults(run=write_images)
    compare = manual(actions, "compare", "Compare two models on one suite.", COMPARE, COMPARE_EXAMPLES)
    compare.add_argument("a", type=Path, metavar="RESULT_A", help="a run's folder, or its result.jsonl")
    compare.add_argument("b", type=Path, metavar="RESULT_B", help="the same of the model that it is held against")
    compare.add_argument("--out", type=Path, metavar="FILE", help="write it too: Markdown (.md) or JSON (.json)")
    compare.set_defaults(run=compare_runs)
    failures = manual(actions, "failures", "Show the worst answers of a run.", FAILURES, FAILURES_EXAMPLES)
    failures.add_argument("suite", type=Path, help="suite folder")
    failures.add_argument("run_folder", type=Path, metavar="RUN", help="a run's folder, or its predictions.jsonl")
    failures.add_argument("--out", type=Path, required=True, metavar="FILE", help="HTML page to write")
    failures.add_argument("--count", type=int, default=50, help="most wrong answers to show (default: 50)")
    failures.set_defaults(run=show_failures)
    board = manual(actions, "leaderboard", "Compare results.", LEADERBOARD, LEADERBOARD_EXAMPLES)
    board.add_argument("results", type=Path, nargs="+", help="result.jsonl files, or folders with such files inside")
    board.add_argument("--out", type=Path, required=True, help="folder to write")
    board.set_defaults(run=leaderboard)
    vsi = manual(actions, "vsi-bench", "Show VSI-Bench results as its own table.", VSI, VSI_EXAMPLES)
    vsi.add_argument("results", type=Path, nargs="+", help="result.jsonl files of a VSI-Bench suite")
    vsi.set_defaults(run=vsi_table)
    gallery = manual(actions, "gallery", "Draw a contact sheet of answers.", GALLERY, GALLERY_EXAMPLES)
    gallery.add_argument("suite", type=Path, help="suite folder")
    gallery.add_argument("run_folder", type=Path, metavar="RUN", help="a run's folder, or its predictions.jsonl")
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
    what.add_argument("--adapter", metavar="DIR", help="LoRA adapter on top of --model")
    what.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible interface, e.g. http://localhost:8000/v1")
    what.add_argument("--depth-model", metavar="DIR|NAME", help="depth model of transformers")
    what.add_argument("--maps", type=Path, metavar="DIR", help="predicted depth maps")
    what.add_argument("--map-unit", type=positive_float, help="metres of a count in PNG maps (default: 0.001)")
    what.add_argument("--baseline", metavar="NAME", help="constant:VALUE, best-constant, random or truth")
    what.add_argument(
        "--engine", choices=LOCAL_ENGINES, help="what runs --model: a vLLM server that is started and "
        "stopped, vLLM in this process, or transformers, slow and the reference (default: vllm)",
    )  # fmt: skip
    what.add_argument("--max-model-len", type=positive, help="longest prompt plus answer of the started vLLM, tokens")
    what.add_argument(
        "--vllm-args",
        metavar="ARGS",
        help="more arguments of the started vLLM server, e.g. '--tensor-parallel-size 2 --data-parallel-size 4'",
    )
    what.add_argument("--batch", type=positive, help="most questions at once of an engine here (default: 64)")
    how = run.add_argument_group("how it is asked")
    how.add_argument("--profile", metavar="NAME", help=f"one of: {', '.join(PROFILES.names())}")
    how.add_argument("--concurrency", type=positive, help="questions under way at once (default: 32)")
    how.add_argument("--max-tokens", type=positive, help="longest answer, tokens (default: the profile's)")
    how.add_argument("--samples", type=positive, help="draw so many answers each: median and 90%% interval")
    how.add_argument("--logprobs", action="store_true", help="the interval from one answer's log-probabilities")
    how.add_argument(
        "--per-conversation",
        type=positive,
        help="most questions about an image in a conversation (default: 1)",
    )
    how.add_argument("--timeout", type=positive_float, help="seconds for one attempt (default: 120)")
    how.add_argument("--attempts", type=positive, help="attempts per question (default: 5)")
    how.add_argument("--limit", type=positive, help="only so many questions, evenly spaced; counts as another suite")
    how.add_argument(
        "--workers", type=not_negative, help="processes that draw images (default: half of the cores, 8 at most)"
    )
    how.add_argument("--encoding", choices=ENCODINGS, help="of images; all lossless (default: png, bmp to a vLLM here)")
    how.add_argument("--parity", type=positive, metavar="N", help="ask N questions with transformers too, and compare")
    how.add_argument(
        "--request-json",
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
    from eval.run import run

    return run(args)


def score_answers(args: argparse.Namespace) -> int:
    """``depthlm eval score``."""
    from depthlm.suite import read_suite
    from eval.answer_file import read_answers
    from eval.ask import limit_suite
    from eval.one_run import report
    from eval.score import write_result

    answers = read_answers(args.answers)
    suite = limit_suite(read_suite(args.suite), answers.header.get("limit"))
    out = args.out or args.answers.parent
    report(write_result(suite, answers, out), out, str(answers.header.get("label") or answers.header["model"]))
    return 0


def write_images(args: argparse.Namespace) -> int:
    """``depthlm eval images``."""
    from depthlm.suite import read_suite
    from eval.engines.depth_map import export_images

    print(f"{export_images(read_suite(args.suite), args.out)} images in {args.out}")
    return 0


def compare_runs(args: argparse.Namespace) -> int:
    """``depthlm eval compare``."""
    from eval.compare import compare, to_markdown, write_report

    report = compare(args.a, args.b)
    if args.out:
        write_report(report, args.out)
    print(to_markdown(report), end="")
    return 0


def show_failures(args: argparse.Namespace) -> int:
    """``depthlm eval failures``."""
    from depthlm.suite import read_suite
    from eval.failures import write_failures

    print(write_failures(read_suite(args.suite), args.run_folder, args.out, args.count))
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

    print(contact_sheet(read_suite(args.suite), args.run_folder, args.out, args.count))
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
    print(contact_sheet(suite, path.parent, args.out / "contact_sheet.png", title=title))
    print(scatter_plot(predictions, args.out / "scatter.png", title))
    if args.trainer_state:
        print(loss_plot(args.trainer_state, args.out / "loss.png"))
    return 0
