"""JSON Lines: results and predictions on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from depthlm.errors import DepthLMError


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON Lines, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", errors="replace") as file:
            for row in rows:
                file.write(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise DepthLMError(path, f"can't be written: {error.strerror}", "check --out and its permissions") from error


def _finite(value: Any) -> Any:
    """The same with null for what JSON has no number for (NaN, infinity)."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines that ``write_lines`` wrote.

    Raises:
        DepthLMError: it can't be read or is no such file.
    """
    try:
        # Not splitlines(): it also breaks at U+2028, which an answer may hold.
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DepthLMError(path, f"can't be read as JSON Lines: {error}", "make it with `depthlm eval run`") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DepthLMError(path, "is empty or no JSON Lines of objects", "make it with `depthlm eval run`")
    return rows
