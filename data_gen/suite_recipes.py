"""Suite recipes: YAML that says which datasets, how many questions, how they are asked -> a frozen suite.

The project's own lie in ``data_gen/suites``. A part names the dataset it asks about; its frames come from a store that
the user has curated, or are rendered here (``synthetic``). Where a published evaluation took other truths than the true
ones, the part says why, and which ones where they are known of what is asked: the suite then has two forms,
``corrected`` and ``as-published``, else ``corrected`` alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from data_gen.curate import curate
from data_gen.freeze import NAME, Asking, Part, freeze
from data_gen.readers.procedural import ProceduralReader
from depthlm.errors import DepthLMError, SkipReport
from depthlm.store import FrameStore
from depthlm.suite import Suite, SuiteWriter

SUITES = Path(__file__).resolve().parent / "suites"
CORRECTED, AS_PUBLISHED = "corrected", "as-published"
FORMS = (CORRECTED, AS_PUBLISHED)
# Scenes of suites are drawn from a stream of their own, whatever seed a training store is rendered with.
STREAM = "suite"
# What is said of a published truth, in a recipe's own types.
PUBLISHED: dict[str, tuple[type, ...]] = {"truth_is": (str,), "scale": (int, float)}
TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "text"),
    "int": ((int,), "a whole number, not negative"),
    "bool": ((bool,), "true or false"),
    "Mapping": ((dict,), "a mapping"),
    "tuple": ((list,), "a list of names"),
}


@dataclass(frozen=True)
class RecipePart:
    """One dataset of a recipe.

    Args:
        dataset: what its questions are counted as, as published tables call it.
        curate: arguments by which `depthlm data curate` makes its store.
        synthetic: options of `ProceduralReader`, for a store that is rendered here; scenes are for the recipe's count.
        mix, count, per_image: as in `data_gen.freeze.Part`; the recipe's by default.
        published: ``truth_is`` or ``scale`` of the published truths (see `Part`).
        why: the published truths differ; needed with ``published``.
    """

    dataset: str
    curate: str = ""
    synthetic: Mapping[str, Any] | None = None
    mix: Mapping[str, float] | None = None
    count: int | None = None
    per_image: int | None = None
    published: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Recipe:
    """A suite as a file says it; the settings as in `data_gen.freeze.Asking` and `Part`."""

    name: str
    parts: Mapping[str, RecipePart]
    version: int = 1
    about: str = ""
    profile: str = "qwen2.5-vl"
    also: tuple[str, ...] = ()
    intrinsics: str = "normalize"
    pointing: str = "marker"
    seed: int = 0
    count: int = 10000
    per_image: int | None = None
    mix: Mapping[str, float] | None = None
    dense: bool = False

    @property
    def forms(self) -> tuple[str, ...]:
        """Its forms, the first by default."""
        if any(part.published for part in self.parts.values()):
            return FORMS
        return (CORRECTED,) if any(part.why for part in self.parts.values()) else ()

    def part(self, key: str, stores: Sequence[Path] = (), form: str | None = None, count: int | None = None) -> Part:
        """What is asked of one dataset: about ``stores``, in one of the forms."""
        part = self.parts[key]
        return Part(
            stores,
            count or part.count or self.count,
            part.mix or self.mix,
            key,
            part.dataset,
            part.per_image or self.per_image,
            **(dict(part.published) if form == AS_PUBLISHED else {}),
        )

    def asking(self, profile: str | None = None, dense: bool = False) -> Asking:
        """How it asks. Whichever profile its rows are written in, all of its own can ask every question."""
        profile = profile or self.profile
        also = [name for name in dict.fromkeys([self.profile, *self.also]) if name != profile]
        return Asking(profile, also, self.intrinsics, self.pointing, dense=dense or self.dense, seed=self.seed)


def known_recipes() -> list[str]:
    """Names of the project's own."""
    return sorted(path.stem.replace("_", "-") for path in SUITES.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """A recipe by its name or its file.

    Raises:
        DepthLMError: there is none, or it is no recipe.
    """
    path = SUITES / f"{name.replace('-', '_')}.yaml"
    if name not in known_recipes():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise DepthLMError(
                f"suite {name!r}", "is not known", f"one of {', '.join(known_recipes())}, or a YAML file"
            )
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise DepthLMError(path, f"can't be read as YAML: {error}".replace("\n", " "), "correct the recipe") from error
    settings = _checked(Recipe, path, content)
    if not settings.get("parts"):
        raise DepthLMError(path, "has no parts", "name at least one dataset under parts")
    parts = {key: RecipePart(**_checked(RecipePart, f"{path}, part {key}", p)) for key, p in settings["parts"].items()}
    recipe = Recipe(**{**settings, "parts": parts, "also": tuple(settings.get("also", ()))})
    _check(recipe, path)
    return recipe


def _checked(kind: type, where: Path | str, content: Any) -> dict[str, Any]:
    """The content, once it is a mapping whose values have the types that the dataclass says."""
    known = {entry.name: str(entry.type) for entry in fields(kind)}
    if not isinstance(content, dict):
        raise DepthLMError(where, f"is a {type(content).__name__}", f"a mapping of {', '.join(known)}")
    for name, value in content.items():
        if name not in known:
            raise DepthLMError(where, f"holds {name!r}", f"it may hold {', '.join(known)}")
        types, word = next(found for begin, found in TYPES.items() if known[name].startswith(begin))
        good = isinstance(value, types) and (types == (bool,) or not isinstance(value, bool))
        if not good or (types == (int,) and value < (1 if name in ("count", "per_image") else 0)):
            least = ", 1 or more" if name in ("count", "per_image") else ""
            raise DepthLMError(where, f"{name} is {value!r}", f"it is {word}{least}")
        if types in ((dict,), (list,)) and not all(isinstance(key, str) for key in value):
            raise DepthLMError(where, f"{name} has a name that is no text", "put it into quotes")
        if name == "mix" and not all(isinstance(v, (int, float)) and v is not True for v in value.values()):
            raise DepthLMError(where, f"mix is {value!r}", "question kinds with their weights")
    missing = [entry for entry in ("name", "dataset") if entry in known and not content.get(entry)]
    if missing:
        raise DepthLMError(where, f"has no {missing[0]}", "correct the recipe")
    return content


def _check(recipe: Recipe, path: Path) -> None:
    """Refuse now what would fail once scenes are rendered and frames are read."""
    recipe.asking().check()
    for key, part in recipe.parts.items():
        where = f"{path}, part {key}"
        for name, value in part.published.items():
            if name not in PUBLISHED or isinstance(value, bool) or not isinstance(value, PUBLISHED[name]):
                raise DepthLMError(where, f"published holds {name}: {value!r}", "truth_is: z, or scale: a number")
        if part.published and not part.why:
            raise DepthLMError(where, "does not say why its published truths differ", "add why: …")
        try:
            recipe.part(key, form=AS_PUBLISHED).check()
            if not NAME.fullmatch(key):
                raise DepthLMError("its name", "holds other characters", "letters, digits and ._- only")
            if part.synthetic is not None:
                _reader(recipe, key, part.synthetic.get("scenes", 1))
        except DepthLMError as error:
            raise DepthLMError(where, f"{error.where}: {error.reason}", error.mend) from error


def make_suite(
    recipe: Recipe,
    out: Path,
    stores: Mapping[str, Path] | None = None,
    *,
    form: str | None = None,
    count: int | None = None,
    profile: str | None = None,
    partial: bool = False,
    dense: bool = False,
    workers: int = 1,
) -> tuple[Suite, SkipReport]:
    """Freeze a recipe's questions.

    Args:
        stores: of each part that is not rendered here, by its key.
        form: one of the recipe's forms; the first by default.
        count: questions of each part, instead of the recipe's.
        profile: in which the rows are written, instead of the recipe's; which questions are asked stays the same.
        partial: leave out parts without a store; the suite's name then says which it has.
        dense: keep dense depth, for metrics of whole depth maps.
        workers: processes that render.

    Raises:
        DepthLMError: an unknown form or part, a part without a store, or what `freeze` raises.
    """
    out, form = out.resolve(), form or next(iter(recipe.forms), None)
    if form is not None and form not in recipe.forms:
        raise DepthLMError(
            "--form", f"{recipe.name} has no form {form!r}", f"it has {', '.join(recipe.forms) or 'one'}"
        )
    if count is not None and count < 1:
        raise DepthLMError("--count", f"is {count}", "give 1 or more")
    given = dict(stores or {})
    keys = _keys(recipe, given, partial)
    asking = recipe.asking(profile, dense)
    asking.check()
    for key in keys:  # what is wrong is said before hours of rendering
        if key in given:
            FrameStore(given[key])
    SuiteWriter(out)
    report = SkipReport()
    rendered = {key: out.with_name(f"{out.name}.rendered") / key for key in keys if key not in given}
    for key, store in rendered.items():
        report.merge(_render(recipe, key, store, count, workers, asking.dense).to_dict())
    made = [recipe.part(key, [given.get(key) or rendered[key]], form, count) for key in keys]
    partly = len(keys) < len(recipe.parts)
    name = recipe.name + (f" ({', '.join(keys)})" if partly else "")
    more: dict[str, Any] = {"recipe": recipe.name, "version": recipe.version, "about": recipe.about}
    if form:
        notes = {recipe.parts[key].dataset: recipe.parts[key].why for key in keys if recipe.parts[key].why}
        more |= {"form": form, "footnotes": notes}
    suite, report = freeze(made, out, asking, name, more, report)
    for store in rendered.values():  # nothing but what was rendered: the folder around may be the user's
        shutil.rmtree(store, ignore_errors=True)
        with suppress(OSError):
            store.parent.rmdir()
    return suite, report


def _keys(recipe: Recipe, given: Mapping[str, Path], partial: bool) -> list[str]:
    """The parts that can be asked about."""
    if unknown := sorted(set(given) - set(recipe.parts)):
        raise DepthLMError("--store", f"{recipe.name} has no part {unknown[0]}", f"it has {', '.join(recipe.parts)}")
    keys = [key for key, part in recipe.parts.items() if part.synthetic is not None or key in given]
    missing = [key for key in recipe.parts if key not in keys]
    if missing and not (partial and keys):
        made = [(key, recipe.parts[key].curate) for key in missing]
        how = "; ".join(f"depthlm data curate {words} … --out {key}" for key, words in made if words)
        mend = f"--store {missing[0]}=DIR for each, or --partial to leave them out"
        raise DepthLMError(
            "--store", f"none is given for {', '.join(missing)}", mend + (f"; made by: {how}" if how else "")
        )
    return keys


def _reader(recipe: Recipe, key: str, scenes: int, **more: Any) -> ProceduralReader:
    """The scenes of a part; no two parts share one."""
    options = {**(recipe.parts[key].synthetic or {}), "scenes": scenes, **more}
    try:
        return ProceduralReader(**options, seed=recipe.seed, stream=f"{STREAM}/{key}")
    except TypeError as error:
        raise DepthLMError("synthetic", str(error).split("__init__() ")[-1], "correct the recipe") from error


def _render(recipe: Recipe, key: str, out: Path, count: int | None, workers: int, dense: bool) -> SkipReport:
    """Render a part's scenes, as many as its questions need; goes on where it was interrupted."""
    part = recipe.parts[key]
    usual = part.count or recipe.count
    scenes = -(-(part.synthetic or {}).get("scenes", 1) * (count or usual) // usual)
    return curate(_reader(recipe, key, scenes, dense=dense), out, workers)
