"""The blocks of a file system that are taken, and how things find room among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.convert.ext4.geometry import BLOCK, GROUP_BLOCKS, Geometry
from pipeline.core.errors import InputError

PAGE = 256
"""Blocks of a page of small files, 1 MiB; what is larger is aligned to it."""
SMALL = 64
"""Blocks from which on a file has a place of its own; smaller ones share pages."""
PIECE = 8192
"""Blocks of a piece of a large file: 32 MiB, a quarter of a group."""
_REGION = 8 << 20  # blocks, 32 GiB: all that is kept in memory of an even larger file system
_KEPT = 2  # in the map: free, but of a page
_TO_BITS = bytes.maketrans(b"\0\1", b"01")

Run = tuple[int, int]
"""(first block, count)."""


class Space:
    """Which blocks are taken. region: blocks that things may lie in, from the beginning."""

    def __init__(self, geometry: Geometry, needed: int) -> None:
        self._geometry = geometry
        self.region = min(geometry.blocks, max(_REGION, 2 * needed))
        self._taken = bytearray(self.region)
        self._next_page = 0
        for first, count in geometry.fixed():
            self.take(first, count)

    def take(self, first: int, count: int) -> None:
        """Mark blocks as taken."""
        end = min(first + count, self.region)
        if first < end:
            self._taken[first:end] = b"\1" * (end - first)

    def is_free(self, first: int, count: int) -> bool:
        """Whether all of these blocks are free, and exist."""
        end = first + count
        return end <= self.region and self._taken.count(0, first, end) == count

    def free(self) -> int:
        """How many blocks of the region are free."""
        return self._taken.count(0)

    def large(self, numbers: Sequence[int], count: int, after: int = 0) -> list[Run]:
        """Room for a piece of a file: right after the one before, or where its numbers say."""
        align = PAGE if count >= PAGE else SMALL
        first = after or self._aligned(numbers, count, align)
        if first < 0 or not self.is_free(first, count):
            first = self._aligned(numbers, count, align)
        if first < 0:
            return self.anywhere(numbers[0] % self.region, count)
        self.take(first, count)
        return [(first, count)]

    def _aligned(self, numbers: Sequence[int], count: int, align: int) -> int:
        """A free place that the numbers say; the upper half first, as pages begin in the lower."""
        slots = max(self.region // align, 2)
        lower = slots // 2
        for number in numbers:
            first = (lower + number % (slots - lower)) * align
            if self.is_free(first, count):
                return first
        for number in numbers:
            first = number % lower * align
            if self.is_free(first, count):
                return first
        return -1

    def page(self) -> int:
        """Room for the next page of small files; -1 where there is none left."""
        for slot in range(self._next_page, self.region // PAGE):
            first = slot * PAGE
            if self.is_free(first, PAGE):
                self._next_page = slot + 1
                self._taken[first : first + PAGE] = bytes([_KEPT]) * PAGE
                return first
        self._next_page = self.region // PAGE
        return -1

    def small(self, page: int, offsets: Iterable[int], count: int) -> int:
        """Room in a page, at the first of the offsets that is free, else at any; -1 without."""
        wanted = bytes([_KEPT]) * count
        for offset in offsets:
            first = page + offset
            if self._taken.startswith(wanted, first, page + PAGE):
                break
        else:
            first = self._taken.find(wanted, page, page + PAGE)
        if first >= 0:
            self.take(first, count)
        return first

    def close(self) -> None:
        """Have what pages kept be free."""
        self._taken = self._taken.replace(bytes([_KEPT]), b"\0")

    def anywhere(self, start: int, count: int) -> list[Run]:
        """The first free run from `start` on, then from the beginning; else several pieces."""
        wanted = bytes(count)
        for _ in range(2):
            for begin in (start, 0):
                first = self._taken.find(wanted, begin)
                if first >= 0:
                    self.take(first, count)
                    return [(first, count)]
            self.close()
        return self._scattered(start, count)

    def _scattered(self, start: int, count: int) -> list[Run]:
        runs: list[Run] = []
        left, position, wrapped = count, start, False
        while left:
            first = self._taken.find(0, position)
            if first < 0:
                if wrapped:
                    raise full(self._geometry, left)
                position, wrapped = 0, True
                continue
            end = self._taken.find(1, first, first + left)
            length = (end if end >= 0 else min(first + left, self.region)) - first
            self.take(first, length)
            runs.append((first, length))
            left, position = left - length, first + length
        return runs

    def middle(self, count: int) -> list[Run]:
        """Room for the journal, which the kernel writes often: half way, in one run if it can."""
        return self.anywhere(self.region // 2, count)

    def bitmap(self, group: int) -> tuple[bytes, int]:
        """A group's block bitmap (a block), and how many of its blocks are free."""
        first, length = group * GROUP_BLOCKS, self._geometry.group_blocks(group)
        taken = bytes(self._taken[first : first + length])
        if len(taken) < length:  # beyond the region
            rest = bytearray(length - len(taken))
            for start, count in self._geometry.fixed():
                if first <= start < first + length:
                    at = max(start - first - len(taken), 0)
                    rest[at : start - first - len(taken) + count] = b"\1" * count
            taken += bytes(rest[: length - len(taken)])
        padded = taken.ljust(GROUP_BLOCKS, b"\1")
        bits = int(padded[::-1].translate(_TO_BITS), 2)
        return bits.to_bytes(BLOCK, "little"), taken.count(0)


def full(geometry: Geometry, lacking: int) -> InputError:
    """The error for a tree that is larger than its file system."""
    size, needed = geometry.blocks * BLOCK, (geometry.blocks + lacking) * BLOCK
    return InputError(
        "make an ext4 file system",
        why=f"the tree does not fit into {size} bytes: at least {lacking * BLOCK} more are needed",
        next_step=f"Make it larger than {-(-needed >> 20)} MiB, which a recipe of packages calls"
        " root_mib",
    )
