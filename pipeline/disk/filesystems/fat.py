"""Read FAT file systems, as firmware and boot loaders have them: directories, files. Read-only.

Everything is bounded: a damaged or hostile file system costs an error, never memory or time.
Sources: Microsoft's FAT specification 1.03; Linux, fs/fat (a 32-bit table is known by its size
field, not by the number of clusters, and a table that is too short limits the clusters).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.source import Source
from pipeline.disk.filesystems.lookup import Inode

_SECTORS = (512, 1024, 2048, 4096)
_MAX_CLUSTER = 1 << 20  # bytes; the specification has 32 KiB, large volumes 64
_FAT12, _FAT16 = 4084, 65524  # clusters at most
_MAX_DIRECTORY = 2 << 20  # bytes: 65536 entries
_MAX_DEPTH_CLUSTERS = 1 << 16  # of one directory
_PIECE = 64 << 10  # bytes of the table that are kept
_READ = 1 << 20
_ROOT = 1  # no directory entry lies at that byte
_ENTRY = 32
_LONG, _VOLUME, _DIRECTORY = 0x0F, 0x08, 0x10  # attributes
_LAST_PART = 0x40
_BASE_LOWER, _EXTENSION_LOWER = 0x08, 0x10  # Windows NT's, in byte 12


class Fat:
    """One FAT12, FAT16 or FAT32 file system. Names do not tell upper case from lower.

    An inode's number is the byte at which its directory entry lies.
    """

    root = _ROOT

    def __init__(self, source: Source) -> None:
        self.source = source
        head = source.read(0, min(512, source.size)).ljust(512, b"\0")
        sector, per_cluster, reserved, tables = struct.unpack_from("<HBHB", head, 11)
        self._sector: int = sector
        root_entries, small = struct.unpack_from("<HH", head, 17)
        (table16,) = struct.unpack_from("<H", head, 22)
        (large,) = struct.unpack_from("<I", head, 32)
        table = table16 or struct.unpack_from("<I", head, 36)[0]
        self.cluster_size: int = self._sector * per_cluster
        if (
            head[510:] != b"\x55\xaa"
            or self._sector not in _SECTORS
            or per_cluster & (per_cluster - 1)
            or not 0 < self.cluster_size <= _MAX_CLUSTER
            or not (reserved and tables and table)
        ):
            raise self.broken("its first sector is damaged")
        self._table: int = reserved * self._sector
        root = self._table + tables * table * self._sector
        root_bytes = -(-root_entries * _ENTRY // self._sector) * self._sector
        self._data: int = root + root_bytes
        size = (small or large) * self._sector
        if not self._data < size <= source.size:
            raise self.broken(f"its figures do not fit into its {source.size} bytes")
        clusters = (size - self._data) // self.cluster_size
        self._bits = 32 if not table16 else 12 if clusters <= _FAT12 else 16
        self.clusters: int = min(clusters, table * self._sector * 8 // self._bits - 2)
        self._fixed_root = (root, root_bytes) if self._bits != 32 else None
        self._first = struct.unpack_from("<I", head, 44)[0] if self._bits == 32 else 0
        self._piece = (-1, b"")

    def broken(self, why: str) -> DiskError:
        """The error for what is damaged here."""
        return DiskError(
            "read the FAT file system of",
            self.source.name,
            why=why,
            next_step="Check it with fsck.vfat",
        )

    def inode(self, number: int) -> Inode:
        """One inode: the root's, or the directory entry at that byte."""
        if number == _ROOT:
            return Inode(_ROOT, stat.S_IFDIR | 0o755, 0, self._first.to_bytes(4, "little"))
        raw = self.source.read(number, _ENTRY)
        high, low = struct.unpack_from("<H", raw, 20)[0], struct.unpack_from("<H", raw, 26)[0]
        first = low | (high << 16 if self._bits == 32 else 0)
        (size,) = struct.unpack_from("<I", raw, 28)
        if raw[11] & _DIRECTORY:
            return Inode(number, stat.S_IFDIR | 0o755, 0, first.to_bytes(4, "little"))
        return Inode(number, stat.S_IFREG | 0o755, size, first.to_bytes(4, "little"))

    def entries(self, directory: Inode) -> dict[bytes, int]:
        """Names and inode numbers, without "." and ".."."""
        found: dict[bytes, int] = {}
        parts: list[bytes] = []
        checksum = -1
        for at, raw in self._records(directory):
            if raw[0] == 0:
                break
            if raw[11] & 0x3F == _LONG and raw[0] != 0xE5:
                if raw[0] & _LAST_PART:
                    parts, checksum = [], raw[13]
                parts.append(raw[1:11] + raw[14:26] + raw[28:32])
                continue
            long, parts = parts, []
            if raw[0] == 0xE5 or raw[11] & _VOLUME or raw[:11] in (b".          ", b"..         "):
                continue
            name = _long_name(long) if long and checksum == _checksum(raw[:11]) else ""
            found.setdefault((name or _short_name(raw)).encode("utf-8", "surrogatepass"), at)
        return {name: at for name, at in found.items() if name and b"/" not in name}

    def content(self, inode: Inode, limit: int) -> bytes:
        """A file's bytes; DiskError when there are more than `limit`."""
        if inode.size > limit:
            raise self.broken(f"a file has {inode.size} bytes, more than the {limit} expected")
        return b"".join(self.pieces(inode))

    def pieces(self, inode: Inode) -> Iterator[bytes]:
        """A file's bytes, in order, a megabyte at a time."""
        left = inode.size
        for start, length in self._stretches(inode, -(-left // self.cluster_size)):
            for offset in range(0, length, _READ):
                data = self.source.read(start + offset, min(_READ, length - offset))
                yield data[:left]
                left -= min(left, len(data))
        if left:
            raise self.broken("a file's chain of clusters ends before the file")

    def _records(self, directory: Inode) -> Iterator[tuple[int, bytes]]:
        """(byte, entry) of a directory."""
        if directory.number == _ROOT and self._fixed_root:
            stretches: Iterator[tuple[int, int]] = iter([self._fixed_root])
        else:
            most = min(_MAX_DEPTH_CLUSTERS, -(-_MAX_DIRECTORY // self.cluster_size))
            stretches = self._stretches(directory, most)
        for start, length in stretches:
            for base in range(start, start + length, self.cluster_size):
                raw = self.source.read(base, min(self.cluster_size, start + length - base))
                for offset in range(0, len(raw) - _ENTRY + 1, _ENTRY):
                    yield base + offset, raw[offset : offset + _ENTRY]

    def _stretches(self, inode: Inode, most: int) -> Iterator[tuple[int, int]]:
        """(byte, length) of neighbouring clusters of a chain, in order; `most` clusters at most."""
        cluster = int.from_bytes(inode.map, "little")
        begun, count = cluster, 0
        for _ in range(most):
            if not self._is_data(cluster):
                break
            count += 1
            following = self._next(cluster)
            if following != cluster + 1 or not self._is_data(following):
                yield self._byte(begun), count * self.cluster_size
                begun, count = following, 0
            cluster = following
        if count:
            yield self._byte(begun), count * self.cluster_size

    def _is_data(self, cluster: int) -> bool:
        return 2 <= cluster < self.clusters + 2

    def _byte(self, cluster: int) -> int:
        return self._data + (cluster - 2) * self.cluster_size

    def _next(self, cluster: int) -> int:
        """What the table has for a cluster; a mark of the end is no data cluster."""
        if self._bits == 12:
            value = int.from_bytes(self._table_bytes(cluster * 3 // 2, 2), "little")
            return value >> 4 if cluster & 1 else value & 0xFFF
        width = self._bits // 8
        return int.from_bytes(self._table_bytes(cluster * width, width), "little") & 0x0FFFFFFF

    def _table_bytes(self, offset: int, count: int) -> bytes:
        base = offset - offset % _PIECE
        if self._piece[0] != base:
            start = self._table + base
            # One byte more: a FAT12 entry may lie across two pieces.
            self._piece = (base, self.source.read(start, min(_PIECE + 1, self._data - start)))
        return self._piece[1][offset - base : offset - base + count]


def _long_name(parts: list[bytes]) -> str:
    """The parts as they lie on the disk: the last comes first."""
    text = b"".join(reversed(parts)).decode("utf-16-le", "replace")
    return text.partition("\0")[0]


def _short_name(raw: bytes) -> str:
    name = (b"\xe5" + raw[1:8] if raw[0] == 0x05 else raw[:8]).decode("cp437").rstrip(" ")
    extension = raw[8:11].decode("cp437").rstrip(" ")
    if raw[12] & _BASE_LOWER:
        name = name.lower()
    if raw[12] & _EXTENSION_LOWER:
        extension = extension.lower()
    return f"{name}.{extension}" if extension else name


def _checksum(short: bytes) -> int:
    """Of a short name: long names carry it, so that a stale one is known."""
    value = 0
    for byte in short:
        value = ((value & 1) << 7 | value >> 1) + byte & 0xFF
    return value
