"""A headless Chromium, driven by Playwright: pages are opened, read, clicked and photographed as a user would.

Playwright's own downloads are not needed: CHROMIUM names a Chromium, or one is found on the PATH.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell", "chrome-headless-shell")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")


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
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        self.page: Page = self._chromium.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.complaints.append(message.text)

    def open(self, page: Path | str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file or an address in a window of this size and wait until it has loaded."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.goto(page if isinstance(page, str) else page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.page.evaluate(script)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        self.page.keyboard.press(key)

    def photograph(self, out: Path, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of the window."""
        self.page.screenshot(path=out, full_page=whole)

    def close(self) -> None:
        """End the Chromium and what it started."""
        self._chromium.close()
        self._playwright.stop()
