"""Recipes of suites: the project's own, what is wrong with others, the two forms, and the rendered suite end to end."""

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data_gen import curate as curation
from data_gen.commands import add
from data_gen.curate import curate
from data_gen.readers.procedural import ProceduralReader
from data_gen.suite_recipes import SUITES, _reader, known_recipes, make_suite, read_recipe
from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.questions import KINDS
from depthlm.store import FrameStore
from depthlm.suite import read_suite
from depthlm.suite_view import SuiteView

TINY = {"scenes": 3, "views": 3, "width": 160, "height": 120}
RECIPE = {
    "name": "mine",
    "version": 2,
    "about": "Walls",
    "profile": "nano",
    "also": ["pixtral"],
    "seed": 4,
    "count": 12,
    "mix": {"distance": 1},
    "parts": {
        "plain": {"dataset": "Plain", "curate": "depthlm-jsonl plain.jsonl"},
        "along": {"dataset": "Along", "curate": "x", "published": {"truth_is": "z"}, "why": "z called distance"},
        "scaled": {"dataset": "Scaled", "curate": "y --split val", "published": {"scale": 0.8}, "why": "a wrong unit"},
    },
}


def write(path: Path, recipe) -> str:
    path.write_text(yaml.safe_dump(recipe, sort_keys=False) if isinstance(recipe, dict) else recipe)
    return str(path)


@pytest.fixture
def recipe(tmp_path):
    return read_recipe(write(tmp_path / "mine.yaml", RECIPE))


def test_the_project_s_own_recipes_are_whole():
    files = sorted(SUITES.glob("*.yaml"))
    assert len(files) == len(known_recipes()) >= 3
    for name in known_recipes():
        recipe = read_recipe(name)
        assert recipe.name == name and recipe.about and recipe.count == 10000
        for key, part in recipe.parts.items():
            assert (part.synthetic is None) == bool(part.curate), key
        assert recipe.forms == {"depthlm8": ("corrected", "as-published"), "depthlm-tasks": ("corrected",)}.get(
            name, ()
        )
    assert len(read_recipe("depthlm8").parts) == len(read_recipe("depthlm-tasks").parts) == 8
    assert set(read_recipe("procedural").parts) == {"easy", "medium", "hard"}


def test_a_user_asks_about_any_store_by_the_custom_recipe_or_a_copy_of_it(store, tmp_path, capsys):
    words = ["--store", f"mine={store}", "--count", "12", "--profile", "nano"]
    assert main(["data", "suite", "custom", *words, "--out", str(tmp_path / "a")]) == 0
    asked = read_suite(tmp_path / "a")
    assert Counter(item.kind for item in asked.items) == dict.fromkeys(KINDS.names(), 2)
    assert {item.dataset for item in asked.items} == {"mine"} and asked.name == "custom"
    content = (SUITES / "custom.yaml").read_text()
    changed = content.replace("name: custom", "name: walls").replace("mix: {distance: 1, axis_distance: 1,", "mix: {")
    copied = write(tmp_path / "walls.yaml", changed.replace("seed: 0 ", "seed: 7 "))
    assert main(["data", "suite", copied, *words, "--out", str(tmp_path / "b")]) == 0
    other = read_suite(tmp_path / "b")
    assert other.name == "walls" and "distance" not in {item.kind for item in other.items} and other.hash != asked.hash
    assert main(["data", "suite", "custom", "--out", str(tmp_path / "c")]) == 2
    assert "made by: depthlm data curate plain-folder my-data" in capsys.readouterr().err


def test_curation_that_a_recipe_names_is_understood_by_the_command():
    from data_gen.readers import READERS

    for name in ("depthlm8", "depthlm-tasks", "custom"):
        for part in read_recipe(name).parts.values():
            assert part.curate.split()[0] in READERS.names()


def without(*keys):
    return lambda recipe: [recipe.pop(key) for key in keys]


def part(**change):
    return lambda recipe: recipe["parts"]["plain"].update(change)


def top(**change):
    return lambda recipe: recipe.update(change)


