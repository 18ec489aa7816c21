"""``depthlm eval run``: which engine asks, how, and what is written where."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depthlm.errors import DepthLMError
from depthlm.models.asked_as import read_asked_as
from depthlm.suite import Suite, read_suite
from eval.answer_file import read_answers
from eval.ask import limit_suite
from eval.one_run import SHOWN_FAILURES, OneRun, folder_name

# What answers, by the argument that names it; --model beside --endpoint is a name there.
ANSWERERS = ("baseline", "endpoint", "maps", "depth_model", "model")
# Arguments of one way to ask, which would be of no effect on another.
OF_TRANSPORT = ("timeout", "attempts", "encoding")
OF_HTTP = (*OF_TRANSPORT, "request_json")
OF_LOCAL = ("adapter", "engine", "vllm_args", "max_model_len", "batch", "parity")
OF_MODELS = ("profile", "max_tokens", "samples", "logprobs", "per_conversation")
BATCH, MILLIMETRE = 64, 0.001
REFERENCE = "transformers"
# A server that was started here does not come back once it has ended.
PATIENCE_S = 20.0


def run(args: argparse.Namespace) -> int:
    """Carry out ``depthlm eval run``; the exit status.

    Raises:
        DepthLMError: arguments that don't go together, or what asking and scoring raise.
    """
    what = _check(args)
    suite = limit_suite(read_suite(args.suite), args.parity or args.limit)
    if what == "baseline":
        from eval.engines.baselines import make_baseline

        asked = OneRun(args, suite, args.label)
        return asked.ask(make_baseline(args.baseline, suite), {"origin": "baseline", "engine": "baseline"})
    if what in ("maps", "depth_model"):
        return _expert(args, suite)
    if what == "endpoint":
        asked = OneRun(args, suite, args.label or args.model, (args.model,) if args.model else ())
        return asked.ask(asked.endpoint(args.endpoint, args.model), {"engine": "endpoint"})
    if args.parity:
        return _parity(args, suite)
    return _local(args, suite, args.engine or "vllm", args.label)


def _check(args: argparse.Namespace) -> str:
    """What answers, once the arguments go together."""
    named = [name for name in ANSWERERS if getattr(args, name)]
    if not named:
        raise DepthLMError("eval run", "nothing to ask", "give --model, --endpoint, --maps, … or --baseline")
    if len(named) > 1 and named != ["endpoint", "model"]:
        both = " and ".join(f"--{name.replace('_', '-')}" for name in named)
        raise DepthLMError("eval run", f"{both} both name what answers", "give one of them")
    what = named[0]
    served = what == "endpoint" or (what == "model" and (args.engine or "vllm") == "vllm")
    useless = [*(() if served else OF_HTTP), *(() if what == "model" else OF_LOCAL)]
    useless += () if what in ("model", "endpoint") else OF_MODELS
    if what == "model":
        useless += ["batch"] if served and not args.parity else []
        useless += ["vllm_args", "max_model_len"] if args.engine == REFERENCE else []
    useless += [] if what == "maps" else ["map_unit"]
    for name in useless:
        if getattr(args, name) not in (None, False):
            by = f"--engine {args.engine}" if what == "model" and args.engine else f"--{what.replace('_', '-')}"
            raise DepthLMError(f"--{name.replace('_', '-')}", f"has no effect on {by}", "drop one of them")
    if (args.samples or 1) > 1 and args.logprobs:
        raise DepthLMError("--logprobs", "is of one answer, not of --samples", "drop one of them")
    if args.parity:
        _check_parity(args)
    return what


def _check_parity(args: argparse.Namespace) -> None:
    """Refuse what only one of the two engines would be asked with; OF_TRANSPORT changes no question."""
    if (args.samples or 1) > 1 or args.engine == REFERENCE:
        mend = "give --engine vllm or vllm-offline, without --samples"
        raise DepthLMError("--parity", f"compares greedy answers with those of {REFERENCE}", mend)
    if args.request_json is not None:
        reason = f"changes what the server is asked, and --parity compares it with {REFERENCE}, which is asked without"
        raise DepthLMError("--request-json", reason, "drop one of them")
    if args.limit is not None:
        raise DepthLMError("--limit", "has no effect on --parity, which says how many it asks", "drop one of them")


def _name(args: argparse.Namespace) -> str:
    """What a run is called when it has no label: its model's last folder or its hub name."""
    source = args.adapter or args.model
    return Path(source).resolve().name if Path(source).is_dir() else str(source)


def _local(args: argparse.Namespace, suite: Suite, kind: str, label: str | None) -> int:
    """Ask a model that is run here, unless every question has its answer already."""
    from depthlm.models.loading import adapter_base, is_adapter, resolve
    from eval.provenance import fingerprint

    model, adapter = args.model, args.adapter
    if adapter is None and is_adapter(model):
        model, adapter = adapter_base(model), model
    models = tuple(found for found in (adapter, resolve(model)) if found)
    asked = OneRun(args, suite, label or _name(args), models)
    _warn_of_training(suite, models)
    prints = [fingerprint(Path(folder)) for folder in models if Path(folder).is_dir()]
    server_settings = {name: getattr(args, name) for name in ("vllm_args", "max_model_len") if getattr(args, name)}
    engine = kind if not server_settings else f"{kind} {server_settings}"
    more = {"engine": engine, "fingerprint": "-".join(prints) or None}
    if kind == REFERENCE:
        return _by_transformers(asked, model, adapter, more)
    return _by_vllm(asked, kind, model, adapter, more)


