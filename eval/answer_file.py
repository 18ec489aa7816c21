"""answers.jsonl: read, continued after a kill, appended to by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, field
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from depthlm.errors import DepthLMError

# Answers under another value of these belong to another run.
IDENTITY = (
    "suite_hash",
    "model",
    "engine",
    "settings",
    "fingerprint",
    "profile",
    "profile_digest",
    "per_conversation",
)


@dataclass
class Answers:
    """An answers file that was read.

    Args:
        header: its first line.
        texts: answer by question id.
        spreads: other answers with their weights by question id, of those that were asked for them.
        latencies: seconds by question id.
        cut: questions whose answer was cut off at the longest that was allowed.
        errors: last reason by question id, of those that have no answer.
        wall_s: working time of all sessions together, seconds.
    """

    header: dict[str, Any]
    texts: dict[str, str] = field(default_factory=dict)
    spreads: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    latencies: dict[str, float] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)
    wall_s: float = 0.0


def read_answers(path: Path) -> Answers:
    """Read an answers file; a torn last line is left out.

    Raises:
        DepthLMError: it can't be read, or a line before the last is no JSON.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DepthLMError(path, f"can't be read: {error.strerror}", "make it with `depthlm eval run`") from error
    return _parse(path, data[: data.rfind(b"\n") + 1])


def _parse(path: Path, data: bytes) -> Answers:
    answers: Answers | None = None
    session_s = 0.0
    for number, line in enumerate(data.splitlines(), 1):
        try:
            row = json.loads(line)
            if answers is None:
                answers = Answers({key: row[key] for key in ("suite_hash", "model")} | row)
            elif "session" in row:
                answers.wall_s, session_s = answers.wall_s + session_s, 0.0
            else:
                session_s = max(session_s, float(row.get("elapsed_s", 0.0)))
                _take(answers, row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DepthLMError(f"{path} line {number}", f"is no line of answers: {error}", "start it afresh") from error
    if answers is None:
        raise DepthLMError(path, "holds no answers", "make it with `depthlm eval run`")
    answers.wall_s += session_s
    return answers


def _take(answers: Answers, row: dict[str, Any]) -> None:
    name = str(row["id"])
    if "error" not in row:
        answers.texts[name] = str(row["text"])
        answers.latencies[name] = float(row.get("latency_s", 0.0))
        if row.get("cut"):
            answers.cut.add(name)
        if "spread" in row:
            answers.spreads[name] = [(str(text), float(weight)) for text, weight in row["spread"]]
        answers.errors.pop(name, None)
    elif name not in answers.texts:
        answers.errors[name] = str(row["error"])


def check_same_run(path: Path, found: dict[str, Any], header: dict[str, Any]) -> None:
    """Raise DepthLMError where a file's header is that of another run."""
    for key in IDENTITY:
        if found.get(key) != header.get(key):
            raise DepthLMError(
                path,
                f"holds answers with {key} {found.get(key)!r}, this run has {header.get(key)!r}",
                "name another --out or --label, or ask all afresh with --fresh",
                "other run",
            )


class AnswerFile:
    """answers.jsonl, open for this process alone: what is there already, and an appender that flushes each time.

    Args:
        fresh: throw away what is there.

    Raises:
        DepthLMError: it can't be written, another process writes it, or it holds answers of another run.
    """

    def __init__(self, path: Path, header: dict[str, Any], fresh: bool = False) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DepthLMError(
                path, f"can't be written: {error.strerror}", "check --out and its permissions"
            ) from error
        self._file: BufferedRandom = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if fresh:  # under the lock: another process may write it
                self._file.truncate(0)
            self.answers = self._open(header)
        except BlockingIOError as error:
            self._file.close()
            raise DepthLMError(path, "another process writes it", "wait for it, or name another --out") from error
        except BaseException:
            self._file.close()
            raise

    def _open(self, header: dict[str, Any]) -> Answers:
        data = self._file.read()
        whole = data.rfind(b"\n") + 1  # what follows is the torn line of a process that was killed
        if whole:
            answers = _parse(self.path, data[:whole])
            check_same_run(self.path, answers.header, header)
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            answers = Answers(header)
            self.append(header)
        return answers

    def append(self, *rows: dict[str, Any]) -> None:
        """Write a line for each row, all out of this process's hands when the call returns.

        Raises:
            DepthLMError: the disk is full or gone.
        """
        try:
            lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for row in rows]
            self._file.write(b"".join(lines))
            self._file.flush()
        except OSError as error:
            raise DepthLMError(self.path, f"can't be written: {error.strerror}", "free space and run again") from error

    def close(self) -> None:
        """Close the file and let others have it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
