"""A disk written in another format, compared with what it was made from, and packed.

The file has its final name only when it is whole: written in a scratch directory beside it, opened
again, compared byte for byte, and then renamed. What a killed run leaves is that directory, which
the supervisor removes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from pipeline.convert.extract import opened
from pipeline.convert.formats.protocol import Options, OutputFormat, Work
from pipeline.convert.writers.pieces import filled
from pipeline.convert.writers.transport import SUFFIXES, Packing, pack, unpacked
from pipeline.core.errors import DiskError, InputError
from pipeline.core.events import Meter
from pipeline.core.image import DiskImage
from pipeline.core.text import human_bytes
from pipeline.disk.blocks.source import Run, Source
from pipeline.disk.foreign.server import served
from pipeline.host.context import Tools
from pipeline.host.files import finish, naming
from pipeline.host.sparse import digests

_PIECE = 64 << 10
_CHUNK = 1 << 20


class Padded:
    """A source with zeros after its end; a Source."""

    def __init__(self, source: Source, size: int) -> None:
        self._source, self.size = source, size
        self.name = source.name

    def descriptor(self) -> int:
        """The source's."""
        return self._source.descriptor()

    def read(self, offset: int, length: int) -> bytes:
        """See Source."""
        there = max(0, min(length, self._source.size - offset))
        return self._source.read(offset, there).ljust(length, b"\0") if there else bytes(length)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """See Source."""
        there = min(length, self._source.size - offset)
        if there > 0:
            yield from self._source.runs(offset, there)


@dataclass(frozen=True)
class Wanted:
    """What is to be written.

    multiple: bytes that the disk's size is rounded up to, beside the format's own rule. pack: how
    the whole file is compressed.
    """

    form: OutputFormat
    options: Options = field(default_factory=Options)
    multiple: int = 1
    pack: Packing | None = None

    @property
    def suffix(self) -> str:
        """Of the file's name."""
        return self.form.suffix + (SUFFIXES[self.pack] if self.pack else "")


@dataclass(frozen=True)
class Converted:
    """A finished file. virtual: bytes of the disk in it; size, allocated, sha256: of the file."""

    path: Path
    virtual: int
    size: int
    allocated: int
    sha256: str
    notes: tuple[str, ...] = ()


def final_size(source: Source, wanted: Wanted) -> tuple[int, str]:
    """(bytes of the disk that is written, what to say of it where that is not the source's).

    InputError for a disk that the format cannot hold.
    """
    if not source.size:
        raise InputError("convert", source.name, why="the disk in it has no bytes")
    multiple = max(wanted.multiple, wanted.form.multiple)
    size = -(-source.size // multiple) * multiple
    if size > wanted.form.most:
        raise InputError(
            f"write as {wanted.form.name}",
            source.name,
            why=f"it has {human_bytes(source.size)} where the format has "
            f"{human_bytes(wanted.form.most)} at most",
            next_step="Choose another format: qcow2, or raw",
        )
    if size == source.size:
        return size, ""
    return size, (
        f"the disk grows from {source.size} to {size} bytes, a whole number of "
        f"{human_bytes(multiple) if multiple >= 1 << 20 else f'{multiple} bytes'}: zeros are added"
        " at its end"
    )


def convert(source: Source, target: Path, wanted: Wanted, tools: Tools) -> Converted:
    """Write the source's disk as `target`, whole or not at all.

    tools.scratch: on the file system of `target`. Raises InputError for a disk that the format
    cannot hold, DiskError where the source cannot be read or the result is not the same, OSError
    or HostError where it cannot be written.
    """
    size, note = final_size(source, wanted)
    if note:
        tools.progress.say(note)
    disk = Padded(source, size)
    partial = tools.scratch / f"disk{wanted.form.suffix}"
    form = wanted.form
    with naming(target):
        with tools.progress.task(f"Writing {form.name}", size) as meter:
            form.write(disk, partial, Work(wanted.options, tools, meter))
        with tools.progress.task("Comparing it with the source", size) as meter:
            _prove(disk, DiskImage(partial, form.read_as), tools, meter)
        if wanted.pack is not None:
            partial = _packed(partial, wanted.pack, tools)
        digest = _digest(partial)
        status = partial.stat()
        finish(partial, target)
    return Converted(
        target, size, status.st_size, status.st_blocks * 512, digest, (note,) if note else ()
    )


def _prove(disk: Source, written: DiskImage, tools: Tools, meter: Meter) -> None:
    """DiskError unless what was written reads as the disk does; qcow2 by QEMU's own reader."""
    again = served(written.path, "qcow2", tools) if written.format == "qcow2" else None
    with again or opened(written, tools) as copy:
        at = difference(disk, copy, meter)
    if at is not None:
        raise DiskError(
            f"write the {written.format} image of",
            disk.name,
            why=f"what was written differs from the disk at byte {at}",
            next_step="Check this host's memory and storage, and try again",
        )


def difference(first: Source, second: Source, meter: Meter | None = None) -> int | None:
    """The first piece's offset at which two sources differ; None where they are alike."""
    if first.size != second.size:
        return min(first.size, second.size)
    pairs = zip_longest(filled(first, _PIECE, meter), filled(second, _PIECE))
    for ours, theirs in pairs:
        if ours != theirs:
            return min(pair[0] for pair in (ours, theirs) if pair is not None) * _PIECE
    return None


def _packed(plain: Path, packing: Packing, tools: Tools) -> Path:
    """The packed file, whose content was looked at again."""
    path = plain.with_name(plain.name + SUFFIXES[packing])
    total = plain.stat().st_size
    with tools.progress.task(f"Packing by {packing}", total) as meter:
        pack(plain, path, packing, meter)
    found = hashlib.sha256()
    with tools.progress.task("Looking at what was packed", total) as meter:
        for chunk in unpacked(path):
            found.update(chunk)
            meter.advance(len(chunk))
    if found.hexdigest() != _digest(plain):
        raise DiskError(
            f"pack by {packing}",
            plain,
            why="what was packed is not what is unpacked",
            next_step="Check this host's memory and storage, and try again",
        )
    plain.unlink()
    return path


def _digest(path: Path) -> str:
    return digests(path, ["sha256"])["sha256"]
