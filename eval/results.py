"""result.jsonl files: found in files and folders, checked before anything is drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlm.errors import DepthLMError
from depthlm.spread import LEVELS
from eval.jsonl import read_lines

AS_PUBLISHED, CORRECTED = "as-published", "corrected"
FORMS = (AS_PUBLISHED, CORRECTED)
ORIGINS = ("model", "expert", "baseline")
# ``by`` of rows of whole depth maps, beside those of labelled pixels, begins with it.
DENSE = "dense"
METRICS = (
    *("delta1", "delta2", "delta3", "abs_rel", "rmse", "log10", "silog", "score"),
    *("mae", "boundary_f1", "fov_error", "fov_error_median", "log_bias"),
)
COUNTS = ("n", "n_images", "missing", "unparsable")
TEXTS = ("by", "key", "kind", "dataset")


@dataclass(frozen=True)
class Result:
    """One result.jsonl: its header and its rows, the first of which is over all questions."""

    header: dict[str, Any]
    rows: list[dict[str, Any]]

    def by(self, by: str) -> dict[str, dict[str, Any]]:
        """The rows of one grouping by their keys."""
        return {row["key"]: row for row in self.rows if row["by"] == by}

    @property
    def label(self) -> str:
        return str(self.header["label"])

    @property
    def origin(self) -> str:
        """Who answered: "model", "expert" (a depth network) or "baseline"."""
        return str(self.header.get("origin") or ("baseline" if self.header.get("baseline") else "model"))

    @property
    def form(self) -> str:
        """Which labels the suite has where they differ, "as-published" or "corrected"; "" for a suite of one form."""
        return str(self.header.get("form") or "")

    @property
    def is_vsi(self) -> bool:
        """Whether VSI-Bench's protocol scored it: rows have ``score`` in place of metrics of depth."""
        return "score" in self.rows[0]

    @property
    def delta1(self) -> float:
        """delta1 over all questions.

        Raises:
            DepthLMError: it is a result of VSI-Bench, which has none.
        """
        if self.is_vsi:
            raise DepthLMError(self.label, "is a result of VSI-Bench and has no δ1", "see depthlm eval vsi-bench")
        return self.main

    @property
    def main(self) -> float:
        """The number that ranks results on one suite."""
        return float(self.rows[0]["score" if self.is_vsi else "delta1"]["value"] or 0.0)


def find_results(paths: Sequence[Path]) -> list[Path]:
    """The files among ``paths`` and every result.jsonl inside the folders, each once.

    Raises:
        DepthLMError: nothing is named, or a folder holds none.
    """
    if not paths:
        raise DepthLMError(
            "results", "none given", "name result.jsonl files or folders, as `depthlm eval run` makes them"
        )
    found: dict[Path, None] = {}
    for path in paths:
        files = sorted(path.rglob("result.jsonl")) if path.is_dir() else [path]
        if not files:
            raise DepthLMError(path, "holds no result.jsonl", "name a folder that `depthlm eval run --out` made")
        found |= dict.fromkeys(file.resolve() for file in files)
    return list(found)


def read_result(path: Path) -> Result:
    """Read one result.

    Raises:
        DepthLMError: it can't be read, or is no result.
    """
    header, *rows = read_lines(path)
    try:
        _check_header(header)
        for row in rows:
            _check_row(row)
        if not rows or rows[0]["by"] != "all" or not {"delta1", "score"} & rows[0].keys():
            raise ValueError("no row over all questions")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        mend = "name result.jsonl files as `depthlm eval run` and `depthlm eval score` write them"
        raise DepthLMError(path, f"is no result of a suite: {reason}", mend) from error
    return Result(header, rows)


def _check_header(header: dict[str, Any]) -> None:
    if header["type"] != "result":
        raise ValueError(f"its type is {header['type']!r}")
    if not isinstance(header["suite_hash"], str) or not isinstance(header["n"], int):
        raise TypeError("suite_hash is no text or n no whole number")
    _ = header["label"], header["suite"]
    for name, allowed in (("form", FORMS), ("origin", ORIGINS)):
        if header.get(name) and header[name] not in allowed:
            raise ValueError(f"{name} is {header[name]!r}, not one of {', '.join(allowed)}")
    fields = {"footnotes": dict, "notes": list, "versions": dict, "questions_per_s": int | float, "wall_s": int | float}
    for name, kind in fields.items():
        if header.get(name) is not None and not isinstance(header[name], kind):
            raise TypeError(f"{name} is {header[name]!r}")


def _check_row(row: dict[str, Any]) -> None:
    if not isinstance(row["by"], str) or not isinstance(row["key"], str):
        raise TypeError("by or key of a row is no text")
    where = f"row {row['key']!r}"
    if row["by"] == "kind,dataset":
        _ = row["kind"], row["dataset"]
    if row["by"] == DENSE:
        _ = row["n_images"]
    for names, kinds, word in ((TEXTS, str, "text"), (COUNTS, int, "count"), (METRICS, dict | None, "metric")):
        for name in names:
            if name in row and not isinstance(row[name], kinds):
                raise TypeError(f"{name} of {where} is no {word}")
    if row.get("calibration"):
        found = row["calibration"]
        missing = [name for name in (*map(str, LEVELS), "width", "n") if not isinstance(found[name], int | float)]
        if missing:
            raise TypeError(f"calibration of {where} has no {missing[0]}")
    for name, entry in row.items():
        numbers = entry.values() if isinstance(entry, dict) else ()
        if any(number is not None and not isinstance(number, int | float) for number in numbers):
            raise TypeError(f"{name} of {where} holds what is no number")
    for name in ("delta1", "score"):
        if name in row:
            _ = row[name]["value"]
