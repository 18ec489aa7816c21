"""Options that many readers have, refused in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from depthlm.errors import DepthLMError


def check_one_of(option: str, value: Any, known: Any) -> None:
    """Refuse a value that is none of a ``Literal``'s.

    Raises:
        DepthLMError: naming those there are.
    """
    if value not in get_args(known):
        raise DepthLMError(option, f"{value!r} is not one of {', '.join(get_args(known))}")


def check_every(every: int) -> None:
    """Refuse to take every zeroth frame.

    Raises:
        DepthLMError: below 1.
    """
    if every < 1:
        raise DepthLMError("every", f"must be at least 1, got {every}")


def camera_names(given: str | Sequence[str], known: Sequence[str], groups: dict[str, Sequence[str]]) -> list[str]:
    """One camera's name, several in a list, or a word for a group, as a list of names.

    Raises:
        DepthLMError: none, or one that is not known.
    """
    names = groups.get(given, (given,)) if isinstance(given, str) else given
    if unknown := [name for name in names if name not in known] or not names:
        raise DepthLMError("cameras", f"{unknown or given!r} is unknown", f"known are {', '.join((*groups, *known))}")
    return list(names)
