"""Suites frozen in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_gen.freeze import Asking, Part, freeze
from depthlm.errors import SkipReport
from depthlm.suite import Suite


def freeze_store(
    store: Path, out: Path, count: int, mix: dict[str, float] | None = None, **asking: Any
) -> tuple[Suite, SkipReport]:
    """A suite about one store, in nano's profile where no other is given."""
    return freeze([Part([store], count, mix)], out, Asking(**({"profile": "nano"} | asking)))
