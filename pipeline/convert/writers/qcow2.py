"""Writes compressed qcow2 images, by all processors.

Source: QEMU's docs/interop/qcow2.txt, version 3. Clusters are of 64 KiB, as qemu-img makes them.
zlib is read by every QEMU and by all that read qcow2; zstd, smaller and many times faster to make,
by QEMU 5.1 (2020) and later. A compressed cluster is a deflate stream whose window is 4 KiB, since
QEMU's reader has no more, or a zstd frame.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

import zstandard

from pipeline.convert.writers.pieces import filled, worked
from pipeline.core.events import Meter
from pipeline.disk.blocks.source import Source

Compression = Literal["zlib", "zstd"]

_BITS = 16
_CLUSTER = 1 << _BITS
_PER_TABLE = _CLUSTER // 8
_PER_REFCOUNTS = _CLUSTER // 2  # refcounts are of 16 bits
_COMPRESSED = 1 << 62
_COPIED = 1 << 63
_SECTOR = 512
_SHIFT = 62 - (_BITS - 8)  # where a compressed cluster's number of sectors begins
_COMPRESSION = 8  # incompatible feature bit 3: the compression type is not zlib
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_HEADER_BYTES = 112
_WINDOW = 12  # bits; block/qcow2-threads.c inflates with this
_LEVEL = {"zlib": 6, "zstd": 3}


def write_qcow2(
    source: Source, target: Path, compression: Compression, meter: Meter | None = None
) -> None:
    """Write `source` as a compressed qcow2 file; its size is the source's, to the 512-byte sector.

    target: is made anew. OSError where it cannot be written, DiskError where the source cannot be
    read.
    """
    with target.open("wb") as file:
        _Writer(file, source.size, compression).write(source, meter)


class _Writer:
    def __init__(self, file: BinaryIO, size: int, compression: Compression) -> None:
        self._file, self._size, self._compression = file, size, compression
        tables = -(-size // (_CLUSTER * _PER_TABLE)) or 1
        self._tables: list[array[int] | None] = [None] * tables
        self._at = _CLUSTER  # the header has the first cluster
        self._counts = array("H", [1])

    def write(self, source: Source, meter: Meter | None) -> None:
        """Data as they come, then what leads to them, then the header."""
        self._file.write(bytes(_CLUSTER))
        for number, piece, packed in worked(
            filled(source, _CLUSTER, meter), compressor(self._compression)
        ):
            if len(packed) < _CLUSTER - _SECTOR:
                self._enter(number, self._put_packed(packed))
            else:
                self._enter(number, self._put_cluster(piece) | _COPIED)
        first_level = array("Q", bytes(8 * len(self._tables)))
        for index, table in enumerate(self._tables):
            if table is not None:
                first_level[index] = self._put_cluster(_big_endian(table)) | _COPIED
        at_first_level = self._put_clusters(_big_endian(first_level))
        at_refcounts, clusters = self._put_refcounts()
        self._file.seek(0)
        self._file.write(self._header(at_first_level, at_refcounts, clusters))

    def _enter(self, number: int, entry: int) -> None:
        index, within = divmod(number, _PER_TABLE)
        table = self._tables[index]
        if table is None:
            table = self._tables[index] = array("Q", bytes(_CLUSTER))
        table[within] = entry

    def _put_packed(self, packed: bytes) -> int:
        """Bytes at the next place, whatever its alignment; the entry that leads to them."""
        at = self._at
        self._put(packed)
        for cluster in range(at >> _BITS, ((self._at - 1) >> _BITS) + 1):
            self._count(cluster)
        sectors = (at % _SECTOR + len(packed) - 1) // _SECTOR
        return _COMPRESSED | sectors << _SHIFT | at

    def _put_cluster(self, data: bytes) -> int:
        """A cluster at the next whole one; where it lies."""
        at = self._align()
        self._put(data)
        self._count(at >> _BITS)
        return at

    def _put_clusters(self, data: bytes) -> int:
        """Bytes in clusters of their own, filled up; where the first lies."""
        at = self._align()
        for begin in range(0, len(data), _CLUSTER):
            self._put_cluster(data[begin : begin + _CLUSTER].ljust(_CLUSTER, b"\0"))
        return at

    def _put_refcounts(self) -> tuple[int, int]:
        """The refcount blocks and their table, which count themselves; (place, clusters)."""
        at = self._align()
        used = at >> _BITS
        blocks = tables = 0
        while True:  # until they count themselves as well
            need = -(-(used + blocks + tables) // _PER_REFCOUNTS)
            need_tables = -(-need // _PER_TABLE)
            if (need, need_tables) == (blocks, tables):
                break
            blocks, tables = need, need_tables
        for cluster in range(used, used + blocks + tables):
            self._count(cluster)
        self._counts.extend([0] * (blocks * _PER_REFCOUNTS - len(self._counts)))
        self._put(_big_endian(self._counts))
        places = array("Q", [at + index * _CLUSTER for index in range(blocks)])
        place = self._at
        self._put(_big_endian(places).ljust(tables * _CLUSTER, b"\0"))
        return place, tables

    def _count(self, cluster: int) -> None:
        if cluster >= len(self._counts):
            self._counts.extend([0] * (cluster + 1 - len(self._counts)))
        self._counts[cluster] += 1

    def _align(self) -> int:
        if self._at % _CLUSTER:
            self._put(bytes(-self._at % _CLUSTER))
        return self._at

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)

    def _header(self, first_level: int, refcounts: int, refcount_clusters: int) -> bytes:
        other = self._compression != "zlib"
        header = _HEADER.pack(
            b"QFI\xfb",
            3,
            *(0, 0),  # no backing file
            _BITS,
            self._size,
            0,  # not encrypted
            len(self._tables),
            first_level,
            refcounts,
            refcount_clusters,
            *(0, 0),  # no snapshots
            _COMPRESSION if other else 0,
            *(0, 0),  # compatible and autoclear features
            4,  # refcounts of 1 << 4 bits
            _HEADER_BYTES,
        )
        # The compression type, padding, and the end of header extensions.
        return header + bytes([1 if other else 0]) + bytes(7) + bytes(8)


def compressor(compression: Compression) -> Callable[[bytes], bytes]:
    """What packs one cluster; may be called by several threads at once."""
    if compression == "zlib":

        def deflate(piece: bytes) -> bytes:
            packer = zlib.compressobj(_LEVEL["zlib"], zlib.DEFLATED, -_WINDOW)
            return packer.compress(piece) + packer.flush()

        return deflate
    return _zstd


def _zstd(piece: bytes) -> bytes:
    # One context a call: contexts must not be shared by threads, and making one is cheap.
    packer = zstandard.ZstdCompressor(level=_LEVEL["zstd"], write_checksum=False)
    return packer.compress(piece)


def _big_endian(table: array[int]) -> bytes:
    copy = array(table.typecode, table)
    if sys.byteorder == "little":
        copy.byteswap()
    return copy.tobytes()
