"""`depthlm demo`: a web page on which a photo is dropped, clicked and measured."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from depthlm.cli import manual
from depthlm.errors import DepthLMError
from depthlm.models.asked_as import AskedAs
from depthlm.serving.answerers import LocalAnswerer, ServerAnswerer
from depthlm.serving.demo.actions import MAX_PIXELS, Actions
from depthlm.serving.demo.disk import Disk
from depthlm.serving.endpoint import ChatEndpoint, is_loopback
from depthlm.serving.ports import free_port
from depthlm.serving.spatial_model import SpatialModel, how_to_ask

logger = logging.getLogger(__name__)

MAX_FILE = "40mb"
# Visitors whose photo is kept in memory; the oldest are forgotten.
MOST_VISITORS = 256
# The 3D viewer tries WebGPU first, and complains where there is an interface and no device behind it: WebGL will do.
HEAD = "<script>delete Navigator.prototype.gpu;</script>"
DEMO = """\
Drop a photo or take an example, click one or two points, choose a question: the
answer comes with its 90% interval, the image as the model saw it and its own
words; and a point cloud of the whole photo, to turn and to take home. The camera
is read from the photo's EXIF, or set.

Nothing is fetched from outside and nothing is reported: the page works offline.
It asks for no password. On another --host than this machine's own, whoever
reaches the port can use the model.
"""
DEMO_EXAMPLES = """\
  depthlm demo
  depthlm demo --model runs/sft
  depthlm demo --model Qwen/Qwen2.5-VL-3B-Instruct --vllm
  depthlm demo --endpoint http://127.0.0.1:8000
"""


def add(subparsers: Any) -> None:
    """Add ``depthlm demo`` to the command line."""
    parser = manual(subparsers, "demo", "Measure in photos on a web page.", DEMO, DEMO_EXAMPLES)
    whom = parser.add_mutually_exclusive_group()
    whom.add_argument(
        "--model", default="nano", help="a model's or an adapter's folder or name, run in this process (default: nano)"
    )
    whom.add_argument("--endpoint", metavar="URL", help="a gateway (`depthlm serve`), or any OpenAI-compatible server")
    parser.add_argument("--vllm", action="store_true", help="run --model by vLLM, in a process of its own")
    parser.add_argument("--name", metavar="MODEL", help="which of the endpoint's models, where it serves several")
    parser.add_argument("--profile", help="how the model wants to be asked, where it doesn't tell")
    parser.add_argument("--encoder", metavar="DIR", help="spatial encoder that tells unknown cameras")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="(default: 7860; 0: any that is free)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serve the page until it is interrupted."""
    if args.vllm and args.endpoint:
        raise DepthLMError("--vllm", "starts a server for --model", "leave it out beside --endpoint")
    with ExitStack() as stack:
        # what a service manager ends it with: visitors' photos are thrown away then too
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        stack.callback(signal.signal, signal.SIGTERM, before)
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        address, names = args.endpoint, []
        if args.vllm:
            from depthlm.serving.vllm_process import VLLMServer

            server = stack.enter_context(VLLMServer(args.model))
            address, names = server.base_url, [str(name) for name in (server.adapter, server.model) if name]
        if address is None:
            opened = portal.call(open_local, args.model, args.profile, args.encoder)
        else:
            name = server.model_name if args.vllm else args.name
            opened = portal.call(open_endpoint, address, name, names, args.profile, args.encoder)
        stack.callback(portal.call, opened.answerer.close)
        url = stack.enter_context(serve_page(opened, portal, args.host, args.port))
        if not is_loopback(f"http://[{args.host}]" if ":" in args.host else f"http://{args.host}"):
            logger.warning("whoever reaches port %d of this machine can use the model", args.port)
        logger.info("%s measures at %s; Ctrl-C ends", opened.answerer.model, url)
        threading.Event().wait()


async def open_local(model: str, profile: str | None = None, encoder: str | None = None) -> SpatialModel:
    """A model (or adapter) that is run in this process, loaded.

    Raises:
        DepthLMError: it can't be loaded.
    """
    from depthlm.models.loading import adapter_base, is_adapter, resolve

    source, adapter = (adapter_base(model), model) if is_adapter(model) else (model, None)
    asked_as, notes = how_to_ask([name for name in (adapter, resolve(source)) if name], profile)
    answerer = LocalAnswerer(source, adapter)
    await answerer.start()
    return SpatialModel(answerer, asked_as, encoder, MAX_PIXELS, notes)


async def open_endpoint(
    url: str, name: str | None, models: list[str], profile: str | None = None, encoder: str | None = None
) -> SpatialModel:
    """A model behind a server. The markers are drawn here: so the page can show what the model saw, whoever serves it.

    Args:
        models: folders of the model, where they are at hand; they tell how it is asked.

    Raises:
        DepthLMError: nothing answers, or the model has to be named.
    """
    endpoint = ChatEndpoint(url, name, attempts=3, patience_s=5.0)
    await endpoint.start()
    told = await endpoint.get_json("/spatial") or {}
    if profile is None and told.get("object") == "spatial" and isinstance(told.get("profile"), str):
        known = {key: str(told[key]) for key in ("intrinsics", "pointing") if key in told}
        return SpatialModel(ServerAnswerer(endpoint), AskedAs(told["profile"], **known), encoder, MAX_PIXELS)
    asked_as, notes = how_to_ask(models or [endpoint.served_name or ""], profile)
    return SpatialModel(ServerAnswerer(endpoint), asked_as, encoder, MAX_PIXELS, notes)


@contextmanager
def serve_page(model: SpatialModel, portal: BlockingPortal, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve the page while the block runs; gives its address.

    Args:
        model: started inside ``portal``.

    Raises:
        DepthLMError: Gradio is not installed, or the port is taken.
    """
    port = free_port(host, port)
    with (
        tempfile.TemporaryDirectory(prefix="depthlm-demo-", ignore_cleanup_errors=True) as folder,
        _settings(disk := Disk(Path(folder))),
    ):
        try:
            import gradio as gr
            from starlette.middleware import Middleware

            from depthlm.serving.demo.http import Guard
            from depthlm.serving.demo.page import Page
        except ImportError as error:
            raise DepthLMError("gradio", "is not installed", "pip install 'depthlm[demo]'") from error
        blocks = Page(Actions(model, portal, disk), model.answerer.model).blocks
        disk.keep()
        # Gradio brings it along; of the weight between, 600, it brings only some letters
        font = gr.themes.LocalFont("IBM Plex Sans", (400, 700))
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            allowed_paths=[],
            max_file_size=MAX_FILE,
            state_session_capacity=MOST_VISITORS,
            theme=gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=[font, "sans-serif"]),
            css=(files("depthlm") / "assets" / "demo" / "demo.css").read_text(),
            head=HEAD,
            app_kwargs={"middleware": [Middleware(Guard, make_room=disk.make_room)]},
        )
        try:
            yield url
        finally:
            blocks.close(verbose=False)


@contextmanager
def _settings(disk: Disk) -> Iterator[None]:
    """Of Gradio, which reads them from the environment: no reports to anyone, and files where nobody else looks."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(disk.uploads),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    # it asks its own server once, which no proxy of the environment can reach
    around = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy", ""), "127.0.0.1", "localhost"]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, around))
    try:
        yield
    finally:  # another page of this process has a folder of its own
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
