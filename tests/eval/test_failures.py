"""Pictures as each model saw them, on suites of frames: the page of the worst answers, and the contact sheet."""

from __future__ import annotations

import base64
import io
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import encode_png, make_frame
from PIL import Image
from result_files import vsi_result
from suites import freeze_store

from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.store import write_shard
from depthlm.suite import Suite, read_suite
from depthlm.suite_view import SuiteView
from eval.answer_file import Answers
from eval.ask import limit_suite, make_header
from eval.commands import add
from eval.engines.baselines import make_baseline
from eval.failures import write_failures
from eval.gallery import contact_sheet
from eval.jsonl import read_lines
from eval.score import write_result

if TYPE_CHECKING:
    from browser import Browser

NASTY = "</script><script>alert('x')</script> <b>bold</b> & 'quoted' \"twice\""
COUNT = 48
DATASETS = ("cellar", "street")
COMMANDS = {"eval": lambda: add}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """A real suite: all kinds about six frames of two datasets, asked by nano's profile or Qwen's."""
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "store").mkdir()
    frames = [
        replace(make_frame(f"{view}", f"s{scene}", 1.5 * view), image=ramps(scene), dataset=DATASETS[scene % 2])
        for scene in range(3)
        for view in range(2)
    ]
    write_shard(folder / "store" / "frames-000000.parquet", frames)
    return freeze_store(folder / "store", folder / "suite", COUNT, also=["qwen2.5-vl"])[0]


def ramps(scene: int) -> bytes:
    """A 320x240 image without edges, so that JPEG and smaller sizes change little of it."""
    x, y = np.meshgrid(np.linspace(0, 200, 320), np.linspace(0, 200, 240))
    return encode_png(np.stack([x, y, np.full_like(x, 80 * scene)], axis=2).astype(np.uint8))


def answer(suite: Suite, out: Path, profile: str, **fields) -> Path:
    """A run: every third answer right, others off by growing factors; some refused, empty, negative or missing."""
    texts, spreads = {}, {}
    for i, item in enumerate(suite.items):
        factor = 1.0 if i % 3 == 0 else (1.3 + i / 10) ** (-1) ** i
        texts[item.id] = f"{item.truth * factor:.4f} {item.unit}"
        if i % 6 == 1:
            spreads[item.id] = [(f"{item.truth * factor * f:.4f}", 0.2) for f in (0.8, 0.9, 1.0, 1.1, 1.2)]
    names = [item.id for item in suite.items]
    texts |= {names[4]: NASTY, names[5]: "", names[9]: "-2", names[8]: "I can't tell."}
    del texts[names[10]]
    header = make_header(suite, make_baseline("truth", suite), profile, label="seer <i>", origin="model", **fields)
    answers = Answers(header, texts, spreads, errors={names[10]: "no answer in 5 attempts"})
    write_result(suite, answers, out, n_boot=10)
    return out


