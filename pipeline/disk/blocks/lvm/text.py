"""LVM2's text metadata: a parser for the configuration language of lvm.conf(5).

Sections `name { ... }`, settings `name = value`, where a value is a number, a quoted string or an
array; comments from # to the end of the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias, Union

Value: TypeAlias = Union[int, str, "list[Value]", "Section"]
Section: TypeAlias = dict[str, Value]

_TOKEN = re.compile(
    r"""(?:\s|\#[^\n]*)*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>-?\d+(?:\.\d+)?(?![\w.+-]))
    | (?P<name>[A-Za-z0-9_.+/-]+)
    | (?P<mark>[{}\[\]=,])
    | (?P<end>\0*$)
    )""",
    re.VERBOSE | re.DOTALL,
)
_MAX_DEPTH = 16  # lvm2 itself nests four deep
_MAX_DIGITS = 20  # of 2**64


class MetadataError(ValueError):
    """The text is not the metadata it should be; the words say what is wrong with it."""


def parse(text: str) -> Section:
    """The metadata as nested dicts. Raises MetadataError that names the line."""
    return _Parser(text).section(0, top=True)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._kind, self._word = next(self._tokens)

    def _split(self) -> Iterator[tuple[str, str]]:
        position = 0
        while True:
            match = _TOKEN.match(self._text, position)
            if match is None or match.lastgroup is None:
                raise self._error(position)
            position = match.end()
            self._position = position
            yield match.lastgroup, match[match.lastgroup]
            if match.lastgroup == "end":
                return

    def _error(self, position: int) -> MetadataError:
        return MetadataError(
            f"line {self._text.count(chr(10), 0, position) + 1} cannot be understood"
        )

    def _next(self) -> tuple[str, str]:
        taken = self._kind, self._word
        self._kind, self._word = next(self._tokens, ("end", ""))
        return taken

    def _expect(self, word: str) -> None:
        if self._next() != ("mark", word):
            raise self._error(self._position)

    def section(self, depth: int, *, top: bool = False) -> Section:
        found: Section = {}
        if depth > _MAX_DEPTH:
            raise self._error(self._position)
        while True:
            kind, word = self._next()
            if (kind == "end") if top else ((kind, word) == ("mark", "}")):
                return found
            if kind not in ("name", "number") or word in found:
                raise self._error(self._position)
            if (self._kind, self._word) == ("mark", "{"):
                self._next()
                found[word] = self.section(depth + 1)
            else:
                self._expect("=")
                found[word] = self._value(depth + 1)

    def _value(self, depth: int) -> Value:
        kind, word = self._next()
        if kind == "string":
            return re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL)
        if kind == "number" and len(word) <= _MAX_DIGITS:
            return int(word.partition(".")[0])
        if (kind, word) != ("mark", "[") or depth > _MAX_DEPTH:
            raise self._error(self._position)
        items: list[Value] = []
        while (self._kind, self._word) != ("mark", "]"):
            items.append(self._value(depth + 1))
            if (self._kind, self._word) == ("mark", ","):
                self._next()
            elif (self._kind, self._word) != ("mark", "]"):
                raise self._error(self._position)
        self._next()
        return items


def number(section: Mapping[str, Value], name: str) -> int:
    """The number called `name`, not negative; MetadataError without one."""
    value = section.get(name)
    if not isinstance(value, int) or value < 0:
        raise MetadataError(f"there is no number {name}")
    return value


def string(section: Mapping[str, Value], name: str) -> str:
    """The string called `name`; MetadataError without one."""
    value = section.get(name)
    if not isinstance(value, str):
        raise MetadataError(f"there is no string {name}")
    return value


def strings(section: Mapping[str, Value], name: str) -> list[str]:
    """The strings of the array (or single string) called `name`; none if there is no such array."""
    value = section.get(name, [])
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]


def subsection(section: Mapping[str, Value], name: str) -> Section:
    """The section called `name`; MetadataError without one."""
    value = section.get(name)
    if not isinstance(value, dict):
        raise MetadataError(f"there is no section {name}")
    return value


def subsections(section: Mapping[str, Value], name: str) -> dict[str, Section]:
    """All sections in the section called `name`; none if there is no such section."""
    value = section.get(name, {})
    if not isinstance(value, dict):
        raise MetadataError(f"{name} is no section")
    return {key: item for key, item in value.items() if isinstance(item, dict)}
