"""The formats by their names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pipeline.convert.formats import ova, qcow2, raw, tar, vdi, vhd, vhdx, vmdk
from pipeline.convert.formats.protocol import OutputFormat
from pipeline.core.errors import InputError

FORMATS: dict[str, OutputFormat] = {
    module.FORMAT.name: module.FORMAT for module in (raw, qcow2, vmdk, vdi, vhd, vhdx, ova, tar)
}


def find_format(word: str) -> OutputFormat:
    """The format of that name; InputError that offers the nearest."""
    if word not in FORMATS:
        raise unknown("write the format", word, FORMATS)
    return FORMATS[word]


def unknown(attempted: str, word: str, known: Iterable[str]) -> InputError:
    """The error for a word that is none of those known."""
    names = sorted(known)
    near = difflib.get_close_matches(word.lower(), names, 1)
    return InputError(
        attempted,
        word,
        why=f"there are {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else ""),
        next_step="Use one of these",
    )
