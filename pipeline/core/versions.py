"""The order of version numbers."""

from __future__ import annotations

import re

_CANDIDATE = re.compile(r"(?<=\d)[-._]rc(?=\d)")


_TOKEN = re.compile(r"~|[0-9]+|[A-Za-z]+")


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key: numbers by value, numbers after letters, release candidates first.

    The order is rpm's (rpmvercmp: "~" sorts before the end, letters after it, numbers after
    letters), with "-rc1" after a number read as "~rc1".
    """
    key: list[tuple[int, int | str]] = []
    for part in _TOKEN.findall(_CANDIDATE.sub("~rc", version, count=1)):
        if part == "~":
            key.append((-1, 0))
        elif part.isdecimal():
            key.append((2, int(part)))
        else:
            key.append((1, part))
    key.append((0, 0))
    return tuple(key)
