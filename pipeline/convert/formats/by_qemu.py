"""Writes a format through QEMU's own driver: the empty image by qemu-img, its content over NBD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.convert.formats.protocol import Work
from pipeline.convert.writers.pieces import filled
from pipeline.disk.blocks.source import Source
from pipeline.disk.foreign.server import Driver, served

_PIECE = 64 << 10
_MOST = 1 << 20  # bytes a request
_SECONDS = 600.0  # to make an image that has no content yet


def write_by_qemu(
    source: Source,
    target: Path,
    driver: Driver,
    options: str,
    work: Work,
) -> None:
    """Write `source` as a new file. options: of qemu-img create, as `-o` takes them.

    OSError where it cannot be written, DiskError where the source cannot be read, ProgramError
    when qemu-img fails.
    """
    work.tools.run.run(
        ["qemu-img", "create", "-q", "-f", driver, "-o", options, target, str(source.size)],
        timeout=_SECONDS,
        attempted=f"make an empty image of {driver}",
    )
    with served(target, driver, work.tools, writable=True) as disk:
        for at, data in _joined(filled(source, _PIECE, work.meter)):
            disk.write(at, data[: source.size - at])
        disk.flush()


def _joined(pieces: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of pieces that follow each other as one, up to a bound."""
    begin = 0
    parts: list[bytes] = []
    for number, piece in pieces:
        follows = number * _PIECE == begin + len(parts) * _PIECE
        if parts and not (follows and len(parts) * _PIECE < _MOST):
            yield begin, b"".join(parts)
            parts = []
        if not parts:
            begin = number * _PIECE
        parts.append(piece)
    if parts:
        yield begin, b"".join(parts)
