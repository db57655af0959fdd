"""What a writer is fed: the source cut into pieces of one size, those of zeros left out.

Pieces are worked on (compressed) by all processors and come back in their order; at most a few a
processor are under way, so that memory does not depend on the size of the image.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from pipeline.core.events import Meter
from pipeline.disk.blocks.source import Source
from pipeline.host.pools import threads

_BATCH = 1 << 20
"""Bytes a task: enough to outweigh what handing one over costs. Larger pieces go one by one."""
_AHEAD = 4  # tasks a processor under way
_READ = 4 << 20  # bytes a read
_Result = TypeVar("_Result")


def filled(source: Source, size: int, meter: Meter | None = None) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each piece of `size` bytes that is not all zeros, in rising order.

    The last one is filled up with zeros. Holes are not read. meter: is told the bytes of the image
    as they are passed.
    """
    zeros = bytes(size)
    told = 0
    for start, stop in _stretches(source, size):
        for begin in range(start, stop, max(size, _READ // size * size)):
            end = min(stop, begin + max(size, _READ // size * size))
            data = source.read(begin, min(end, source.size) - begin)
            for offset in range(0, end - begin, size):
                piece = data[offset : offset + size]
                if len(piece) < size:
                    piece = piece.ljust(size, b"\0")
                if piece != zeros:
                    yield (begin + offset) // size, piece
            if meter is not None:
                meter.advance(min(end, source.size) - told)
                told = min(end, source.size)
    if meter is not None:
        meter.advance(source.size - told)


def _stretches(source: Source, size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of what may hold data, widened to whole pieces, those that touch as one."""
    start = stop = 0
    for run in source.runs(0, source.size):
        first = run.offset // size * size
        last = -(-(run.offset + run.length) // size) * size
        if first > stop:
            if stop > start:
                yield start, stop
            start = first
        stop = max(stop, last)
    if stop > start:
        yield start, stop


def worked(
    pieces: Iterator[tuple[int, bytes]], work: Callable[[bytes], _Result]
) -> Iterator[tuple[int, bytes, _Result]]:
    """(number, bytes, what `work` made of them), in order, by as many threads as processors.

    work: must let other threads run, as compressors written in C do.
    """
    workers = len(os.sched_getaffinity(0))

    def task(batch: list[tuple[int, bytes]]) -> list[tuple[int, bytes, _Result]]:
        return [(number, piece, work(piece)) for number, piece in batch]

    with threads(workers, "pack") as pool:
        waiting: deque[Future[list[tuple[int, bytes, _Result]]]] = deque()
        for batch in _batches(pieces):
            waiting.append(pool.submit(task, batch))
            if len(waiting) > workers * _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _batches(pieces: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    batch: list[tuple[int, bytes]] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
