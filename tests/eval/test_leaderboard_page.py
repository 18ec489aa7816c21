"""The leaderboard's page in a real browser: it sorts, filters, fits the window and has nothing to complain about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from result_files import result, result_row, vsi_result

from eval.leaderboard import write_leaderboard

# What of a selector's elements a user can see.
SHOWN = "window.shown = (css, root = document) => [...root.querySelectorAll(css)].filter((e) => e.checkVisibility())"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite in two forms, one of two hashes, VSI-Bench; models, an expert, a baseline."""
    folder = tmp_path_factory.mktemp("board")
    more = [result_row("depth_range", "0-2 m", 0.8)]
    notes = {"nyu_v2": "Labels are 0.8 of the truth."}
    for form, digest in (("as-published", "aaa"), ("corrected", "bbb")):
        fields = {"form": form, "digest": digest, "footnotes": notes, "more": more}
        result(
            folder / form / "1" / "result.jsonl",
            "nano",
            0.7,
            **fields,
            notes=["asked by a general profile"],
            questions_per_s=6.4,
        )
        result(folder / form / "2" / "result.jsonl", "Zebra", 0.08, **fields, questions_per_s=12)
        result(folder / form / "3" / "result.jsonl", "network", 0.9, **fields, origin="expert", questions_per_s=None)
        result(folder / form / "4" / "result.jsonl", "guess", 0.2, **fields, baseline=True, questions_per_s=110)
    result(folder / "old" / "result.jsonl", "old", 0.5, suite="streets", digest="ccc")
    result(folder / "new" / "result.jsonl", "<b>new</b>", 0.5, suite="streets", digest="ddd")
    vsi_result(folder / "vsi" / "result.jsonl", "seer", 0.4)
    write_leaderboard([folder], folder / "out")
    return folder / "out" / "leaderboard.html"


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Iterator[Browser]:
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.open(page)
    chromium.run(SHOWN)
    yield chromium
    assert chromium.complaints == []
    assert set(chromium.requests) == {page.resolve().as_uri()}, "the page asks for nothing but itself"


def names(browser: Browser, table: str) -> list[str]:
    """The names in a table's first column, as they are shown."""
    return browser.run(f"shown('tbody th', document.getElementById('{table}').closest('figure')).map(e => e.dataset.v)")


def click(browser: Browser, table: str, column: str) -> str:
    """Click a column's head; returns its aria-sort."""
    heads = f"[...document.getElementById('{table}').closest('figure').querySelectorAll('thead th')]"
    head = f"{heads}.find(e => e.querySelector('button').textContent === '{column}')"
    browser.run(f"{head}.querySelector('button').click()")
    return browser.run(f"{head}.getAttribute('aria-sort')")


def choose(browser: Browser, **choices: str) -> None:
    """Choose in the filters as a user does."""
    for name, value in choices.items():
        browser.run(
            f"filters.{name}.value = '{value}'; filters.{name}.dispatchEvent(new Event('change', {{bubbles: true}}))"
        )


def sections(browser: Browser) -> list[str]:
    return browser.run("shown('section').map(e => e.id)")


def test_a_click_sorts_numbers_as_numbers_and_what_is_missing_last(browser):
    before = names(browser, "s1-t2")
    assert before[:4] == ["network", "nano", "guess", "zebra"], "best first, published rows after ours"
    assert click(browser, "s1-t2", "NYUv2") == "descending"
    down = names(browser, "s1-t2")
    assert down[:3] == ["network", "depthlm (7b)", "depthlm (3b)"] and down != before
    assert down.index("zebra") < down.index("zoedepth") and down[-1] != "zebra", "0.11 is a number, – is none"
    assert click(browser, "s1-t2", "NYUv2") == "ascending"
    up = names(browser, "s1-t2")
    assert up[0] == "zebra" and up[-8:] == down[-8:], "missing ones are last both ways"
    assert [name for name in up if name not in up[-8:]] == [name for name in down if name not in down[-8:]][::-1]
    assert click(browser, "s1-t2", "Model") == "ascending"
    by_name = names(browser, "s1-t2")
    assert sorted(by_name) == sorted(before) and [name[0] for name in by_name] == sorted(name[0] for name in before)
    assert browser.run("document.querySelectorAll('#s1 [aria-sort]').length") == 1
    assert names(browser, "s2-t2") == ["network", "nano", "guess", "zebra"], "other tables stay as they were"


def test_ten_is_more_than_nine(browser):
    table = "document.querySelector('#s1 .runs table')"
    order = f"[...{table}.querySelectorAll('tbody th')].map(e => e.dataset.v)"
    assert browser.run(order)[0] == "network", "it has no speed and is not last yet"
    press = f"[...{table}.querySelectorAll('thead button')].find(e => e.textContent === 'Questions/s').click()"
    browser.run(press)
    assert browser.run(order) == ["guess", "zebra", "nano", "network"]
    browser.run(press)
    assert browser.run(order) == ["nano", "zebra", "guess", "network"]


def test_what_is_better_low_starts_with_the_lowest(browser):
    assert click(browser, "s1-t3", "AbsRel ↓") == "ascending"
    assert names(browser, "s1-t3") == ["network", "nano", "guess", "zebra"]
    assert click(browser, "s1-t3", "AbsRel ↓") == "descending"
    assert names(browser, "s1-t3") == ["zebra", "guess", "nano", "network"]


