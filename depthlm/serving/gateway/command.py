"""``depthlm serve``: a gateway, and the vLLM behind it."""

from __future__ import annotations

import argparse
import gc
import ipaddress
import logging
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.cli import manual, positive, positive_float
from depthlm.errors import DepthLMError
from depthlm.profiles import PROFILES
from depthlm.serving.ports import free_port

if TYPE_CHECKING:
    from depthlm.serving.gateway.pages import Settings
    from depthlm.serving.gateway.upstream import Upstream

logger = logging.getLogger(__name__)

SUMMARY = "Serve a model: chat with marked points, and measurements."
DESCRIPTION = """\
Starts vLLM and in front of it an OpenAI-compatible gateway: chat requests whose
images carry points and a camera, typed measurements, /docs, /healthz, /metrics.
vLLM listens on this machine alone, and is started again when it dies.

API keys come from --api-keys-file, one a line, or from the environment variable
DEPTHLM_API_KEYS, separated by commas. Without any, everybody who reaches the
address may ask.
"""
EXAMPLES = """\
  depthlm serve runs/mine/model
  depthlm serve Qwen/Qwen2.5-VL-3B-Instruct --adapter runs/mine/adapter --port 9000
  depthlm serve runs/mine/model --host 0.0.0.0 --api-keys-file keys.txt
  depthlm serve runs/mine/model --upstream http://gpu-box:8000/v1
"""
MIB = 1 << 20
GRACE_S = 10


def add(subparsers: Any) -> None:
    """Add ``depthlm serve``."""
    parser = manual(subparsers, "serve", SUMMARY, DESCRIPTION, EXAMPLES)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder, hub name or nano; of an adapter its folder")
    parser.add_argument("--adapter", metavar="DIR", help="LoRA adapter on top of MODEL")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on (default: 8000)")
    how = parser.add_argument_group("how the model is asked")
    how.add_argument("--profile", metavar="NAME", help=f"one of: {', '.join(PROFILES.names())}")
    how.add_argument("--encoder", metavar="DIR", help="spatial encoder that tells unknown cameras")
    limits = parser.add_argument_group("who may ask, and how much")
    limits.add_argument("--api-keys-file", type=Path, metavar="FILE", help="API keys, one a line")
    limits.add_argument("--allow-remote-images", action="store_true", help="fetch images from public addresses")
    limits.add_argument("--max-body-mib", type=positive, default=32, help="largest request, MiB (default: 32)")
    limits.add_argument("--max-megapixels", type=positive_float, default=40, help="largest image (default: 40)")
    limits.add_argument(
        "--concurrency-per-key", type=positive, default=64, help="most requests under way of one key (default: 64)"
    )
    limits.add_argument("--queue", type=positive, default=256, help="most requests under way in all (default: 256)")
    limits.add_argument("--timeout", type=positive_float, default=120, help="seconds for an answer (default: 120)")
    server = parser.add_argument_group("the server behind it")
    server.add_argument("--vllm-args", metavar="ARGS", help="more arguments of vLLM, e.g. '--data-parallel-size 4'")
    server.add_argument("--max-model-len", type=positive, metavar="N", help="longest prompt plus answer, tokens")
    server.add_argument("--images-per-prompt", type=positive, default=4, help="most images of a request (default: 4)")
    server.add_argument("--upstream", metavar="URL", help="a server that runs already, where MODEL is served")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """``depthlm serve``.

    Raises:
        DepthLMError: bad arguments, packages that are missing, or a model that can't be served.
    """
    import cv2

    try:
        import uvicorn

        from depthlm.serving.gateway.app import make_app
    except ImportError as error:
        raise DepthLMError("depthlm serve", f"needs {error.name}", "pip install 'depthlm[serve]'") from error
    upstream, models = _upstream(args)
    settings = _settings(args, models)
    warn_if_open(args.host, bool(settings.keys))
    free_port(args.host, args.port)  # told before vLLM's slow start
    failures: list[DepthLMError] = []

    def fail(error: DepthLMError) -> None:
        failures.append(error)
        server.should_exit = True

    trusted = os.environ.get("FORWARDED_ALLOW_IPS")
    config = uvicorn.Config(
        make_app(settings, upstream, fail),
        host=args.host,
        port=args.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        # who a client is counts for the limits: only a proxy that the operator names may say so
        proxy_headers=trusted is not None,
        forwarded_allow_ips=trusted or "",
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=64 << 10,
    )
    server = uvicorn.Server(config)
    cv2.setNumThreads(1)  # requests are drawn side by side already
    gc.collect()
    gc.freeze()  # what was loaded so far stays: with each look of the collector it would be gone through again
    logger.info("the gateway listens on http://%s:%d; /healthz tells when the model answers", args.host, args.port)
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn ends in good order, then says again what it was told
        logger.info("stopped")
    if failures:
        raise failures[0]
    return 0 if server.started else 2


