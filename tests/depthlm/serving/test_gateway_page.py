"""The page of the gateway's interface, in a browser: its examples run there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from gateway_runs import Model, Running

if TYPE_CHECKING:
    from browser import Browser

pytest.importorskip("playwright")
KEY = "k" * 20


def run_example(chromium: Browser, path: str) -> tuple[int, dict]:
    """Open a page's block, try its first example out: the answer's status and JSON."""
    block = chromium.page.locator(".opblock", has=chromium.page.locator(f'[data-path="{path}"]'))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table .response")
    status = int(answer.locator(".response-col_status").inner_text().split()[0])
    return status, json.loads(answer.locator(".highlight-code code").first.inner_text())


def test_examples_run_on_the_page(chromium: Browser, model: Model) -> None:
    with Running(model.url, keys=[KEY]) as running:
        chromium.open(running.url + "/docs")
        status, told = run_example(chromium, "/v1/spatial/measure")
        assert status == 401 and told["error"]["code"] == "invalid_api_key"
        complaints = [text for text in chromium.complaints if "401" not in text]
        chromium.complaints.clear()
        chromium.open(running.url + "/docs")
        chromium.page.locator(".auth-wrapper button.authorize").first.click()
        chromium.page.locator(".auth-container input").fill(KEY)
        chromium.page.locator(".auth-btn-wrapper button.authorize").click()
        chromium.page.locator(".auth-btn-wrapper button.btn-done").click()
        status, told = run_example(chromium, "/v1/spatial/measure")
        assert status == 200 and told["value"] == 3.25
        status, told = run_example(chromium, "/v1/chat/completions")
        assert status == 200 and told["choices"][0]["message"]["content"] == model.answer
        assert complaints + chromium.complaints == []
        outside = [url for url in chromium.requests if not url.startswith((running.url, "data:", "blob:"))]
        assert outside == [], "the page fetches nothing from elsewhere"
