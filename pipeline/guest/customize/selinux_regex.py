"""Regular expressions of SELinux file contexts, matched in bounded time.

The expressions come from the guest, and a backtracking matcher can be kept busy for years by one
of thirty characters. This one follows all paths at once (sets of positions), counts its steps,
and knows what policies use: literals, ".", classes, groups, "|", "?", "*", "+", "{m,n}".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_MAX_PATTERN = 2000  # characters; the longest of the Fedora policy has some 200
_MAX_REPEAT = 64
_MAX_DEPTH = 20
_MAX_STEPS = 200_000  # policies need some hundreds a match
_BOUNDS = re.compile(r"\{(\d{1,3})(,?)(\d{0,3})\}")
_SHORTHAND: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
}


class PatternError(ValueError):
    """An expression that is not understood, or that takes too long."""


@dataclass(frozen=True)
class _One:
    test: Callable[[str], bool]


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Either:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node = _One | _Sequence | _Either | _Repeat


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of `text` matches. PatternError when that cannot be told."""
    return len(text) in _Matcher(text).ends(parse(pattern), frozenset({0}))


def fixed_prefix(pattern: str) -> str:
    """Literal characters that every match begins with: a cheap first test."""
    prefix = ""
    index = 0
    while index < len(pattern) and pattern[index] not in ".^$?*+|[({)":
        if pattern[index] == "\\":
            index += 1
            if index == len(pattern) or pattern[index].isalnum():
                break
        prefix += pattern[index]
        index += 1
    # A quantifier makes the character before it optional; "|" at the top makes everything so.
    if index < len(pattern) and pattern[index] in "?*{":
        prefix = prefix[:-1]
    return "" if "|" in re.sub(r"\([^()]*\)", "", pattern) else prefix


def parse(pattern: str) -> _Node:
    """The expression as a tree."""
    if len(pattern) > _MAX_PATTERN:
        raise PatternError("it is too long")
    parser = _Parser(pattern)
    node = parser.either(0)
    if parser.at < len(pattern):
        raise PatternError(f"unbalanced at {parser.at}")
    return node


class _Matcher:
    def __init__(self, text: str) -> None:
        self._text, self._steps = text, 0

    def ends(self, node: _Node, starts: frozenset[int]) -> frozenset[int]:
        """Positions behind every match of `node` that begins at one of `starts`."""
        self._steps += 1 + len(starts)
        if self._steps > _MAX_STEPS:
            raise PatternError("it takes too long")
        match node:
            case _One(test):
                text = self._text
                return frozenset(i + 1 for i in starts if i < len(text) and test(text[i]))
            case _Sequence(parts):
                for part in parts:
                    if not starts:
                        break
                    starts = self.ends(part, starts)
                return starts
            case _Either(parts):
                return frozenset().union(*(self.ends(part, starts) for part in parts))
            case _Repeat(part, least, most):
                for _ in range(least):
                    starts = self.ends(part, starts)
                reached = new = starts
                count = least
                while new and (most is None or count < most):
                    new = self.ends(part, new) - reached
                    reached |= new
                    count += 1
                return reached


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def either(self, depth: int) -> _Node:
        if depth > _MAX_DEPTH:
            raise PatternError("it is nested too deeply")
        parts = [self._sequence(depth)]
        while self._next() == "|":
            self.at += 1
            parts.append(self._sequence(depth))
        return parts[0] if len(parts) == 1 else _Either(tuple(parts))

    def _next(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def _sequence(self, depth: int) -> _Node:
        parts: list[_Node] = []
        anchors = {0: "^", len(self.pattern) - 1: "$"}  # the whole path is matched anyway
        while self._next() and self._next() not in "|)":
            if self._next() == anchors.get(self.at):
                self.at += 1
            else:
                parts.append(self._quantified(depth))
        return _Sequence(tuple(parts))

    def _quantified(self, depth: int) -> _Node:
        node = self._atom(depth)
        while True:
            symbol = self._next()
            if symbol and symbol in "?*+":
                self.at += 1
                node = _Repeat(node, int(symbol == "+"), 1 if symbol == "?" else None)
            elif found := _BOUNDS.match(self.pattern, self.at):
                self.at = found.end()
                least = int(found[1])
                most = int(found[3]) if found[3] else (None if found[2] else least)
                if least > _MAX_REPEAT or (most or 0) > _MAX_REPEAT:
                    raise PatternError("it repeats too often")
                node = _Repeat(node, least, most)
            else:
                return node

    def _atom(self, depth: int) -> _Node:
        symbol = self._next()
        self.at += 1
        if symbol == "(":
            if self.pattern.startswith("?:", self.at):
                self.at += 2
            elif self._next() == "?":
                raise PatternError("look-around is not understood")
            node = self.either(depth + 1)
            if self._next() != ")":
                raise PatternError("a group is not closed")
            self.at += 1
            return node
        if symbol == ".":
            return _One(lambda _: True)  # libselinux compiles with PCRE2_DOTALL
        if symbol == "[":
            return _One(self._class())
        if symbol == "\\":
            return _One(self._escaped())
        if symbol in "?*+^$":
            raise PatternError(f"{symbol} stands where nothing can be repeated or anchored")
        return _One(lambda c: c == symbol)

    def _escaped(self) -> Callable[[str], bool]:
        symbol = self._next()
        self.at += 1
        if symbol in _SHORTHAND:
            return _SHORTHAND[symbol]
        if not symbol or symbol.isalnum():
            raise PatternError(f"\\{symbol} is not understood")
        return lambda c: c == symbol

    def _class(self) -> Callable[[str], bool]:
        negated = self._next() == "^"
        self.at += negated
        tests: list[Callable[[str], bool]] = []
        first = True
        while first or self._next() != "]":
            first = False
            symbol = self._next()
            if not symbol or self.pattern.startswith("[:", self.at):
                raise PatternError("a class is not closed or not understood")
            self.at += 1
            if symbol == "\\":
                test = self._escaped()
                symbol = self.pattern[self.at - 1]
                if symbol in _SHORTHAND:
                    tests.append(test)
                    continue
            end = symbol
            if self._next() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                end = self.pattern[self.at + 1]
                self.at += 2
            tests.append(_between(symbol, end))
        self.at += 1
        return lambda c: any(test(c) for test in tests) != negated


def _between(low: str, high: str) -> Callable[[str], bool]:
    return lambda c: low <= c <= high
