"""One small registry for readers, question kinds, engines: whatever has names. Lazy, and open by entry points."""

from __future__ import annotations

import difflib
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.metadata import entry_points as installed_entry_points
from typing import Generic, TypeVar

from depthlm.errors import DepthLMError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects; nothing is imported before it is asked for.

    Args:
        kind: what the names stand for, in the words of an error message, e.g. ``"reader"``.
        builtin: name -> ``"module:attribute"``.
        entry_points: group by which outside packages add names; None for none.
    """

    def __init__(self, kind: str, builtin: dict[str, str], entry_points: str | None = None) -> None:
        self.kind = kind
        self.group = entry_points
        self._builtin = dict(builtin)

    @cached_property
    def _outside(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in installed_entry_points(group=self.group) if self.group else ():
            known = self._builtin.get(entry.name) or (entry.name in found and found[entry.name].value)
            if known and known != entry.value:
                raise DepthLMError(
                    f"{self.kind} {entry.name!r}",
                    f"is claimed by {known} and by {entry.value} (entry points {self.group!r})",
                    "uninstall one of the two packages, or rename its entry point",
                    f"duplicate {self.kind}",
                )
            found[entry.name] = entry
        return found

    def names(self) -> list[str]:
        """All known names, sorted."""
        return sorted({*self._builtin, *self._outside})

    def get(self, name: str) -> T:
        """The object called ``name``; its module is imported now. ``-`` and ``_`` are the same.

        Raises:
            DepthLMError: no such name (with the nearest known ones), its module does not import, or it has another
                ``name`` than it is registered by: what is written down of it would not lead back to it.
        """
        exact = next((known for known in self.names() if known.replace("_", "-") == name.replace("_", "-")), None)
        if exact is None:
            near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise DepthLMError(
                f"{self.kind} {name!r}",
                "is not known",
                f"{hint}known: {', '.join(self.names()) or 'none'}",
                f"unknown {self.kind}",
            )
        target = self._builtin.get(exact) or self._outside[exact].value
        module, _, attribute = target.partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise DepthLMError(
                f"{self.kind} {exact!r}",
                f"can't be loaded from {target}: {error}",
                "install the package it needs",
                f"broken {self.kind}",
            ) from error
        own = getattr(found, "name", exact)
        if isinstance(own, str) and own.replace("_", "-") != exact.replace("_", "-"):
            reason = f"calls itself {own!r} in {target}"
            raise DepthLMError(f"{self.kind} {exact!r}", reason, "give both the same name", f"broken {self.kind}")
        return found
