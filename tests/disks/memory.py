"""A disk in memory, sparse, for unit tests and fuzzing."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.disk.source import Run, check_range

PAGE = 4096


class MemoryDisk:
    """A writable source of any size; only pages that were written take memory."""

    def __init__(self, size: int, name: str = "disk") -> None:
        self.size, self.name = size, name
        self.pages: dict[int, bytearray] = {}
        self.bytes_read = 0

    def write(self, offset: int, data: bytes) -> None:
        assert offset >= 0 and offset + len(data) <= self.size, "test wrote outside of its disk"
        for done in range(-(offset % PAGE), len(data), PAGE):
            piece = data[max(done, 0) : done + PAGE]
            start = offset + max(done, 0)
            page = self.pages.setdefault(start // PAGE, bytearray(PAGE))
            page[start % PAGE : start % PAGE + len(piece)] = piece

    def read(self, offset: int, length: int) -> bytes:
        check_range(self, offset, length)
        self.bytes_read += length
        content = bytearray(length)
        for number in range(offset // PAGE, -(-(offset + length) // PAGE)):
            if page := self.pages.get(number):
                begin, end = max(offset, number * PAGE), min(offset + length, (number + 1) * PAGE)
                content[begin - offset : end - offset] = page[
                    begin % PAGE : begin % PAGE + end - begin
                ]
        return bytes(content)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        check_range(self, offset, length)
        for number in sorted(self.pages):
            begin = max(offset, number * PAGE)
            end = min(offset + length, (number + 1) * PAGE)
            if begin < end:
                yield Run(begin, end - begin, begin)

    def descriptor(self) -> int:
        raise AssertionError("a disk in memory has no descriptor")

    def copy(self) -> MemoryDisk:
        other = MemoryDisk(self.size, self.name)
        other.pages = {number: bytearray(page) for number, page in self.pages.items()}
        return other