def _upstream(args: argparse.Namespace) -> tuple[Upstream, list[str]]:
    """The server behind, and by what folders or names its profile is known."""
    from depthlm.models.loading import adapter_base, is_adapter, resolve
    from depthlm.serving.endpoint import API_KEY_VARIABLE, checked_address
    from depthlm.serving.gateway.own_server import OwnServer
    from depthlm.serving.gateway.upstream import Upstream
    from depthlm.serving.vllm_process import VLLMServer

    if args.upstream:
        for name in ("adapter", "vllm_args", "max_model_len"):
            if getattr(args, name):
                option = "--" + name.replace("_", "-")
                raise DepthLMError(option, "is of no use with --upstream", "give it to that server")
        known = resolve(args.model) if args.model else ""
        name = Path(known).resolve().name if Path(known).is_dir() else known
        return Upstream(checked_address(args.upstream), name, os.environ.get(API_KEY_VARIABLE, "")), [known]
    if not args.model:
        raise DepthLMError("MODEL", "is not given", "give a folder, a hub name, or --upstream URL")
    model, adapter = args.model, args.adapter
    if adapter is None and is_adapter(model):
        model, adapter = adapter_base(model), model
    extra = shlex.split(args.vllm_args or "")

    def make() -> VLLMServer:
        return VLLMServer(
            model,
            adapter=adapter,
            max_model_len=args.max_model_len,
            images_per_prompt=args.images_per_prompt,
            extra_args=extra,
        )

    own = OwnServer(make)
    return own, [name for name in (adapter, make().model) if name]


def _settings(args: argparse.Namespace, models: list[str]) -> Settings:
    from depthlm.serving.endpoint import is_loopback
    from depthlm.serving.gateway.limits import read_keys
    from depthlm.serving.gateway.pages import Settings
    from depthlm.serving.spatial_model import how_to_ask

    asked_as, notes = how_to_ask(models, args.profile)
    logger.info("asked by the profile %s", asked_as.profile)
    for note in notes:
        logger.warning("note: %s", note)
    return Settings(
        asked_as,
        notes,
        args.encoder,
        read_keys(args.api_keys_file),
        args.allow_remote_images,
        max_body=args.max_body_mib * MIB,
        max_pixels=int(args.max_megapixels * 1e6),
        images=args.images_per_prompt,
        per_client=args.concurrency_per_key,
        queue=args.queue,
        timeout_s=args.timeout,
        # BMP costs least, on this machine; whatever serves elsewhere knows PNG, and the way there is narrower
        encoding="bmp" if not args.upstream or is_loopback(args.upstream) else "png",
    )


def warn_if_open(host: str, keys: bool) -> None:
    """Warn of an address that others reach, when nobody needs a key."""
    try:
        inside = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside and not keys:
        logger.warning("warning: %s is open to the network and no API keys are set: everybody may ask", host)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)
