"""In which order dpkg gets package files: what it cannot work out by itself.

dpkg configures in the order of dependencies, but unpacks a package with a Pre-Depends only once
that is configured (Debian policy 7.2); and the packages that dpkg itself runs on must lie there
before it can install anything, themselves included.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["unpack", "configure"]
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
    return _closure(_providers(nodes), [one for one in nodes if one.essential])


def steps(nodes: Sequence[Node], done: Collection[str]) -> Iterator[tuple[Action, list[str]]]:
    """What dpkg is to do with the names of packages, run after run; the last configures the rest.

    done: names of those in `nodes` that are configured. What none of `nodes` provides does not
    count: a layer below has it, or the resolver erred, which dpkg will say. A circle of
    Pre-Depends is unpacked at once.
    """
    providers = _providers(nodes)
    configured, unpacked = set(done), set(done)
    left = [one for one in nodes if one.name not in done]
    while left:
        before = {
            one.name: _closure(
                providers, [p for group in one.first for p in _chosen(providers, group)]
            )
            - {one.name}
            for one in left
        }
        ready = [one for one in left if before[one.name] <= unpacked] or left
        needed = {name for one in ready for name in before[one.name]} & unpacked - configured
        if needed:
            yield "configure", sorted(needed)
            configured |= needed
        yield "unpack", [one.name for one in ready]
        unpacked |= {one.name for one in ready}
        left = [one for one in left if one.name not in unpacked]
    if unpacked - configured:
        yield "configure", []


def _providers(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for one in nodes:
        for name in one.provides:
            found.setdefault(name, []).append(one)
    return found


def _chosen(providers: Mapping[str, list[Node]], group: Sequence[str]) -> list[Node]:
    """Of the alternatives the one that is there, the first where several are, as apt takes it."""
    there = [
        p
        for name in group
        for p in sorted(providers.get(name, ()), key=lambda p: p.name not in group)
    ]
    return there[:1]


def _closure(providers: Mapping[str, list[Node]], begin: Sequence[Node]) -> set[str]:
    """Names of packages with all that they need."""
    found: set[str] = set()
    waiting = list(begin)
    while waiting:
        one = waiting.pop()
        if one.name not in found:
            found.add(one.name)
            waiting += (p for group in one.needs for p in _chosen(providers, group))
    return found


def _relations(field: str) -> tuple[tuple[str, ...], ...]:
    """ "a (>= 1) | b, c:any" -> (("a", "b"), ("c",))."""
    return tuple(
        tuple(match[0] for word in group.split("|") if (match := _WORD.match(word.strip())))
        for group in field.split(",")
        if group.strip()
    )