def rendered(**options):
    return part(synthetic=TINY | options)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("name"), "has no name"),
        (without("parts"), "has no parts"),
        (top(parts={}), "has no parts"),
        (top(parts=["a"]), "parts is"),
        (top(parts={"a": None}), "part a: is a NoneType"),
        (top(parts={1: {"dataset": "A"}}), "name that is no text"),
        (top(parts={"a/b": {"dataset": "A"}}), "part a/b: part 'a/b': is no name"),
        (top(parts={"..": {"dataset": "A"}}), "is no name"),
        (top(colour="red"), "holds 'colour'"),
        (top(count="many"), "count is 'many'"),
        (top(count=0), "count is 0"),
        (top(count=True), "count is True"),
        (top(per_image=0), "per_image is 0"),
        (top(seed=-1), "seed is -1"),
        (top(dense="no"), "dense is 'no'"),
        (top(also="pixtral"), "also is 'pixtral'"),
        (top(also=[1]), "also has a name that is no text"),
        (top(also=["pixtrall"]), "pixtral"),
        (top(profile="nanno"), "nano"),
        (top(intrinsics="guess"), "guess"),
        (top(pointing="finger"), "finger"),
        (top(mix=["distance"]), "mix is"),
        (top(mix={"distance": "1"}), "mix is"),
        (top(mix={"distanse": 1}), "part plain.*distance"),
        (top(mix={"distance": 0}), "positive sum"),
        (top(mix={"distance": 1, "speed": 1}), "part along: mix: a published truth"),
        (part(dataset=""), "has no dataset"),
        (part(colour="red"), "part plain: holds 'colour'"),
        (part(published={"truth_is": "z"}), "does not say why"),
        (part(published={"colour": "z"}, why="so"), "published holds colour"),
        (part(published={"scale": "0.8"}, why="so"), "published holds scale"),
        (part(published={"truth_is": "depth"}, why="so"), "truth_is"),
        (rendered(scenes="many"), "scenes"),
        (rendered(scenes=0), "part plain: scenes: is 0"),
        (rendered(fov=70), "fov: is 70"),
        (rendered(fov=[75, 55]), "fov"),
        (rendered(clutter=[-1, 1]), "clutter"),
        (rendered(mix={"rooms": 1}), "rooms"),
        (rendered(mix={"room": 0}), "mix"),
        (rendered(distortion="yes"), "distortion"),
        (rendered(colour=1), "unexpected keyword argument 'colour'"),
        (rendered(stream="mine"), "stream"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_in_one_line(tmp_path, change, says):
    bad = copy.deepcopy(RECIPE)
    change(bad)
    with pytest.raises(DepthLMError, match=says) as caught:
        read_recipe(write(tmp_path / "bad.yaml", bad))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("depthlm9", "one of custom, depthlm-tasks, depthlm8, procedural"),
        ("none.yaml", "can't be read"),
        ("a.txt", "not known"),
    ],
)
def test_no_such_recipe(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DepthLMError, match=says):
        read_recipe(name)


@pytest.mark.parametrize("text", ["- a\n- b\n", "name: [", "\x00", "", "!!python/object/apply:os.getcwd []"])
def test_a_file_that_is_no_recipe(tmp_path, text):
    with pytest.raises(DepthLMError):
        read_recipe(write(tmp_path / "bad.yaml", text))


def test_the_two_forms_ask_the_same_and_differ_in_truths_as_they_say(recipe, store, tmp_path):
    stores = dict.fromkeys(recipe.parts, store)
    assert recipe.forms == ("corrected", "as-published")
    true, _ = make_suite(recipe, tmp_path / "true", stores)
    published, _ = make_suite(recipe, tmp_path / "published", stores, form="as-published")
    assert [s.settings["form"] for s in (true, published)] == ["corrected", "as-published"]
    assert true.hash != published.hash and len(true.items) == len(published.items) == 36
    factors = {"Plain": lambda p: p["distance"], "Along": lambda p: p["z"], "Scaled": lambda p: 0.8 * p["distance"]}
    for a, b in zip(true.items, published.items, strict=True):
        assert replace(a, truth=0, answer="", image_paths=[]) == replace(b, truth=0, answer="", image_paths=[])
        assert a.truth == pytest.approx(a.points[0]["distance"], rel=1e-12)
        assert b.truth == pytest.approx(factors[b.dataset](b.points[0]), rel=1e-12)
    for suite in (true, published):
        assert suite.settings["footnotes"] == {"Along": "z called distance", "Scaled": "a wrong unit"}
        assert (suite.settings["recipe"], suite.settings["version"], suite.settings["about"]) == ("mine", 2, "Walls")
        assert suite.settings["also"] == ["pixtral"]


