"""Writes a tar archive whose only member is the raw disk, disk.raw, in GNU tar's old format."""

from __future__ import annotations

import tarfile
from pathlib import Path

from pipeline.convert.writers.pieces import filled
from pipeline.core.events import Meter
from pipeline.disk.blocks.source import Source

MEMBER = "disk.raw"
_PIECE = 64 << 10


def write_disk_tar(source: Source, target: Path, meter: Meter | None = None) -> None:
    """Write the archive anew; the disk's holes are holes of the archive.

    OSError where it cannot be written, DiskError where the source cannot be read.
    """
    info = tarfile.TarInfo(MEMBER)
    info.size, info.mode = source.size, 0o644
    head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    end = len(head) + source.size + -source.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE
    with target.open("wb") as out:
        out.truncate(end + -end % tarfile.RECORDSIZE)
        out.write(head)
        for number, piece in filled(source, _PIECE, meter):
            at = number * _PIECE
            out.seek(len(head) + at)
            out.write(piece[: source.size - at])
