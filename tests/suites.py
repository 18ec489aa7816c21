"""Suites frozen in a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.freeze import Asking, Part, freeze
from depthlm.errors import SkipReport
from depthlm.suite import Item, Suite, SuiteWriter


def freeze_store(
    store: Path, out: Path, count: int, mix: dict[str, float] | None = None, **asking: Any
) -> tuple[Suite, SkipReport]:
    """A suite about one store, in nano's profile where no other is given."""
    return freeze([Part([store], count, mix)], out, Asking(**({"profile": "nano"} | asking)))


def stored_suite(out: Path) -> Suite:
    """Two questions about three stored images, one of them shown twice."""
    writer = SuiteWriter(out)
    names = [writer.write_image(np.full((12, 16, 3), grey, np.uint8)) for grey in (10, 90, 200)]
    for number, shown in enumerate((names[:2], names[1:])):
        answer = f"{number + 1}"
        item = Item(
            f"q{number}", "object_counting", "arkitscenes", [f"scene{number}"], "How many?", answer, 1.0, "number"
        )
        writer.add(replace(item, images=shown, system="Be brief."))
    return writer.finish("stored", {"protocol": "vsi-bench"})
