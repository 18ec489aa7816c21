"""A headless Chromium over its debugging pipe: pages are opened, read, clicked and photographed as a user would.

Needs no driver and no further package, only a Chromium: CHROMIUM names it, or one is found on the PATH.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell", "chrome-headless-shell")
FLAGS = (
    *("--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--hide-scrollbars", "--force-device-scale-factor=1"),
)
TIMEOUT_S = 60.0


def find_chromium() -> str | None:
    """Path of a Chromium, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a Chromium of its own.

    ``complaints`` collects what the console would show in red or yellow, ``requests`` every address that was asked for.
    """

    def __init__(self, program: str) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._id, self._session, self._loaded, self._buffer = 0, "", 0, b""
        from_browser, out = (_high(fd) for fd in os.pipe())
        into, to_browser = (_high(fd) for fd in os.pipe())
        # Chromium reads commands from descriptor 3 and writes to 4, each message ended by a zero byte.
        actions = [(os.POSIX_SPAWN_DUP2, into, 3), (os.POSIX_SPAWN_DUP2, out, 4)]
        actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        argv = [program, *FLAGS, f"--user-data-dir={self._folder.name}"]
        self._pid = os.posix_spawn(program, argv, os.environ, file_actions=actions, setpgroup=0)
        self._from, self._to = from_browser, to_browser
        for fd in (into, out):
            os.close(fd)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of this size and wait until it has loaded."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        seen = self._loaded
        self._call("Page.navigate", url=page.resolve().as_uri())
        while self._loaded == seen:
            self._take(self._receive())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        reply = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(reply["exceptionDetails"])
        return reply["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go."""
        fields = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **fields)
        self._call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def photograph(self, out: Path, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of the window."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        out.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the Chromium and what it started."""
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        for fd in (self._from, self._to):
            os.close(fd)
        self._folder.cleanup()

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            reply = self._receive()
            if reply.get("id") == self._id:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                return reply["result"]
            self._take(reply)

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise ConnectionError("Chromium has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _take(self, event: dict[str, Any]) -> None:
        method, params = event.get("method", ""), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])


def _high(fd: int) -> int:
    """The same pipe under a number that is none of those Chromium wants."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(fd)
    return high
