"""In which order dpkg gets package files: what it cannot work out by itself.

dpkg configures in the order of dependencies, but takes a package with a Pre-Depends only once that
is configured (Debian policy 7.2); and the packages that dpkg itself runs on must lie there before
it can install anything, themselves included.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[a-z0-9][a-z0-9.+-]+")


@dataclass(frozen=True)
class Node:
    """What matters of a package's record. needs and first: alternatives, one of each is needed;
    `first` (Pre-Depends) before the package is unpacked."""

    name: str
    essential: bool
    provides: frozenset[str]
    needs: tuple[tuple[str, ...], ...]
    first: tuple[tuple[str, ...], ...]


def node(record: Mapping[str, str]) -> Node:
    """The node of a package by the fields of its record."""
    first = _relations(record.get("Pre-Depends", ""))
    provided = [word for group in _relations(record.get("Provides", "")) for word in group]
    return Node(
        name=record["Package"],
        essential=record.get("Essential") == "yes",
        provides=frozenset((record["Package"], *provided)),
        needs=(*first, *_relations(record.get("Depends", ""))),
        first=first,
    )


def foundation(nodes: Sequence[Node]) -> set[str]:
    """Names of the essential packages with all that they need."""
    providers: dict[str, list[Node]] = {}
    for one in nodes:
        for name in one.provides:
            providers.setdefault(name, []).append(one)
    found: set[str] = set()
    waiting = [one for one in nodes if one.essential]
    while waiting:
        one = waiting.pop()
        if one.name in found:
            continue
        found.add(one.name)
        for group in one.needs:
            # Of several that would do, the one that was chosen; the first of them, as apt does.
            there = [p for name in group for p in providers.get(name, ())]
            waiting += there[:1]
    return found


def batches(nodes: Sequence[Node], present: Collection[str]) -> Iterator[list[str]]:
    """Names of packages that one run of dpkg can install, run after run.

    present: names, and what they provide, of packages that are configured. What nothing in
    `nodes` or `present` provides does not count: an earlier layer has it, or the resolver erred.
    A circle of Pre-Depends ends as one batch.
    """
    known = {name for one in nodes for name in one.provides}
    there, left = set(present), list(nodes)
    while left:
        ready = [
            one
            for one in left
            if all(
                there.intersection(group) or not known.intersection(group) for group in one.first
            )
        ] or left
        yield [one.name for one in ready]
        names = {one.name for one in ready}
        there |= {name for one in ready for name in one.provides}
        left = [one for one in left if one.name not in names]


def _relations(field: str) -> tuple[tuple[str, ...], ...]:
    """ "a (>= 1) | b, c:any" -> (("a", "b"), ("c",))."""
    return tuple(
        tuple(match[0] for word in group.split("|") if (match := _WORD.match(word.strip())))
        for group in field.split(",")
        if group.strip()
    )
