"""Raw: the disk's bytes as they are, its holes as holes."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.convert.formats.protocol import OutputFormat, Work
from pipeline.convert.writers.pieces import filled
from pipeline.disk.blocks.copy import copy, new_file
from pipeline.disk.blocks.source import Source

_PIECE = 16 << 10


def _write(source: Source, target: Path, work: Work) -> None:
    with new_file(target, source.size) as descriptor:
        first = next(iter(source.runs(0, source.size)), None)
        if first is None or first.at is not None:
            done = copy(source, [(0, source.size)], descriptor, target, work.meter.advance).copied
            work.meter.advance(source.size - done)
            return
        # What lies nowhere as it is may have long zeros that are no holes.
        for number, piece in filled(source, _PIECE, work.meter):
            at = number * _PIECE
            os.pwrite(descriptor, piece[: source.size - at], at)


FORMAT = OutputFormat(
    "raw", "the disk's bytes as they are, with holes", ".raw", "raw", _write, multiple=1
)
