"""Read XFS from any source: directories, links and small files.

Offsets are those of "XFS Algorithms & Data Structures" (xfs_filesystem_structure.pdf), versions 4
and 5 of the format. The log is not replayed: what a dirty file system shows may be a little old.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.source import Source
from pipeline.disk.filesystems.lookup import Inode

_LOCAL, _EXTENTS, _BTREE = 1, 2, 3
_DATA_MAGICS = {b"XD2B": 16, b"XD2D": 16, b"XDB3": 64, b"XDD3": 64}
_SINGLE = frozenset({b"XD2B", b"XDB3"})  # one block that ends in its own index
_FREE_TAG = 0xFFFF
_LEAF_OFFSET = 32 << 30  # bytes; where a directory's index begins
_MAX_DIRECTORY = 32 << 20
_MAX_LEVEL = 9  # XFS_BM_MAXLEVELS
_NREXT64 = 0x10  # di_flags2: extents are counted in 64 bits


@dataclass(frozen=True)
class XfsInode(Inode):
    """One inode; allocated in bytes."""

    uid: int = 0
    gid: int = 0
    allocated: int = 0


class Xfs:
    """An XFS file system in a source; a Reader."""

    def __init__(self, source: Source) -> None:
        self.source = source
        if source.size < 4096:
            raise self.broken("it is too small")
        raw = source.read(0, 512)
        self._block_size = _number(raw, 4, 4)
        self._blocks = _number(raw, 8, 8)
        self.root = _number(raw, 56, 8)
        self._group_blocks = _number(raw, 84, 4)
        self._version = _number(raw, 100, 2) & 0xF
        self._inode_size = _number(raw, 104, 2)
        self._free_blocks = _number(raw, 144, 8)
        self._inodes_per_block_log, self._group_log = raw[123], raw[124]
        self._directory_block = self._block_size << raw[192]
        # Whether directory entries say what they lead to: in version 5 an incompatible feature,
        # in version 4 a bit of sb_features2, once misplaced by some architectures.
        types = _number(raw, 216, 4) & 1
        if self._version == 4:
            types = (_number(raw, 200, 4) | _number(raw, 204, 4)) & 0x200
        self._type_bytes = 1 if types else 0
        if (
            raw[:4] != b"XFSB"
            or self._version not in (4, 5)
            or self._block_size not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
            or not 256 <= self._inode_size <= self._block_size
            or self._inode_size << self._inodes_per_block_log != self._block_size
            or not 0 < self._group_blocks <= 1 << self._group_log
            or self._group_log > 32
            or raw[192] > 7
            or not self._blocks
        ):
            raise self.broken("its superblock's figures are impossible")
        if self._blocks * self._block_size > source.size:
            raise self.broken(
                f"it says that it has {self._blocks * self._block_size} bytes, "
                f"but the volume has {source.size}"
            )

    @property
    def size(self) -> int:
        """Size of the file system in bytes."""
        return self._blocks * self._block_size

    @property
    def used(self) -> int:
        """Bytes that its own count does not call free, metadata included."""
        return self.size - min(self._free_blocks, self._blocks) * self._block_size

    def broken(self, why: str) -> DiskError:
        """The error for this file system."""
        return DiskError(
            "read the XFS file system of",
            self.source.name,
            why=why,
            next_step="Run `xfs_repair -n` on it to see what is wrong",
        )

    def inode(self, number: int) -> XfsInode:
        """See Reader."""
        log = self._inodes_per_block_log
        offset = self._byte(number >> log) + (number & (1 << log) - 1) * self._inode_size
        raw = self.source.read(offset, self._inode_size)
        mode, version, form = struct.unpack_from(">HBB", raw, 2)
        size = _number(raw, 56, 8)
        if raw[:2] != b"IN" or version not in (1, 2, 3):
            raise self.broken(f"inode {number} is not one")
        head = 176 if version == 3 else 100
        fork = raw[82] * 8
        end = head + fork if fork else self._inode_size
        wide = version == 3 and _number(raw, 120, 8) & _NREXT64
        count = _number(raw, 24, 8) if wide else _number(raw, 76, 4)
        if form == _EXTENTS:
            end = min(end, head + 16 * count)
        return XfsInode(
            number,
            mode,
            size,
            raw[head:end],
            form,
            uid=_number(raw, 8, 4),
            gid=_number(raw, 12, 4),
            allocated=_number(raw, 64, 8) * self._block_size,
        )

    def _byte(self, block: int) -> int:
        """Where a block lies whose number has the allocation group in its upper bits."""
        group, within = block >> self._group_log, block & (1 << self._group_log) - 1
        number = group * self._group_blocks + within
        if within >= self._group_blocks or number >= self._blocks:
            raise self.broken(f"it refers to block {block}, which it does not have")
        return number * self._block_size

    def content(self, inode: Inode, limit: int) -> bytes:
        """See Reader."""
        if inode.size > limit:
            raise self.broken(f"inode {inode.number} has {inode.size} bytes, more than expected")
        if inode.flags == _LOCAL:
            return inode.map[: inode.size]
        content = bytearray(inode.size)
        head = 56 if stat.S_ISLNK(inode.mode) and self._version == 5 else 0
        done = 0  # of a link, whose blocks each begin with a header
        for start, data in self._blocks_of(inode, inode.size + head):
            if head:
                piece = data[head:][: inode.size - done]
                content[done : done + len(piece)] = piece
                done += len(piece)
            else:
                piece = data[: max(0, inode.size - start)]
                content[start : start + len(piece)] = piece
        return bytes(content)

    def pieces(self, inode: Inode) -> Iterator[bytes]:
        """A regular file's data in order, its holes left out."""
        for start, data in self._blocks_of(inode, inode.size):
            yield data[: inode.size - start]

    def _blocks_of(self, inode: Inode, end: int) -> Iterator[tuple[int, bytes]]:
        """(offset in the file, block) of what is written below `end`."""
        size = self._block_size
        for logical, block, count in self._extents(inode):
            for index in range(count):
                start = (logical + index) * size
                if start >= end:
                    break
                yield start, self.source.read(self._byte(block + index), size)

    def entries(self, directory: Inode) -> dict[bytes, int]:
        """See Reader."""
        if directory.flags == _LOCAL:
            return dict(self._short_form(directory.map))
        found: dict[bytes, int] = {}
        size = self._directory_block
        pieces: dict[int, bytearray] = {}
        budget = _MAX_DIRECTORY
        for start, data in self._blocks_of(directory, _LEAF_OFFSET):
            budget -= len(data)
            if budget < 0:
                raise self.broken(f"the directory in inode {directory.number} is too large")
            piece = pieces.setdefault(start // size, bytearray(size))
            piece[start % size : start % size + len(data)] = data
        for piece in pieces.values():
            found.update(self._block_entries(directory.number, bytes(piece)))
        return found

    def _short_form(self, raw: bytes) -> Iterator[tuple[bytes, int]]:
        count, wide = raw[0], raw[1]
        width = 8 if wide else 4
        position = 2 + width
        for _ in range(count or wide):
            length = raw[position] if position < len(raw) else 0
            name = raw[position + 3 : position + 3 + length]
            position += 3 + length + self._type_bytes
            number = raw[position : position + width]
            position += width
            if not name or len(number) != width:
                raise self.broken("a directory within its inode is damaged")
            yield name, int.from_bytes(number, "big")

    def _block_entries(self, number: int, raw: bytes) -> Iterator[tuple[bytes, int]]:
        offset = _DATA_MAGICS.get(raw[:4], 0)
        if not offset:
            raise self.broken(f"the directory in inode {number} is damaged")
        end = len(raw)
        if raw[:4] in _SINGLE:
            end -= 8 + 8 * int.from_bytes(raw[-8:-4], "big")
        while offset + 8 <= end:
            tag, free = struct.unpack_from(">HH", raw, offset)
            if tag == _FREE_TAG:
                length = free
            else:
                name_length = raw[offset + 8]
                name = raw[offset + 9 : offset + 9 + name_length]
                if name not in (b".", b".."):
                    yield name, int.from_bytes(raw[offset : offset + 8], "big")
                length = -(-(9 + name_length + self._type_bytes + 2) // 8) * 8
            if length < 8 or length % 8 or offset + length > end:
                raise self.broken(f"the directory in inode {number} is damaged")
            offset += length

    def _extents(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """(logical block, block, count) of what is written of a file, in order."""
        if inode.flags == _EXTENTS:
            records = self._records(inode.map)
        elif inode.flags == _BTREE:
            records = self._root(inode.map)
        else:
            raise self.broken(f"inode {inode.number} is of an unknown form")
        expected = 0
        for logical, block, count in records:
            if logical < expected:
                raise self.broken(f"the block map of inode {inode.number} is damaged")
            expected = logical + count
            yield logical, block, count

    def _records(self, raw: bytes) -> Iterator[tuple[int, int, int]]:
        for offset in range(0, len(raw) - 15, 16):
            value = int.from_bytes(raw[offset : offset + 16], "big")
            unwritten, count = value >> 127, value & 0x1FFFFF
            if not unwritten and count:
                yield value >> 73 & (1 << 54) - 1, value >> 21 & (1 << 52) - 1, count

    def _root(self, raw: bytes) -> Iterator[tuple[int, int, int]]:
        level, count = struct.unpack_from(">HH", raw)
        room = (len(raw) - 4) // 16
        if not 0 < level <= _MAX_LEVEL or count > room:
            raise self.broken("a block map is damaged")
        for index in range(count):
            (pointer,) = struct.unpack_from(">Q", raw, 4 + 8 * (room + index))
            yield from self._node(pointer, level - 1)

    def _node(self, block: int, level: int) -> Iterator[tuple[int, int, int]]:
        raw = self.source.read(self._byte(block), self._block_size)
        head = 72 if self._version == 5 else 24
        own, count = struct.unpack_from(">HH", raw, 4)
        room = (len(raw) - head) // 16
        # Levels fall with each step, so that a circle ends here.
        if raw[:4] not in (b"BMAP", b"BMA3") or own != level or count > room:
            raise self.broken("a block map is damaged")
        if level == 0:
            yield from self._records(raw[head : head + 16 * count])
            return
        for index in range(count):
            (pointer,) = struct.unpack_from(">Q", raw, head + 8 * (room + index))
            yield from self._node(pointer, level - 1)


def _number(raw: bytes, offset: int, width: int) -> int:
    return int.from_bytes(raw[offset : offset + width], "big")
