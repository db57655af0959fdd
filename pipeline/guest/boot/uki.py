"""Unified kernel images: kernel, ramdisk and settings in the sections of one PE file.

Sources: UAPI.5 Unified Kernel Image; the PE/COFF specification. Everything is bounded.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import GuestError
from pipeline.guest.access.paths import shown
from pipeline.guest.boot import pe
from pipeline.host.sparse import CHUNK, pieces

_MAX_TEXT = 64 << 10  # bytes of one section that is text
_LINE = re.compile(r"^\s*([A-Z_]+)=(?:\"([^\"]*)\"|'([^']*)'|(\S*))\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Uki:
    """One image. sections: name -> (offset, bytes) in the file. texts: those that are text."""

    path: Path
    sections: Mapping[str, tuple[int, int]]
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def release(self) -> Mapping[str, str]:
        """What its os-release says."""
        found = {}
        for name, *values in _LINE.findall(self.texts.get(".osrel", "")):
            found[name] = next((value for value in values if value), "")
        return found

    @property
    def kernel_version(self) -> str:
        """The kernel's version as the image's maker wrote it down; "" if nobody did."""
        return self.texts.get(".uname", "").strip()

    def carve(self, section: str, out: Path) -> None:
        """Copy one section to a new file."""
        offset, size = self.sections[section]
        with self.path.open("rb") as source, out.open("wb") as target:
            for at, length in pieces(offset, size, CHUNK):
                target.write(os.pread(source.fileno(), length, at))


def read_uki(path: Path, name: str) -> Uki | None:
    """The image in a file; None for a PE file without a kernel, such as a boot loader.

    name: what the file is called in the guest. GuestError for one that is damaged, or for an
    architecture that no recipe can have.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        headers = pe.read_headers(file)
        if headers is None:
            return None
        if headers.count > pe.MAX_SECTIONS:
            raise _unusable(name, f"it has {headers.count} sections")
        sections = _sections(headers.table, size, name)
        if ".linux" not in sections:
            return None
        if headers.machine not in pe.ARCHITECTURES:
            raise _unusable(name, f"it is for {pe.machine_words(headers.machine)}")
        texts = {}
        for section in (".osrel", ".uname", ".cmdline"):
            offset, length = sections.get(section, (0, 0))
            file.seek(offset)
            text = file.read(min(length, _MAX_TEXT))
            texts[section] = text.rstrip(b"\0").decode(errors="replace")
    return Uki(path, sections, texts)


def _sections(table: bytes, size: int, name: str) -> dict[str, tuple[int, int]]:
    """The sections of the first profile: what is before the first ".profile", and behind it."""
    found: dict[str, tuple[int, int]] = {}
    profiles = 0
    for at in range(0, len(table) - 39, 40):
        raw = table[at : at + 8].rstrip(b"\0").decode(errors="replace")
        virtual, _, stored, offset = struct.unpack_from("<IIII", table, at + 8)
        if raw == ".profile":
            profiles += 1
        if profiles > 1:
            break
        # What is stored is padded; what is loaded may be longer, by zeros.
        length = min(virtual, stored) if virtual else stored
        if offset + length > size:
            raise _unusable(name, f"its section {shown(raw)} ends beyond the file")
        if raw not in found or profiles:
            found[raw] = (offset, length)
    return found


def _unusable(name: str, why: str) -> GuestError:
    return GuestError(
        "use the unified kernel image",
        shown(name),
        why=why,
        next_step="Make it again in the guest (ukify), or install a kernel in /boot",
    )