def _by_transformers(asked: OneRun, model: str, adapter: str | None, more: dict[str, Any]) -> int:
    from eval.engines.transformers_engine import TransformersEngine

    batch = asked.args.batch or BATCH
    engine = TransformersEngine(model, _name(asked.args), adapter=adapter, batch=batch, **asked.answers)
    return _nothing_to_ask(asked, engine.model) if asked.complete(engine, more) else asked.ask(engine, more, batch)


def _by_vllm(asked: OneRun, kind: str, model: str, adapter: str | None, more: dict[str, Any]) -> int:
    from depthlm.serving.vllm_process import VLLMServer
    from eval.engines.vllm_offline import VLLMOfflineEngine, unseeded

    args = asked.args
    log = args.out / folder_name(str(asked.label)) / "vllm.log"
    server = VLLMServer(
        model,
        adapter=adapter,
        max_model_len=args.max_model_len,
        images_per_prompt=max(item.image_count for item in asked.suite.items),
        extra_args=shlex.split(args.vllm_args or ""),
        log=log,
    )
    if kind == "vllm-offline":
        batch = args.batch or BATCH
        engine = VLLMOfflineEngine(server, batch=batch, **asked.answers)
        return _nothing_to_ask(asked, engine.model) if asked.complete(engine, more) else asked.ask(engine, more, batch)
    how = {"encoding": "bmp", "seeded": not unseeded(server, args.samples or 1), "patience_s": PATIENCE_S}
    if asked.complete(asked.endpoint("http://localhost", server.model_name, **how), more):
        return _nothing_to_ask(asked, server.model_name)
    with server:
        try:
            return asked.ask(asked.endpoint(server.base_url, server.model_name, **how), more)
        except DepthLMError as error:
            if error.kind == "endpoint fails":
                raise DepthLMError(error.where, error.reason, f"see {log}, and run again", error.kind) from error
            raise


def _expert(args: argparse.Namespace, suite: Suite) -> int:
    """Ask depth maps: those of a folder, or those that a depth model predicts first."""
    from eval.dense import add_dense
    from eval.depth_maps import MapFolder
    from eval.engines.depth_map import DepthMapEngine, predict_maps
    from eval.provenance import fingerprint, map_fingerprint

    label = args.label or Path(args.maps or args.depth_model).name
    asked = OneRun(args, suite, label)
    folder, notes = Path(args.maps or ""), []
    if args.depth_model:
        # predictions of other weights, or for another suite's frames, are never taken for these
        source = Path(args.depth_model)
        of = fingerprint(source) if source.is_dir() else folder_name(args.depth_model)
        folder = asked.folder(label) / "maps" / f"{suite.hash}-{of}"
        if args.fresh:
            shutil.rmtree(folder.parent, ignore_errors=True)
        notes = [note for note in [predict_maps(suite, args.depth_model, folder)] if note]
    maps = MapFolder(folder, args.map_unit or MILLIMETRE)
    more = {"origin": "expert", "engine": "maps", "notes": notes, "fingerprint": map_fingerprint(folder)}
    status = asked.ask(DepthMapEngine(suite, label, maps), more)
    if count := add_dense(suite, maps, asked.folder(label)):
        print(f'{count} whole maps scored too: rows "dense" of result.jsonl, and dense.jsonl')
    return status


def _nothing_to_ask(asked: OneRun, model: str) -> int:
    print("every question has its answer; the model is not started", file=sys.stderr)
    asked.score(asked.folder(model))
    return 0


def _warn_of_training(suite: Suite, models: Sequence[str | Path]) -> None:
    """Say where a suite asks otherwise than the model was trained."""
    trained = next((found for model in models if (found := read_asked_as(model)) is not None), None)
    for name in ("intrinsics", "pointing"):
        asked = suite.settings.get(name)
        if trained is not None and asked not in (None, getattr(trained, name)):
            print(f"note: {suite.name} asks with {name} {asked}, the model was trained with {getattr(trained, name)}",
                  file=sys.stderr)  # fmt: skip


def _parity(args: argparse.Namespace, suite: Suite) -> int:
    """The same questions by two engines, asked anew; 1 where an answer differs."""
    engine, label, said = args.engine or "vllm", args.label or _name(args), []
    for kind in (engine, REFERENCE):
        only = {"vllm_args": None, "max_model_len": None} if kind == REFERENCE else {}
        these = argparse.Namespace(**{**vars(args), **only, "fresh": True})
        name = f"{label} ({kind})"
        if status := _local(these, suite, kind, name):
            return status
        said.append(read_answers(args.out / folder_name(name) / "answers.jsonl").texts)
    one, other = said
    differ = [item for item in suite.items if one[item.id] != other[item.id]]
    for item in differ[:SHOWN_FAILURES]:
        print(f"{item.id}: {engine} {one[item.id]!r}, {REFERENCE} {other[item.id]!r}, true {item.truth:.2f}")
    print(f"parity: {len(suite.items) - len(differ)} of {len(suite.items)} answers are the same")
    return 1 if differ else 0
