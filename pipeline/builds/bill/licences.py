"""Whether a package's licence is an expression that readers of SPDX understand.

Source: SPDX 2.3, annex D, "SPDX license expressions". rpm's field has been one in Fedora since
release 38; before, and in other distributions, it holds their own words ("GPLv2+ and BSD").
"""

from __future__ import annotations

import re

from pipeline.builds.bill.licence_ids import EXCEPTIONS, LICENCES

_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.+-]+")
_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_MAX_TEXT = 4096  # characters; the kernel's has some hundreds
_MAX_DEPTH = 50


def is_expression(text: str) -> bool:
    """Whether it is a valid expression of listed licences and LicenseRefs."""
    if len(text) > _MAX_TEXT or _TOKEN.sub("", text).strip(" "):
        return False
    tokens = _TOKEN.findall(text)
    return _expression(tokens, 0) and not tokens


def references(text: str) -> list[str]:
    """The LicenseRefs in an expression, each once."""
    return sorted(set(_REFERENCE.findall(text)))


def _expression(tokens: list[str], depth: int) -> bool:
    """Whether an expression comes first; it is taken away."""
    while _simple(tokens, depth):
        if not tokens or tokens[0] not in ("AND", "OR"):
            return True
        del tokens[0]
    return False


def _simple(tokens: list[str], depth: int) -> bool:
    if not tokens or depth > _MAX_DEPTH:
        return False
    word = tokens.pop(0)
    if word == "(":
        inside = _expression(tokens, depth + 1)
        return inside and bool(tokens) and tokens.pop(0) == ")"
    # "Apache-2.0+" is one, too, but license-expression, and spdx-tools with it, refuses it.
    if word not in LICENCES:
        return _REFERENCE.fullmatch(word) is not None
    if tokens[:1] == ["WITH"]:
        return len(tokens) > 1 and (tokens.pop(0), tokens.pop(0))[1] in EXCEPTIONS
    return True
