"""points.jsonl: what was asked about a photo, and each point's answer as it comes; an interrupted run continues it.

The first line says whose answers about which photo follow, and how they were asked for. Then a line for each point,
by its column and row in the grid::

    {"point": [3, 0], "xy": [54.5, 9.5], "distance": 3.2, "interval": [2.9, 3.4], "text": "3.20"}
    {"point": [4, 0], "xy": [74.5, 9.5], "distance": null, "text": "far away", "reason": "no number"}
    {"point": [5, 0], "xy": [94.5, 9.5], "error": "no answer in 3 attempts: …"}

A point with an error is asked again next time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from depthlm.errors import DepthLMError

# A point of the grid: row, column.
Index = tuple[int, int]


@dataclass(frozen=True)
class PointAnswer:
    """What was said of a point.

    Args:
        distance: Euclidean from the camera centre, metres; None where the answer tells none, see ``reason``.
        interval: the central 90% of the model's answers, metres; None where it is not known.
        text: the answer as it came.
        cut: it was ended by the longest length allowed.
    """

    distance: float | None
    interval: tuple[float, float] | None
    text: str
    reason: str = ""
    cut: bool = False

    def row(self) -> dict[str, Any]:
        """JSON-ready, without what there is not."""
        out: dict[str, Any] = {"distance": self.distance, "interval": self.interval, "text": self.text}
        out |= {"reason": self.reason, "cut": self.cut}
        return {key: value for key, value in out.items() if value or key in ("distance", "text")}


class PointLog:
    """points.jsonl, open for this process alone; as a context manager.

    Args:
        path: None: nothing is written.
        header: its first line.
        fresh: throw away what is there.

    Raises:
        DepthLMError: it can't be read or written, another process writes it, or it holds another run.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any], fresh: bool = False) -> None:
        self.path, self.answers = path, dict[Index, PointAnswer]()
        self._file: BinaryIO | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
        except OSError as error:
            raise DepthLMError(path, f"can't be written: {error.strerror}", "give another folder") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if fresh:  # under the lock: another process may write it
                self._file.truncate(0)
            self._continue(path, json.loads(json.dumps(header)))
        except BlockingIOError as error:
            self.close()
            raise DepthLMError(path, "another process writes it", "wait for it, or give another folder") from error
        except BaseException:
            self.close()
            raise

    def _continue(self, path: Path, header: dict[str, Any]) -> None:
        assert self._file is not None
        data = self._file.read()
        whole = data.rfind(b"\n") + 1  # what follows is the torn line of a process that was killed
        lines = data[:whole].splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if number == 1:
                    _check_same(path, dict(row), header)
                elif "error" not in row:
                    column, line_of_grid = row["point"]
                    self.answers[int(line_of_grid), int(column)] = _answer(row)
            except (ValueError, KeyError, TypeError) as error:
                reason = f"is no line of answers: {error}"
                raise DepthLMError(f"{path} line {number}", reason, "start afresh: --fresh") from error
        self._file.truncate(whole)
        self._file.seek(whole)
        if not lines:
            self._append(header)

    def add(self, at: Index, xy: tuple[float, float], found: PointAnswer | DepthLMError) -> None:
        """Keep a point's answer, or the error that there was instead."""
        row: dict[str, Any] = {"point": [at[1], at[0]], "xy": [round(v, 4) for v in xy]}
        if isinstance(found, PointAnswer):
            self.answers[at] = found
            self._append(row | found.row())
        else:
            self._append(row | {"error": found.reason})

    def _append(self, row: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise DepthLMError(
                self.path or "", f"can't be written: {error.strerror}", "free space, run again"
            ) from error

    def close(self) -> None:
        """Let other processes have it. May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_same(path: Path, found: dict[str, Any], header: dict[str, Any]) -> None:
    for key in (*header, *found):
        if found.get(key) != header.get(key):
            reason = f"holds answers with another {key}: {_short(found.get(key))}, and not {_short(header.get(key))}"
            raise DepthLMError(path, reason, "give another --out, or throw them away with --fresh", "another run")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _answer(row: Mapping[str, Any]) -> PointAnswer:
    distance, interval = row["distance"], row.get("interval")
    return PointAnswer(
        None if distance is None else float(distance),
        None if interval is None else (float(interval[0]), float(interval[1])),
        str(row["text"]),
        str(row.get("reason", "")),
        bool(row.get("cut")),
    )