def test_truths_that_differ_from_unknown_published_ones_have_one_form_that_says_so(store, tmp_path):
    whys = [{part.dataset: part.why for part in read_recipe(n).parts.values()} for n in ("depthlm8", "depthlm-tasks")]
    assert whys[0] == whys[1] and len(list(filter(None, whys[0].values()))) == 5
    recipe = copy.deepcopy(RECIPE)
    for known in recipe["parts"].values():
        known.pop("published", None)
    recipe = read_recipe(write(tmp_path / "mine.yaml", recipe))
    suite, _ = make_suite(recipe, tmp_path / "s", dict.fromkeys(recipe.parts, store))
    assert suite.settings["form"] == "corrected"
    assert suite.settings["footnotes"] == {"Along": "z called distance", "Scaled": "a wrong unit"}
    with pytest.raises(DepthLMError, match="has no form 'as-published'"):
        make_suite(recipe, tmp_path / "t", dict.fromkeys(recipe.parts, store), form="as-published")


def test_forms_and_parts_that_a_recipe_does_not_have(recipe, store, tmp_path):
    with pytest.raises(DepthLMError, match="has no form 'true'"):
        make_suite(recipe, tmp_path / "s", {"plain": store}, form="true")
    with pytest.raises(DepthLMError, match="has no form 'corrected'"):
        make_suite(read_recipe("procedural"), tmp_path / "s", form="corrected")
    with pytest.raises(DepthLMError, match="has no part other"):
        make_suite(recipe, tmp_path / "s", {"other": store})
    assert not (tmp_path / "s").exists()


def test_missing_stores_are_named_with_how_to_make_them(recipe, store, tmp_path):
    with pytest.raises(DepthLMError) as caught:
        make_suite(recipe, tmp_path / "s", {"plain": store})
    text = str(caught.value)
    assert "none is given for along, scaled" in text and "--partial" in text
    assert "depthlm data curate x … --out along; depthlm data curate y --split val … --out scaled" in text
    with pytest.raises(DepthLMError, match="none is given for plain, along, scaled"):
        make_suite(recipe, tmp_path / "s", partial=True)
    suite, _ = make_suite(recipe, tmp_path / "s", {"along": store}, partial=True)
    assert suite.name == "mine (along)" and {item.dataset for item in suite.items} == {"Along"}
    assert suite.settings["footnotes"] == {"Along": "z called distance"}


def test_another_profile_writes_the_same_questions_and_all_can_ask_them(recipe, store, tmp_path):
    stores = dict.fromkeys(recipe.parts, store)
    own, _ = make_suite(recipe, tmp_path / "own", stores)
    other, _ = make_suite(recipe, tmp_path / "other", stores, profile="pixtral")
    assert other.settings["profile"] == "pixtral" and other.settings["also"] == ["nano"]
    assert [(i.id, i.truth, i.labels) for i in own.items] == [(i.id, i.truth, i.labels) for i in other.items]
    view = SuiteView(other, "nano")
    assert [view.show(item).texts[0] for item in other.items] == [item.question for item in own.items]


@pytest.fixture(scope="module")
def procedural(tmp_path_factory):
    """The project's own rendered suite, of twelve questions a level."""
    path = tmp_path_factory.mktemp("procedural")
    return path, make_suite(read_recipe("procedural"), path / "s", count=12, profile="nano")


def test_the_rendered_suite_has_three_levels_of_every_kind(procedural):
    path, (suite, _) = procedural
    levels = [f"procedural-{level}" for level in ("easy", "medium", "hard")]
    assert Counter(i.dataset for i in suite.items) == dict.fromkeys(levels, 12)
    assert Counter(i.kind for i in suite.items) == dict.fromkeys(KINDS.names(), 6)
    assert [entry.name for entry in path.iterdir()] == ["s"]  # what was rendered is in the suite now
    cameras = {i.dataset: SuiteView(suite).frames(i)[0].camera for i in suite.items}
    assert [bool(cameras[level].distortion) for level in levels] == [False, False, True]
    assert 54 < cameras[levels[0]].fov_deg[0] < 76
    for name in ("qwen2.5-vl", "pixtral", "qwen3-vl", "general"):
        view = SuiteView(suite, name)
        assert all(view.show(item).texts for item in suite.items[::12])


