"""The guest's view of a qcow2 disk, read cluster by cluster without converting it.

Source: QEMU's docs/interop/qcow2.txt, versions 2 and 3. A disk that names another file is refused:
a hostile one could name any file of this host.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import zstandard

from pipeline.core.errors import DiskError, InputError
from pipeline.disk.blocks.source import Run, Source, check_range

MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER3 = struct.Struct(">QQQII")
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1
_DIRTY, _CORRUPT, _EXTERNAL, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_COMPRESSION_TYPE, _ZSTD = 104, b"\1"
_MOST_WINDOW = 1 << 27  # bytes that a zstd frame may ask for
_MAX_CLUSTER_BITS = 21  # QEMU's own limits
_MAX_L1 = 32 << 20
_TABLES = 8
"""L2 tables kept: each maps 512 MB at the usual 64 KiB clusters, and reads come mostly in order."""
_SECTOR = 512


class _Header(NamedTuple):
    """The fields of version 2, in order; offsets and sizes in bytes."""

    magic: bytes
    version: int
    backing: int
    backing_length: int
    cluster_bits: int
    size: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcount_table: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int


class Qcow2:
    """The content of a qcow2 file; a Source. `Run.at` counts in the qcow2 file itself."""

    def __init__(self, file: Source) -> None:
        self._file = file
        self._unpack = _inflate
        self.name = file.name
        if file.size < _HEADER.size:
            raise self._broken("it is too short")
        header = _Header._make(_HEADER.unpack(file.read(0, _HEADER.size)))
        self.size, self._l1 = header.size, header.l1_offset
        self._bits = header.cluster_bits
        if header.version == 1:
            raise InputError(
                "use the disk",
                self.name,
                why="it is of version 1 of the format (qcow), which is not read",
                next_step=f"Convert it: qemu-img convert -f qcow -O qcow2 {self.name} NEW.qcow2",
            )
        if header.magic != MAGIC or header.version not in (2, 3):
            raise self._broken(f"it is of version {header.version}")
        if not 9 <= self._bits <= _MAX_CLUSTER_BITS:
            raise self._broken("its cluster size is impossible")
        if header.version == 3:
            self._check_features()
        if header.backing:
            raise self._refused("it is a layer over another file, which is not opened")
        if header.encryption:
            raise self._refused("it is encrypted")
        self._cluster = 1 << self._bits
        self._per_table = self._cluster // 8
        needed = -(-self.size // (self._cluster * self._per_table))
        if header.l1_entries < needed or needed * 8 > _MAX_L1 or self._l1 % _SECTOR:
            raise self._broken("its first-level table does not fit its size")
        self._table = lru_cache(_TABLES)(self._read_table)
        self._inflated = lru_cache(2)(self._inflate)

    def _check_features(self) -> None:
        if self._file.size < _HEADER.size + _HEADER3.size:
            raise self._broken("it is too short")
        incompatible, *_ = _HEADER3.unpack(self._file.read(_HEADER.size, _HEADER3.size))
        if incompatible & _EXTERNAL:
            raise self._refused("its data lie in another file, which is not opened")
        if incompatible & _CORRUPT:
            raise self._broken("it is marked as corrupt")
        if incompatible & _COMPRESSION:
            if (
                self._file.size <= _COMPRESSION_TYPE
                or self._file.read(_COMPRESSION_TYPE, 1) != _ZSTD
            ):
                raise self._refused("its compression is neither zlib nor zstd")
            self._unpack = _unzstd
        if incompatible & _EXTENDED_L2:
            raise self._refused("it has subclusters (extended L2 entries)")
        if incompatible & ~(_DIRTY | _COMPRESSION):
            raise self._refused(f"it has the incompatible features {incompatible:#x}")

    def _refused(self, why: str) -> InputError:
        return InputError(
            "use the qcow2 disk",
            self.name,
            why=why,
            next_step="Convert it yourself, if you trust it: qemu-img convert -O raw",
        )

    def _broken(self, why: str) -> DiskError:
        return DiskError(
            "read the qcow2 disk", self.name, why=why, next_step="Look at it with qemu-img check"
        )

    def descriptor(self) -> int:
        """The qcow2 file."""
        return self._file.descriptor()

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """See Source. Neighbours in guest and file are one run."""
        check_range(self, offset, length)
        pending: Run | None = None
        for begin, count, entry in self._clusters(offset, length):
            at = self._place(entry, begin)
            if at is None and not entry & _COMPRESSED:
                continue
            if pending and _continues(pending, begin, at):
                pending = Run(pending.offset, pending.length + count, pending.at)
                continue
            if pending:
                yield from self._allocated(pending)
            pending = Run(begin, count, at)
        if pending:
            yield from self._allocated(pending)

    def read(self, offset: int, length: int) -> bytes:
        """See Source."""
        check_range(self, offset, length)
        parts: list[bytes] = []
        for begin, count, entry in self._clusters(offset, length):
            at = self._place(entry, begin)
            if at is not None:
                # A last cluster may be allocated beyond the end of the file: it reads as zeros.
                there = max(0, min(count, self._file.size - at))
                parts.append(
                    self._file.read(at, there).ljust(count, b"\0") if there else bytes(count)
                )
            elif entry & _COMPRESSED:
                within = begin % self._cluster
                parts.append(self._inflated(entry)[within : within + count])
            else:
                parts.append(bytes(count))
        return b"".join(parts)

    def _allocated(self, run: Run) -> Iterator[Run]:
        """The run without the holes that its file has there."""
        if run.at is None:
            yield run
            return
        there = min(run.length, self._file.size - run.at)
        if there > 0:
            for part in self._file.runs(run.at, there):
                yield Run(run.offset + part.offset - run.at, part.length, part.at)

    def _clusters(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(offset, bytes, L2 entry) of each cluster of a range, clipped to it; holes as entry 0."""
        end = offset + length
        span = self._cluster * self._per_table
        while offset < end:
            table = self._table(offset // span)
            stop = min(end, (offset // span + 1) * span)
            if table is None:
                yield offset, stop - offset, 0
                offset = stop
                continue
            while offset < stop:
                count = min(stop - offset, self._cluster - offset % self._cluster)
                yield offset, count, table[(offset >> self._bits) % self._per_table]
                offset += count

    def _read_table(self, index: int) -> array[int] | None:
        """A second-level table; None if there is none."""
        (entry,) = struct.unpack(">Q", self._file.read(self._l1 + index * 8, 8))
        start = entry & _OFFSET
        if not start:
            return None
        if start % self._cluster:
            raise self._broken(f"its table {index} lies at an impossible place")
        table = array("Q", self._file.read(start, self._cluster))
        if sys.byteorder == "little":
            table.byteswap()
        return table

    def _place(self, entry: int, offset: int) -> int | None:
        """Where the byte at `offset` lies in the file; None when it reads as zero or must be
        inflated.
        """
        start: int = entry & _OFFSET
        if entry & _COMPRESSED or entry & _ZERO or not start:
            return None
        if start % self._cluster or start >= self._file.size:
            raise self._broken(f"the cluster of byte {offset} lies at an impossible place")
        return start + offset % self._cluster

    def _inflate(self, entry: int) -> bytes:
        """A compressed cluster: raw deflate or a zstd frame, its length counted in sectors."""
        shift = 62 - (self._bits - 8)
        start = entry & ((1 << shift) - 1)
        sectors = ((entry & (_COMPRESSED - 1)) >> shift) + 1
        length = sectors * _SECTOR - start % _SECTOR
        packed = self._file.read(start, max(0, min(length, self._file.size - start)))
        try:
            data = self._unpack(packed, self._cluster)
        except (zlib.error, zstandard.ZstdError):
            raise self._broken(f"the compressed cluster at byte {start} is damaged") from None
        if len(data) != self._cluster:
            raise self._broken(f"the compressed cluster at byte {start} is cut off")
        return data


def _inflate(packed: bytes, most: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)


def _unzstd(packed: bytes, most: int) -> bytes:
    # The last sector may hold something else after the frame.
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)
    with unpacker.stream_reader(packed) as frame:
        return frame.read(most)


def _continues(run: Run, offset: int, at: int | None) -> bool:
    """Whether what lies at `offset` follows a run in the guest and in the file."""
    if run.offset + run.length != offset:
        return False
    return at is None if run.at is None else at == run.at + run.length
