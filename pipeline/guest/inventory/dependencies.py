"""Which installed package meets what another one needs, by names as the databases keep them.

Versions are not compared: the guest's own manager did that when it installed. Each need gets one
package, so that what comes out is never longer than what went in.

Sources: deb-control(5), Depends, Pre-Depends and Provides; rpm, docs/manual/dependencies.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pipeline.guest.inventory import Package

_WORD = re.compile(r"\s*([^\s:(\[<]+)")
_EQUAL = re.compile(r"\(\s*=\s*([^)\s]+)\s*\)")

Capability = tuple[str, str]
"""A name, and the version that it must have or has; "" for any."""


class Providers:
    """The packages by their own names and by what else they say they provide."""

    def __init__(
        self, packages: Sequence[Package], provides: Iterable[Iterable[Capability]]
    ) -> None:
        self._names: dict[Capability, int] = {}
        self._provided: dict[Capability, int] = {}
        for index, package in enumerate(packages):
            for architecture in (package.architecture, ""):
                self._names.setdefault((package.name, architecture), index)
        for index, capabilities in enumerate(provides):
            for name, version in capabilities:
                for key in {(name, version), (name, "")}:
                    self._provided.setdefault(key, index)

    def find(self, need: Capability, architecture: str) -> int | None:
        """The package that meets the need of one of that architecture; None when none is known."""
        name, version = need
        places = (
            # Two kernels have one name and two versions.
            (self._provided, (name, version)) if version else None,
            (self._names, (name, architecture)),
            (self._names, (name, "")),
            (self._provided, (name, "")),
        )
        found = (place[0].get(place[1]) for place in places if place is not None)
        return next((index for index in found if index is not None), None)

    def first(self, alternatives: Iterable[Capability], architecture: str) -> int | None:
        """The package that meets the first of the alternatives that one meets."""
        found = (self.find(need, architecture) for need in alternatives)
        return next((index for index in found if index is not None), None)


def words(text: str) -> Iterator[list[Capability]]:
    """The clauses of a Depends or Provides field, each with its alternatives."""
    for clause in text.split(","):
        alternatives = []
        for word in clause.split("|"):
            if match := _WORD.match(word):
                equal = _EQUAL.search(word)
                alternatives.append((match[1], equal[1] if equal else ""))
        if alternatives:
            yield alternatives
