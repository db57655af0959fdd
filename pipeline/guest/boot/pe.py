"""The headers of PE files: which machine one is for, and where its sections end.

Source: the PE/COFF specification. Everything is bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.core.architecture import Architecture

ARCHITECTURES: Mapping[int, Architecture] = {0x8664: "x86_64", 0xAA64: "aarch64"}
"""What a header's machine is for."""
_OTHERS = {
    0x14C: "32-bit x86",
    0x1C2: "32-bit Arm",
    0x5032: "riscv32",
    0x5064: "riscv64",
    0x6264: "loongarch64",
}
MAX_SECTIONS = 96  # what Windows loads; stubs with all sections have some 20
_HEADER = 24  # bytes before the optional header
_ROW = 40  # bytes of a section's entry


@dataclass(frozen=True)
class Headers:
    """A PE file's. machine: its number. count: sections it says it has. table: their entries."""

    machine: int
    count: int
    table: bytes

    @property
    def end(self) -> int:
        """The byte behind the last section that is stored."""
        rows = range(0, len(self.table) - _ROW + 1, _ROW)
        ends = (sum(struct.unpack_from("<II", self.table, at + 16)) for at in rows)
        return max(ends, default=0)


def machine_words(machine: int) -> str:
    """What a machine is called, for people."""
    return ARCHITECTURES.get(machine) or _OTHERS.get(machine, "another architecture")


def read_headers(file: BinaryIO) -> Headers | None:
    """The headers of an open file; None for what is no PE file, or ends within its headers.

    A file with more sections than MAX_SECTIONS has an empty table.
    """
    file.seek(0)
    head = file.read(64)
    if len(head) < 64 or head[:2] != b"MZ":
        return None
    (at,) = struct.unpack_from("<I", head, 60)
    file.seek(at)
    header = file.read(_HEADER)
    if len(header) < _HEADER or header[:4] != b"PE\0\0":
        return None
    machine, count = struct.unpack_from("<HH", header, 4)
    (optional,) = struct.unpack_from("<H", header, 20)
    if count > MAX_SECTIONS:
        return Headers(machine, count, b"")
    file.seek(at + _HEADER + optional)
    return Headers(machine, count, file.read(_ROW * count))
