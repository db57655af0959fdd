"""Where the parts of the disk lie, and their names. Pure.

Sources: UEFI Specification 2.10, chapter 5 (GPT: header and 32 sectors of entries at either end;
type GUID of the EFI system partition); GRUB manual, "BIOS installation" (the BIOS boot partition
and its type GUID); the Discoverable Partitions Specification (root of each architecture).
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from pipeline.core.architecture import WORDS, Architecture

SECTOR = 512
_ALIGN = 2048  # sectors; 1 MiB suits every disk's physical blocks
_BIOS_SECTORS = 2048
_BACKUP = 33  # sectors of the GPT at the disk's end
_LEAST_SYSTEM = 64 << 20  # FAT32 needs 65,525 clusters; smaller ones make the UEFI of some refuse
_SPARE = 16 << 20  # for the loader, the FATs and one day a larger menu

_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


@dataclass(frozen=True)
class Extent:
    """A partition's place in sectors."""

    start: int
    sectors: int


@dataclass(frozen=True)
class Layout:
    """The whole disk, in sectors. root comes last, so that it can grow with the disk.

    bios: None where there is no BIOS to boot by.
    """

    bios: Extent | None
    esp: Extent
    root: Extent
    sectors: int


@dataclass(frozen=True)
class Identities:
    """The disk's identifiers. volume_serial: FAT's, as GRUB searches it ("1A2B-3C4D")."""

    disk: str
    bios: str
    esp: str
    root: str
    volume_serial: str


def lay_out(root_bytes: int, boot_bytes: int, *, bios: bool = True) -> Layout:
    """Place the partitions. root_bytes: of the machine image; boot_bytes: kernel and ramdisk.

    bios: whether the disk is to be booted by a BIOS too.
    """
    core = Extent(_ALIGN, _BIOS_SECTORS) if bios else None
    esp_bytes = max(_LEAST_SYSTEM, boot_bytes + boot_bytes // 8 + _SPARE)
    esp = Extent(_after(core) if core else _ALIGN, _aligned(_sectors(esp_bytes)))
    root = Extent(_after(esp), _sectors(root_bytes))
    return Layout(core, esp, root, _aligned(root.start + root.sectors + _BACKUP))


def identify(fingerprint: bytes) -> Identities:
    """Identifiers that depend on the content alone."""

    def guid(what: str) -> str:
        # RFC 9562, version 8: an identifier of one's own making.
        raw = bytearray(hashlib.sha256(fingerprint + what.encode()).digest()[:16])
        raw[6] = raw[6] & 0x0F | 0x80
        raw[8] = raw[8] & 0x3F | 0x80
        return str(uuid.UUID(bytes=bytes(raw))).upper()

    serial = hashlib.sha256(fingerprint + b"serial").hexdigest()[:8].upper()
    return Identities(
        guid("disk"), guid("bios"), guid("esp"), guid("root"), f"{serial[:4]}-{serial[4:]}"
    )


def sfdisk_script(plan: Layout, ids: Identities, architecture: Architecture = "x86_64") -> str:
    """The partition table as sfdisk(8) reads it."""
    rows = [
        (plan.esp, _SYSTEM, ids.esp, "esp"),
        (plan.root, WORDS[architecture].root_type, ids.root, "root"),
    ]
    if plan.bios is not None:
        rows.insert(0, (plan.bios, _BIOS_BOOT, ids.bios, "bios"))
    head = f"label: gpt\nlabel-id: {ids.disk}\nunit: sectors\nsector-size: {SECTOR}\n\n"
    return head + "".join(
        f'start={e.start}, size={e.sectors}, type={kind}, uuid={own}, name="{name}"\n'
        for e, kind, own, name in rows
    )


def _sectors(count: int) -> int:
    return -(-count // SECTOR)


def _aligned(sectors: int) -> int:
    return -(-sectors // _ALIGN) * _ALIGN


def _after(extent: Extent) -> int:
    return _aligned(extent.start + extent.sectors)
