"""Suite recipes: YAML that says which datasets, how many questions, how they are asked -> a frozen suite.

The project's own lie in ``data_gen/suites``. A part names the dataset it asks about; its frames come from a store that
the user has curated, or are rendered here (``synthetic``). Where a published evaluation took other truths than the true
ones, the part says which and why, and the suite has two forms: ``corrected`` and ``as-published``.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from data_gen.curate import curate
from data_gen.freeze import Asking, Part, freeze
from data_gen.readers.procedural import ProceduralReader
from depthlm.errors import DepthLMError, SkipReport
from depthlm.suite import Suite

SUITES = Path(__file__).resolve().parent / "suites"
CORRECTED, AS_PUBLISHED = "corrected", "as-published"
FORMS = (CORRECTED, AS_PUBLISHED)
# Scenes of suites are drawn from a stream of their own, whatever seed a training store is rendered with.
STREAM = "suite"


@dataclass(frozen=True)
class RecipePart:
    """One dataset of a recipe.

    Args:
        dataset: what its questions are counted as, as published tables call it.
        curate: arguments by which `depthlm data curate` makes its store.
        synthetic: options of `ProceduralReader`, for a store that is rendered here; scenes are for the recipe's count.
        mix, count, per_image: as in `data_gen.freeze.Part`; the recipe's by default.
        published: ``truth_is`` or ``scale`` of the published truths (see `Part`), and ``why`` they differ.
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
        return FORMS if any(part.published for part in self.parts.values()) else ()


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
    if not isinstance(settings.get("parts"), dict) or not settings["parts"]:
        raise DepthLMError(path, "has no parts", "name at least one dataset under parts")
    parts = {key: RecipePart(**_checked(RecipePart, f"{path}, part {key}", p)) for key, p in settings["parts"].items()}
    return Recipe(**{**settings, "parts": parts, "also": tuple(settings.get("also", ()))})


def _checked(kind: type, where: Path | str, content: Any) -> dict[str, Any]:
    """The content, once it is a mapping whose values have the types that the dataclass says."""
    known = {entry.name: str(entry.type) for entry in fields(kind)}
    if not isinstance(content, dict):
        raise DepthLMError(where, f"is a {type(content).__name__}", f"a mapping of {', '.join(known)}")
    types: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "Mapping": (dict,), "tuple": (list,)}
    for name, value in content.items():
        if name not in known:
            raise DepthLMError(where, f"holds {name!r}", f"it may hold {', '.join(known)}")
        wanted = next((found for word, found in types.items() if known[name].startswith(word)), (object,))
        if not isinstance(value, wanted) or (wanted == (int,) and (isinstance(value, bool) or value < 0)):
            raise DepthLMError(where, f"{name} is {value!r}", f"it is a {known[name].split('[')[0].split(' |')[0]}")
    missing = [entry for entry in ("name", "dataset") if entry in known and entry not in content]
    if missing:
        raise DepthLMError(where, f"has no {missing[0]}", "correct the recipe")
    return content


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
        profile: instead of the recipe's.
        partial: leave out parts without a store; the suite's name then says which it has.
        dense: keep dense depth, for metrics of whole depth maps.
        workers: processes that render.

    Raises:
        DepthLMError: an unknown form or part, a part without a store, or what `freeze` raises.
    """
    form = form or next(iter(recipe.forms), None)
    if form is not None and form not in recipe.forms:
        raise DepthLMError(
            "--form", f"{recipe.name} has no form {form!r}", f"it has {', '.join(recipe.forms) or 'one'}"
        )
    given = dict(stores or {})
    if unknown := sorted(set(given) - set(recipe.parts)):
        raise DepthLMError("--store", f"{recipe.name} has no part {unknown[0]}", f"it has {', '.join(recipe.parts)}")
    parts = {key: part for key, part in recipe.parts.items() if part.synthetic is not None or key in given}
    missing = [key for key in recipe.parts if key not in parts]
    if missing and not (partial and parts):
        how = "; ".join(f"depthlm data curate {recipe.parts[key].curate} … --out {key}" for key in missing[:3])
        mend = f"--store {missing[0]}=DIR for each, or --partial to leave them out; made by: {how}"
        raise DepthLMError("--store", f"none is given for {', '.join(missing)}", mend)
    asking = Asking(
        profile or recipe.profile,
        [name for name in recipe.also if name != profile],
        recipe.intrinsics,
        recipe.pointing,
        dense=dense or recipe.dense,
        seed=recipe.seed,
    )
    asking.check()
    rendered = out.with_name(f"{out.name}.rendered")
    made = []
    for key, part in parts.items():
        questions = count or part.count or recipe.count
        store = given.get(key) or _render(part, rendered / key, recipe, questions, asking.dense, workers)
        published = dict(part.published) if form == AS_PUBLISHED else {}
        per_image = part.per_image or recipe.per_image
        mix = part.mix or recipe.mix
        made.append(Part([store], questions, mix, key, part.dataset, per_image, **published))
    name = recipe.name + (f" ({', '.join(parts)})" if missing else "")
    footnotes = {part.dataset: part.why for part in parts.values() if part.why}
    more = {"recipe": recipe.name, "version": recipe.version, "about": recipe.about}
    if form:
        more |= {"form": form, "footnotes": footnotes}
    suite, report = freeze(made, out, asking, name, more)
    shutil.rmtree(rendered, ignore_errors=True)
    return suite, report


def _render(part: RecipePart, out: Path, recipe: Recipe, questions: int, dense: bool, workers: int) -> Path:
    """Render a part's scenes, as many as its questions need; goes on where it was interrupted."""
    options = dict(part.synthetic or {})
    usual = part.count or recipe.count
    options["scenes"] = max(1, -(-options.get("scenes", 1) * questions // usual))
    try:
        reader = ProceduralReader(**options, dense=dense, seed=recipe.seed, stream=STREAM)
    except TypeError as error:
        raise DepthLMError(f"part {part.dataset}", f"synthetic: {error}", "correct the recipe") from error
    curate(reader, out, workers)
    return out
