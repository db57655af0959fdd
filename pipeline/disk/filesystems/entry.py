"""One name of a file system, as the inventory lists it."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One name in the root filesystem; bytes that are not UTF-8 are written "\\xNN".

    kind: "f"ile, "d"irectory, "l"ink or "o"ther. mode: the twelve permission bits. size,
    allocated: bytes; further names of a file that has several count 0 as allocated. check: CRC-32
    of a file's data or a link's target, to tell changed content, not to prove anything. owner:
    index of the package in `Inventory.packages`, or -1.
    """

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    allocated: int
    check: int
    owner: int = -1