@pytest.fixture(scope="module")
def runs(frozen: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {profile: answer(frozen, folder / profile, profile) for profile in ("nano", "qwen2.5-vl")}


def cards(page: Path) -> list[str]:
    return re.findall(r"<article.*?</article>", page.read_text(), re.S)


def question_of(card: str) -> str:
    return re.search(r"<dt>Question</dt><dd>(.*?)</dd>", card)[1]


def pictures(card: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', card)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def factor_of(row: dict) -> float:
    return abs(math.log(row["value"] / row["truth"]))


def test_the_farthest_come_first_and_those_without_a_number_stand_apart(frozen, runs, tmp_path):
    page = write_failures(frozen, runs["nano"], tmp_path / "new" / "f.html", 12)
    rows = {row["id"]: row for row in read_lines(runs["nano"] / "predictions.jsonl")}
    numbers = [row for row in rows.values() if row["value"] is not None and row["value"] > 0]
    wrong = sorted((row for row in numbers if factor_of(row) >= math.log(1.25)), key=lambda row: -factor_of(row))
    found = [question_of(card) for card in cards(page)]
    assert found[:12] == [row["id"] for row in wrong[:12]] and len(wrong) > 12
    names = [item.id for item in frozen.items]
    assert found[12:] == [names[i] for i in (4, 5, 8, 9, 10)]
    text = page.read_text()
    assert f"{len(wrong) + 5} of {len(rows)} answers are wrong" in text and f"12 of {len(wrong)} wrong numbers" in text
    reasons = dict((reason, int(n)) for n, reason in re.findall(r"<li><b>(\d+)</b> (.*?)</li>", text))
    assert sum(reasons.values()) == 5 and reasons["not answered: no answer in 5 attempts"] == 1
    assert "not a positive number" in reasons


def test_a_card_says_what_was_asked_answered_and_where_it_belongs(frozen, runs, tmp_path):
    page = write_failures(frozen, runs["nano"], tmp_path / "f.html")
    rows = {row["id"]: row for row in read_lines(runs["nano"] / "predictions.jsonl")}
    view, of = SuiteView(frozen, "nano"), {item.id: item for item in frozen.items}
    with_interval = 0
    for card in cards(page):
        row, item = rows[question_of(card)], of[question_of(card)]
        plain = re.sub(r"<[^>]+>", "\n", card)
        assert view.show(item).texts[0] in plain and f"{item.truth:.2f} {item.unit}" in plain
        for name in ("dataset", "depth_range", "region", "fov"):
            assert row[name] is None or row[name] in plain, name
        assert ", ".join(item.frame_ids) in plain
        if row["value"] is not None and row["value"] > 0:
            ratio = row["value"] / row["truth"]
            assert re.search(rf"\d× too {'high' if ratio > 1 else 'low'}", plain)
        if row["bounds"]:
            with_interval += 1
            low, high = row["bounds"]["0.9"]
            assert f"{low:.2f} to {high:.2f} {item.unit}" in plain
            assert ("holds the truth" if low <= item.truth <= high else "misses the truth") in plain
    assert with_interval > 2


def test_what_a_model_says_is_text_and_never_markup(frozen, runs, tmp_path):
    text = write_failures(frozen, runs["nano"], tmp_path / "f.html").read_text()
    assert "alert(&#39;x" in text and "<script>alert" not in text and "<b>bold" not in text
    assert text.count("<script>") == text.count("</script>") == 1
    assert "seer &lt;i&gt;" in text and "seer <i>" not in text


@pytest.mark.parametrize("profile", ["nano", "qwen2.5-vl"])
def test_pictures_are_what_the_runs_own_profile_shows(frozen, runs, tmp_path, profile):
    page = write_failures(frozen, runs[profile], tmp_path / "f.html", 4)
    assert f"asked by the profile {profile}" in page.read_text()
    view, of = SuiteView(frozen, profile), {item.id: item for item in frozen.items}
    for card in cards(page):
        item, shown = of[question_of(card)], view.show(of[question_of(card)])
        found = pictures(card)
        large = max(shown.images[0].shape) > 640
        assert len(found) == len(shown.images) + (len(item.points) if large else 0) and large == (profile != "nano")
        for pixels, picture in zip(shown.images, found, strict=False):
            height, width = picture.shape[:2]
            assert max(picture.shape) <= 640 and width / height == pytest.approx(
                pixels.shape[1] / pixels.shape[0], rel=0.01
            )
            small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS), np.float64)
            assert np.abs(small - picture).mean() < 4
        assert card.count("<i style=") == (len(item.points) if large else 0)
    assert page.stat().st_size < 2_000_000


def test_a_closer_look_shows_the_marker(frozen, runs, tmp_path):
    """The published marker is a few pixels of a large image: beside it stand its surroundings, as they are."""
    page = write_failures(frozen, runs["qwen2.5-vl"], tmp_path / "f.html", 6)
    view, of = SuiteView(frozen, "qwen2.5-vl"), {item.id: item for item in frozen.items}
    seen = 0
    for card in cards(page):
        shown = view.show(of[question_of(card)])
        for point, picture in zip(shown.points[0], pictures(card)[len(shown.images) :], strict=True):
            x, y = (round(v) for v in point["xy"])
            height, width = shown.images[0].shape[:2]
            left, top = min(max(x - 48, 0), width - 96), min(max(y - 32, 0), height - 64)
            part = shown.images[0][top : top + 64, left : left + 96]
            assert picture.shape == part.shape and np.abs(part.astype(float) - picture).mean() < 8
            seen += 1
    assert seen > 6


def test_shares_of_wrong_answers_say_where_it_fails(frozen, runs, tmp_path):
    text = write_failures(frozen, runs["nano"], tmp_path / "f.html", 1).read_text()
    rows = read_lines(runs["nano"] / "predictions.jsonl")
    panel = re.search(r"<h3>By question kind</h3>(.*?)</div>\s*</div>\s*<", text, re.S)[1]
    shares = re.findall(r'title="(.*?)".*?<b>(\d+)%<small>(\d+) of (\d+)</small>', panel, re.S)
    assert sum(int(n) for *_, n in shares) == len(rows) and len(shares) == 6
    right = [row["value"] is not None and row["value"] > 0 and factor_of(row) < math.log(1.25) for row in rows]
    assert sum(int(wrong) for _, _, wrong, _ in shares) == len(rows) - sum(right)
    percents = [int(percent) for _, percent, _, _ in shares]
    assert percents == sorted(percents, reverse=True)
    assert "By dataset" in text and "By field of view" not in text, "a single group says what the total says"