def test_the_rendered_suite_is_the_same_again_even_if_interrupted(procedural, tmp_path, monkeypatch):
    _, (suite, _) = procedural
    recipe, made, calls = read_recipe("procedural"), curation.make_group, []

    def killed_in_the_second_level(reader, out, number, keys):
        calls.append(out.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made(reader, out, number, keys)

    monkeypatch.setattr(curation, "make_group", killed_in_the_second_level)
    with pytest.raises(KeyboardInterrupt):
        make_suite(recipe, tmp_path / "s", count=12, profile="nano")
    again, _ = make_suite(recipe, tmp_path / "s", count=12, profile="nano")
    assert calls == ["easy", "medium", "medium", "hard"]  # the first level was kept
    assert again.hash == suite.hash
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_no_scene_is_shared_with_another_level_or_with_training(tmp_path):
    """Not even with a store that is rendered with the suite's seed and its options."""
    recipe = read_recipe("procedural")
    places = []  # a scene's ground: the same for scenes that differ in nothing but how full they are
    for key, part in recipe.parts.items():
        for reader in (_reader(recipe, key, 4), ProceduralReader(**part.synthetic, seed=recipe.seed)):
            places += [(key, reader.stream, reader._scene(scene)[0].bounds) for scene in range(4)]
    levels = [bounds for _, stream, bounds in places if stream]
    assert len(set(levels)) == len(levels) == 12
    assert not set(levels) & {bounds for _, stream, bounds in places if not stream}
    small = replace(recipe, parts={k: replace(p, synthetic={**p.synthetic, **TINY}) for k, p in recipe.parts.items()})
    suite, _ = make_suite(replace(small, count=6, per_image=None, mix={"distance": 1}), tmp_path / "s")
    images = {frame.image for frame in FrameStore(suite.path / "frames")}
    for key, part in recipe.parts.items():
        training = ProceduralReader(**{**part.synthetic, **TINY}, seed=recipe.seed)
        curate(training, tmp_path / key)
        assert not images & {frame.image for frame in FrameStore(tmp_path / key)}
    assert len(images) > 12


def test_what_is_wrong_is_said_before_anything_is_rendered(recipe, store, tmp_path, monkeypatch):
    monkeypatch.setattr("data_gen.suite_recipes.curate", lambda *_: pytest.fail("rendered"))
    mixed = replace(recipe, parts={**recipe.parts, "plain": replace(recipe.parts["plain"], curate="", synthetic=TINY)})
    stores = {"along": store, "scaled": tmp_path / "nowhere"}
    with pytest.raises(DepthLMError, match="no such frame store"):
        make_suite(mixed, tmp_path / "s", stores)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    for out, more, says in (
        (tmp_path / "full", {}, "not empty"),
        (tmp_path / "s", {"count": 0}, "--count"),
        (tmp_path / "s", {"profile": "nanno"}, "nano"),
    ):
        with pytest.raises(DepthLMError, match=says):
            make_suite(mixed, out, stores | {"scaled": store}, **more)


def test_a_folder_of_the_user_s_that_is_named_like_the_rendered_one_stays(recipe, store, tmp_path):
    mine = tmp_path / "s.rendered/notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    make_suite(recipe, tmp_path / "s", dict.fromkeys(recipe.parts, store))
    rendering = replace(recipe, parts={"plain": replace(recipe.parts["plain"], synthetic=TINY)}, count=3)
    make_suite(rendering, tmp_path / "t")
    assert mine.read_text() == "mine" and not (tmp_path / "t.rendered").exists()


def test_dense_depth_of_rendered_scenes_is_kept(recipe, tmp_path):
    rendering = replace(recipe, parts={"plain": replace(recipe.parts["plain"], synthetic=TINY)}, count=3)
    suite, _ = make_suite(rendering, tmp_path / "s", dense=True)
    assert all(frame.depth is not None for frame in FrameStore(suite.path / "frames"))


def test_the_command_end_to_end(procedural, tmp_path, capsys):
    _, (suite, _) = procedural
    words = ["suite", "procedural", "--count", "12", "--profile", "nano", "--workers", "1", "--out"]
    assert main(["data", *words, str(tmp_path / "s")], {"data": lambda: add}) == 0
    assert f"s: 36 questions, hash {suite.hash}" in capsys.readouterr().out
    assert read_suite(tmp_path / "s").hash == suite.hash
    assert main(["data", *words, str(tmp_path / "s")], {"data": lambda: add}) == 2
    assert "a frozen suite is never overwritten" in capsys.readouterr().err
    words[words.index("12")] = "0"
    assert main(["data", *words, str(tmp_path / "t")], {"data": lambda: add}) == 2
    assert "--count: is 0" in capsys.readouterr().err
