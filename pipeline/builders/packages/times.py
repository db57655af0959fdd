"""When package files were built: the date by which all that a build writes anew is dated.

It is a function of the packages alone, so that the same packages give the same bytes whenever and
wherever they are installed. Sources: deb(5) and ar(5), whose member headers carry the date of the
last changelog entry; the RPM package format (rpm.org, "Package format, version 3 and 4").
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import InputError
from pipeline.host.files import naming

_AR = b"!<arch>\n"
_RPM = b"\xed\xab\xee\xdb"
_HEADER = b"\x8e\xad\xe8\x01"
_LEAD = 96  # bytes before an RPM's signature header
_INTRO = 16  # bytes of a header before its index: magic, reserved, number of entries, bytes of data
_ENTRY = 16  # bytes an entry of the index: tag, type, offset, count
_BUILD_TIME = 1006  # RPMTAG_BUILDTIME, INT32
_MOST = 64 << 20  # bytes of a header; larger ones are no package's


def newest(files: Iterable[Path]) -> int:
    """Seconds since 1970 of the newest of these .deb and .rpm files; 0 without files.

    InputError for a file that is neither.
    """
    return max((built(file) for file in files), default=0)


def built(file: Path) -> int:
    """Seconds since 1970 when a .deb or an .rpm was built."""
    with naming(file), file.open("rb") as stream:
        head = stream.read(_LEAD)
        if head.startswith(_AR):
            word = head[len(_AR) + 16 : len(_AR) + 28].strip()
            if word.isdigit():
                return int(word)
        elif head.startswith(_RPM):
            _skip(stream.read(_INTRO), stream)
            stream.seek(-stream.tell() % 8, 1)
            found = _build_time(stream.read(_INTRO), stream)
            if found is not None:
                return found
    raise InputError(
        "tell when it was built",
        file,
        why="it is neither a .deb nor an .rpm, or was cut off",
        next_step="Delete it; it is fetched again",
    )


def _sizes(intro: bytes) -> tuple[int, int]:
    """Entries and bytes of data of a header; (0, 0) for what is none."""
    if len(intro) < _INTRO or not intro.startswith(_HEADER):
        return 0, 0
    entries, data = struct.unpack(">II", intro[8:16])
    return (0, 0) if entries * _ENTRY + data > _MOST else (entries, data)


def _skip(intro: bytes, stream: BinaryIO) -> None:
    entries, data = _sizes(intro)
    stream.seek(entries * _ENTRY + data, 1)


def _build_time(intro: bytes, stream: BinaryIO) -> int | None:
    entries, _ = _sizes(intro)
    index = stream.read(entries * _ENTRY)
    store = stream.tell()
    for place in range(0, len(index) - _ENTRY + 1, _ENTRY):
        tag, _, offset, _ = struct.unpack_from(">IIII", index, place)
        if tag == _BUILD_TIME:
            stream.seek(store + offset)
            word = stream.read(4)
            return int.from_bytes(word, "big") if len(word) == 4 else None
    return None
