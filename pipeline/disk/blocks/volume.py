"""A volume: stretches of another source, one after the other.

A partition has one stretch; a linear logical volume has one a segment. This is all the extent
arithmetic there is: whoever makes a volume turns sectors and extents into bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pipeline.disk.blocks.source import Run, Source, check_range


@dataclass(frozen=True, slots=True)
class Stretch:
    """`length` bytes at `start` of the source below."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.start + self.length


class Volume:
    """A source made of stretches of another. Stretches may lie beyond the end of what is there:
    reading those is a DiskError, and `missing` counts them.
    """

    def __init__(self, source: Source, stretches: Iterable[Stretch], name: str) -> None:
        self.source = source
        self.stretches = tuple(stretch for stretch in stretches if stretch.length > 0)
        self.name = name
        # Offset of each stretch in the volume; the last entry is the volume's size.
        self._starts = list(accumulate((s.length for s in self.stretches), initial=0))
        self.size = self._starts[-1]

    @property
    def missing(self) -> int:
        """Bytes of the volume that the source below does not have."""
        return sum(
            min(stretch.length, max(0, stretch.end - self.source.size))
            for stretch in self.stretches
        )

    def descriptor(self) -> int:
        """The source's."""
        return self.source.descriptor()

    def parts(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(offset here, offset in the source below, length) of what makes up a range, in order."""
        check_range(self, offset, length)
        index = bisect_right(self._starts, offset) - 1
        while length > 0:
            within = offset - self._starts[index]
            count = min(length, self.stretches[index].length - within)
            yield offset, self.stretches[index].start + within, count
            offset += count
            length -= count
            index += 1

    def read(self, offset: int, length: int) -> bytes:
        """See Source."""
        return b"".join(
            self.source.read(start, count) for _, start, count in self.parts(offset, length)
        )

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """See Source."""
        for here, start, count in self.parts(offset, length):
            for run in self.source.runs(start, count):
                yield Run(here + run.offset - start, run.length, run.at)


def overlap(stretches: Iterable[Stretch]) -> tuple[Stretch, Stretch] | None:
    """Two of the stretches that share bytes, if there are any."""
    ordered = sorted((s for s in stretches if s.length), key=lambda s: (s.start, s.end))
    for first, second in pairwise(ordered):
        if second.start < first.end:
            return first, second
    return None