def test_the_keyboard_sorts_too(browser):
    browser.run("document.querySelectorAll('#s2-t2')[0].closest('figure').querySelector('thead button').focus()")
    browser.press("Enter")
    assert names(browser, "s2-t2") == ["guess", "nano", "network", "zebra"]
    browser.press("Tab")
    browser.press("Space")
    assert browser.run("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    assert names(browser, "s2-t2") == ["network", "nano", "guess", "zebra"]


def test_the_suite_filter_leaves_one_section(browser):
    assert sections(browser) == ["s1", "s2", "s3", "s4", "s5", "reference"]
    options = browser.run("[...filters.suite.options].map(e => e.textContent)")
    assert options[1:3] == ["rooms · as-published · aaa", "rooms · corrected · bbb"]
    assert options[3:5] == ["streets · ccc", "streets · ddd"], "one name, two hashes: never one section"
    choose(browser, suite="s2")
    assert sections(browser) == ["s2"] and browser.run("filters.shown.value") == "1 of 6 sections"
    choose(browser, suite="")
    assert len(sections(browser)) == 6


def test_the_kind_filter_leaves_that_kind(browser):
    heads = "shown('thead th', document.getElementById('s2-t1').closest('figure')).map(e => e.innerText.trim())"
    assert browser.run(heads) == ["Model", "Distance", "Time", "Average"]
    choose(browser, kind="travel_time")
    assert browser.run(heads) == ["Model", "Time"]
    cells = "shown('tbody tr', document.getElementById('s2-t1').closest('figure')).map(e => shown('td', e).length)"
    assert browser.run(cells) == [1] * 4
    assert sections(browser) == ["s1", "s2", "s3", "s4", "reference"], "VSI-Bench asks no such question"
    titles = browser.run("shown('h3', document.getElementById('s2')).map(e => e.innerText)")
    assert titles == ["Time", "By question kind", "All metrics: Time", "By dataset: Time"]
    choose(browser, kind="Abs. Dist.")
    assert sections(browser) == ["s5"]
    choose(browser, kind="speed")
    assert sections(browser) == ["reference"], "nothing of ours is about speed"
    browser.run("filters.reset()")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert len(sections(browser)) == 6 and len(browser.run("shown('#s2 h3').map(e => 1)")) == 7


def test_another_filter_leaves_open_what_was_opened(browser):
    browser.run("document.querySelector('#s2 details.closer').open = true")
    browser.run("document.querySelector('[name=origin][value=baseline]').click()")
    assert browser.run("document.querySelector('#s2 details.closer').open")


@pytest.mark.parametrize(
    ("origin", "left"),
    [
        ("model", ["guess", "network"]),
        ("expert", ["guess", "nano", "zebra"]),
        ("baseline", ["nano", "network", "zebra"]),
        ("published", ["guess", "nano", "network", "zebra"]),
    ],
)
def test_the_origin_filter_hides_its_rows_and_no_others(browser, origin, left):
    browser.run(f"document.querySelector('[name=origin][value={origin}]').click()")
    ours = sorted(name for name in names(browser, "s1-t2") if name in ("guess", "nano", "network", "zebra"))
    assert ours == left
    assert ("depthlm (7b)" in names(browser, "s1-t2")) == (origin != "published")
    bars = browser.run("shown('.panel.wide .bar:not(.axis) span', document.getElementById('s1')).map(e => e.title)")
    assert sorted(name.lower() for name in bars) == left
    assert ("reference" in sections(browser)) == (origin != "published")
    assert ("s5" in sections(browser)) == (origin != "model"), "the only result of VSI-Bench is a model's"


def test_nothing_left_is_said(browser):
    browser.run("document.querySelectorAll('[name=origin]').forEach(e => e.click())")
    assert sections(browser) == [] and "nothing fits" in browser.run("filters.shown.value")


def test_published_rows_are_beside_one_form_only_and_the_other_says_why(browser):
    published = "[...document.querySelectorAll('section')].map(s => s.querySelectorAll('tr.published').length > 0)"
    assert browser.run(published) == [True, False, False, False, False, True]
    note = browser.run("document.querySelector('#s2 h2 sup a').getAttribute('href')")
    assert "as-published only" in browser.run(f"document.querySelector('{note}').innerText")
    mark = browser.run("document.querySelector('#s1 tr.published .mark').title")
    assert mark.startswith("Cai et al., DepthLM") and browser.run("document.querySelectorAll('b').length > 0")
    assert "<b>new</b>" in browser.run("document.querySelector('#s4 tbody th').innerText"), "a name is text"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_it_fits_the_window_and_intervals_are_drawn(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == width, "tables scroll, the page does not"
    whisker = browser.run(
        "(() => { const bar = document.querySelector('#s1 .bar svg');"
        " const [w, b] = ['.w', '.t'].map(css => bar.querySelector(css).getBoundingClientRect());"
        " return [(w.left - b.left) / b.width, (w.right - b.left) / b.width, w.height] })()"
    )
    assert whisker[:2] == pytest.approx([0.85, 0.95], abs=0.02) and whisker[2] > 5
    ink, paper = browser.run(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor].map("
        "c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3)"
    )
    assert (ink > paper) == dark and abs(ink - paper) > 150
    assert browser.run("[...document.querySelectorAll('select, #filters button')].every(e => e.offsetHeight >= 36)")


def test_a_script_that_fails_would_be_noticed(chromium, tmp_path):
    """Guards the guard: without it "no error" could mean that nobody listens."""
    (tmp_path / "bad.html").write_text("<script>console.error('one'); missing()</script>")
    chromium.complaints.clear()
    chromium.open(tmp_path / "bad.html")
    assert any("one" in text for text in chromium.complaints)
    assert any("missing is not defined" in text for text in chromium.complaints)