def test_a_perfect_run_has_nothing_to_show(frozen, tmp_path):
    texts = {item.id: f"{item.truth}" for item in frozen.items}
    header = make_header(frozen, make_baseline("truth", frozen), "nano", origin="model")
    write_result(frozen, Answers(header, texts), tmp_path, n_boot=10)
    text = write_failures(frozen, tmp_path, tmp_path / "f.html").read_text()
    assert "Nothing is wrong" in text and "<article" not in text


def test_a_part_of_a_suite_is_shown_and_another_suite_refused(frozen, runs, suite, tmp_path):
    run = answer(limit_suite(frozen, 12), tmp_path / "part", "nano")
    assert 0 < len(cards(write_failures(frozen, run, tmp_path / "f.html"))) < 12
    for draw in (write_failures, contact_sheet):
        with pytest.raises(DepthLMError, match=rf"{frozen.hash}-12of\d+\), not tiny"):
            draw(suite, run, tmp_path / "f.png")
        with pytest.raises(DepthLMError, match="--count"):
            draw(frozen, run, tmp_path / "f.png", 0)
        vsi_result(tmp_path / "vsi" / "result.jsonl", "seer", 0.4)
        with pytest.raises(DepthLMError, match="VSI-Bench"):
            draw(frozen, tmp_path / "vsi", tmp_path / "f.png")


