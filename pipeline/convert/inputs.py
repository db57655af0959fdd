"""What a disk may come in, recognised by its own bytes, and its content whatever that is.

Raw disks and qcow2 are read by our own readers; VMDK, VDI, VHD and VHDX by QEMU over NBD once our
own check has found that their headers name no other file; what is compressed is unpacked first,
within a bound; of an archive the one disk in it is read where it lies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.convert.writers.transport import packing_of, unpack
from pipeline.core.errors import InputError
from pipeline.core.image import DiskFormat
from pipeline.disk.blocks.qcow2 import MAGIC, Qcow2
from pipeline.disk.blocks.source import RawFile, Source
from pipeline.disk.blocks.volume import Stretch, Volume
from pipeline.disk.foreign import archive, vdi, vhd, vhdx, vmdk
from pipeline.disk.foreign.server import Driver, served
from pipeline.host.context import Tools

MOST = 256 << 30
"""Bytes that what is compressed may grow to unless the user says otherwise."""
COMPRESSED: frozenset[DiskFormat] = frozenset({"gzip", "xz", "zstd", "bzip2"})
_DRIVERS: dict[DiskFormat, Driver] = {"vmdk": "vmdk", "vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx"}
_CHECKS: dict[DiskFormat, Callable[[Source], object]] = {
    "vmdk": vmdk.check,
    "vdi": vdi.check,
    "vhd": vhd.check,
    "vhdx": vhdx.check,
    "qcow2": Qcow2,
    "tar": archive.disk_in,
}
_MAGIC: dict[bytes, DiskFormat] = {
    MAGIC: "qcow2",
    vmdk.MAGIC: "vmdk",
    vhdx.MAGIC: "vhdx",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}
_NOT_READ = {
    b"COWD": "VMDK of ESX",
    b"QED\0": "QED",
    b"\x7fELF": "ELF",
    b"PK\x03\x04": "zip",
}
_MOST_NESTED = 3  # a tar.gz of a disk is two deep
_SECTOR = 512


def recognise(source: Source) -> DiskFormat:
    """What a file is by its first and last bytes; InputError for what is never read."""
    head = source.read(0, min(source.size, _SECTOR))
    for magic, form in _MAGIC.items():
        if head.startswith(magic):
            return form
    if head[vdi.SIGNATURE_AT :].startswith(vdi.SIGNATURE):
        return "vdi"
    if head.startswith(vmdk.DESCRIPTOR):
        vmdk.refuse_descriptor(source)
    for magic, name in _NOT_READ.items():
        if head.startswith(magic):
            raise InputError(
                "use the disk",
                source.name,
                why=f"it is a {name} file, which is not read",
                next_step="Unpack it, or convert it with qemu-img convert -O qcow2",
            )
    if len(head) < _SECTOR:
        raise InputError(
            "use the disk",
            source.name,
            why="it is smaller than one sector",
            next_step="Give the whole installed disk",
        )
    if vhd.is_vhd(source):
        return "vhd"
    return "tar" if archive.is_tar(source) else "raw"


def check(source: Source, form: DiskFormat) -> None:
    """InputError for a header that names other files, DiskError for one that is damaged."""
    if form in _CHECKS:
        found = _CHECKS[form](source)
        if isinstance(found, Volume):
            check(found, recognise(found))


@contextmanager
def content(file: RawFile, form: DiskFormat, tools: Tools, *, most: int = MOST) -> Iterator[Source]:
    """The disk that a file holds; Sources over it are the file's own bytes where they can be.

    most: bytes that it may be unpacked to. Raises what `check` raises, InputError for too much.
    """
    with _content(file, file, form, tools, most, depth=0) as source:
        yield source


@contextmanager
def _content(
    file: RawFile, part: Source, form: DiskFormat, tools: Tools, most: int, *, depth: int
) -> Iterator[Source]:
    """The disk in a part of a file, which is all of it but in an archive."""
    if depth > _MOST_NESTED:
        raise InputError(
            "use the disk",
            file.name,
            why="it is wrapped more than three times",
            next_step="Unpack it yourself",
        )
    if form in COMPRESSED:
        _require_whole(file, part)
        with RawFile(_unpacked(file, tools, most)) as plain:
            inner = recognise(plain)
            with _content(plain, plain, inner, tools, most, depth=depth + 1) as source:
                yield source
    elif form == "tar":
        disk = archive.disk_in(part)
        with _content(file, disk, recognise(disk), tools, most, depth=depth + 1) as source:
            yield source
    elif form == "qcow2":
        yield Qcow2(part)
    elif form == "vhd" and (found := vhd.check(part)).fixed:
        yield Volume(part, [Stretch(0, found.size)], part.name)
    elif form in _DRIVERS:
        _CHECKS[form](part)
        status = os.fstat(file.descriptor())
        where = _stretch(file, part)
        driver = _DRIVERS[form]
        with served(Path(file.name), driver, tools, stretch=where, identity=status) as source:
            yield source
    else:
        yield part


def _stretch(file: RawFile, part: Source) -> tuple[int, int] | None:
    """(offset, length) of a part in its file; None for all of it."""
    start = 0
    size = part.size
    while isinstance(part, Volume):
        start += part.stretches[0].start
        part = part.source
    return None if (start, size) == (0, file.size) else (start, size)


def _require_whole(file: RawFile, part: Source) -> None:
    if part is not file:
        raise InputError(
            "use the disk",
            part.name,
            why="it is compressed within its archive",
            next_step="Unpack the archive with tar, and give the disk in it",
        )


def _unpacked(file: RawFile, tools: Tools, most: int) -> Path:
    """The file with what a compressed one holds; of one build it is made once."""
    status = os.fstat(file.descriptor())
    name = f"unpacked-{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}"
    target, partial = tools.scratch / name, tools.scratch / f"{name}.partial"
    if target.exists():
        return target
    path = Path(file.name)
    with tools.progress.task(f"Unpacking {path.name} ({packing_of(path)})", None) as meter:
        try:
            unpack(path, partial, most, meter)
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
    return target