def test_many_reasons_are_summed_and_few_of_many_pictures_spread(frozen, tmp_path):
    header = make_header(frozen, make_baseline("truth", frozen), "nano", origin="model")
    names = [item.id for item in frozen.items]
    errors = {name: f"failed in its own way: {name}" for name in names[10:]} | dict.fromkeys(names[:10], "overloaded")
    write_result(frozen, Answers(header, {}, errors=errors), tmp_path, n_boot=10)
    page = write_failures(frozen, tmp_path, tmp_path / "f.html", 4)
    text, rest = page.read_text(), len(names) - 10 - 11
    assert "<li><b>10</b> not answered: overloaded</li>" in text
    assert f"<li><b>{rest}</b> for {rest} other reasons</li>" in text
    assert f"4 of {len(names)}, evenly spaced" in text
    assert [question_of(card) for card in cards(page)] == [names[i * len(names) // 4] for i in range(4)]


def test_conversations_are_said_to_be_drawn_one_by_one(frozen, runs, tmp_path):
    run = answer(frozen, tmp_path / "talk", "nano", per_conversation=4)
    note = "Up to 4 questions about an image shared a conversation"
    assert note in write_failures(frozen, run, tmp_path / "f.html", 1).read_text()
    assert "shared a conversation" not in write_failures(frozen, runs["nano"], tmp_path / "f.html", 1).read_text()


def test_a_question_that_was_never_drawn_has_no_picture(frozen, runs, tmp_path, monkeypatch):
    lost = frozen.items[10].id
    show = SuiteView.show

    def no_place(self, item, *others):
        if item.id == lost:
            raise DepthLMError("frame", "no room for a marker", kind="no usable point")
        return show(self, item, *others)

    monkeypatch.setattr(SuiteView, "show", no_place)
    (card,) = [card for card in cards(write_failures(frozen, runs["nano"], tmp_path / "f.html")) if lost in card]
    assert not pictures(card) and "was never drawn" in card
    with Image.open(contact_sheet(frozen, runs["nano"], tmp_path / "sheet.png", count=COUNT)) as sheet:
        assert sheet.width > 300


def test_damaged_frames_are_named_and_nothing_is_drawn(frozen, runs, tmp_path):
    shutil.copytree(frozen.path, tmp_path / "suite")
    write_shard(tmp_path / "suite" / "frames" / "frames-000000.parquet", [make_frame("other")])
    (tmp_path / "suite" / "frames" / "index.json").unlink(missing_ok=True)
    suite = read_suite(tmp_path / "suite")
    for draw in (write_failures, contact_sheet):
        with pytest.raises(DepthLMError, match="frames"):
            draw(suite, runs["nano"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("profile", ["nano", "qwen2.5-vl"])
def test_the_contact_sheet_shows_what_the_runs_own_profile_shows(frozen, runs, tmp_path, profile):
    sheet = contact_sheet(frozen, runs[profile], tmp_path / "sheet.png", count=1)
    shown = SuiteView(frozen, profile).show(frozen.items[0])
    with Image.open(sheet) as image:
        tile = np.asarray(image.convert("RGB"))[52 + 6 : 52 + 6 + 240, 16 + 6 : 16 + 6 + 360].astype(np.float64)
    inside = ~(tile == [0xE9, 0xEB, 0xE5]).all(axis=2)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    part = tile[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert part.shape[1] / part.shape[0] == pytest.approx(shown.images[0].shape[1] / shown.images[0].shape[0], rel=0.02)
    small = Image.fromarray(shown.images[0]).resize(part.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(small, np.float64) - part).mean() < 8


def test_the_commands_draw_suites_of_frames(frozen, runs, tmp_path, capsys):
    """From the run's folder or its predictions, as a user types it."""
    run = runs["nano"]
    for arguments, made in (
        (["gallery", frozen.path, run, "--out", tmp_path / "g.png", "--count", "6"], ["g.png"]),
        (["gallery", frozen.path, run / "predictions.jsonl", "--out", tmp_path / "h.png"], ["h.png"]),
        (["failures", frozen.path, run, "--out", tmp_path / "f.html", "--count", "3"], ["f.html"]),
        (["pictures", frozen.path, "--results", run.parent, "--out", tmp_path], ["contact_sheet.png", "scatter.png"]),
    ):
        assert main(["eval", *map(str, arguments)], COMMANDS) == 0
        assert [Path(line).name for line in capsys.readouterr().out.split()] == made
        assert all((tmp_path / name).stat().st_size > 5000 for name in made)
    assert main(["eval", "gallery", str(frozen.path), str(tmp_path / "g.png"), "--out", "x.png"], COMMANDS) == 2
    assert "neither a folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def page(frozen: Suite, runs: dict[str, Path]) -> Path:
    return write_failures(frozen, runs["qwen2.5-vl"], runs["qwen2.5-vl"] / "failures.html", 30)


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Iterator[Browser]:
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.open(page)
    yield chromium
    assert chromium.complaints == []
    others = {address for address in chromium.requests if not address.startswith("data:")}
    assert others == {page.resolve().as_uri()}, "the page asks for nothing but itself"


SHOWN = "[...document.querySelectorAll('article')].filter(e => e.checkVisibility())"


def test_the_filters_leave_what_was_chosen(browser, page):
    every = browser.run(f"{SHOWN}.length")
    assert every == len(cards(page)) and browser.run("filters.shown.value") == f"{every} of {every} answers"
    kinds = browser.run("[...filters.kind.options].map(e => e.value)")[1:]
    assert len(kinds) > 3
    choose = "filters.{0}.value = '{1}'; filters.dispatchEvent(new Event('change'))"
    counts = []
    for kind in kinds:
        browser.run(choose.format("kind", kind))
        assert set(browser.run(f"{SHOWN}.map(e => e.dataset.kind)")) == {kind}
        counts.append(browser.run(f"{SHOWN}.length"))
        assert browser.run("filters.shown.value") == f"{counts[-1]} of {every} answers"
        empty = browser.run(
            "[...document.querySelectorAll('section')].filter(e => e.checkVisibility()"
            " && ![...e.querySelectorAll('article')].some(a => a.checkVisibility())).length"
        )
        assert empty == 0, "a section without a card is hidden"
    assert sum(counts) == every
    browser.run("filters.reset()")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert browser.run(f"{SHOWN}.length") == every
    for dataset in DATASETS:
        browser.run(choose.format("dataset", dataset))
        assert set(browser.run(f"{SHOWN}.map(e => e.dataset.dataset)")) == {dataset}


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_the_page_fits_the_window_by_day_and_night(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == width
    ink, paper = browser.run(
        "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3)"
        ".reduce((sum, one) => sum + +one, 0) / 3)"
    )
    assert (ink > paper) == dark and abs(ink - paper) > 150
    assert browser.run("[...document.images].every(e => e.complete && e.naturalWidth > 0 && e.clientWidth > 100)")
    assert browser.run("[...document.querySelectorAll('select, #filters button')].every(e => e.offsetHeight >= 36)")
    outside = browser.run(
        "[...document.querySelectorAll('.pictures i')].filter(e => {"
        " const ring = e.getBoundingClientRect(), image = e.parentElement.querySelector('img').getBoundingClientRect(),"
        " x = ring.x + ring.width / 2, y = ring.y + ring.height / 2;"
        " return x < image.left || x > image.right || y < image.top || y > image.bottom }).length"
    )
    assert outside == 0 and browser.run("document.querySelectorAll('.pictures i').length") > 20
