"""Stretches of files copied by the kernel and by hand."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.host.copy import Copier, EndedError, SourceError, copy_sparse

MIB = 1 << 20


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory of another file system, into which the kernel copies nothing by itself."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def test_copies_keep_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(40 << 20)
        file.write(b"data")
    with target.open("w+b") as file:
        file.truncate(80 << 20)
        copy_sparse(source, file.fileno(), 8 << 20)
        file.seek(48 << 20)
        assert file.read(4) == b"data"
    assert target.stat().st_blocks * 512 < 1 << 20


def test_to_another_file_system_it_goes_by_hand(tmp_path: Path, elsewhere: Path) -> None:
    if tmp_path.stat().st_dev == elsewhere.stat().st_dev:
        pytest.skip("both are one file system here")
    data = os.urandom(3 * MIB + 17)
    (tmp_path / "source").write_bytes(data)
    with (tmp_path / "source").open("rb") as source, (elsewhere / "t").open("w+b") as target:
        copier = Copier(source.fileno(), target.fileno())
        copier.copy(5, 3, 2 * MIB)
        copier.copy(5 + 2 * MIB, 3 + 2 * MIB, len(data) - 2 * MIB - 5)
        assert copier.in_kernel + copier.by_hand == len(data) - 5
    assert (elsewhere / "t").read_bytes() == bytes(3) + data[5:]


def test_a_source_that_ends_early_is_said(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 1000)
    for place in (tmp_path, elsewhere):
        with (
            (tmp_path / "source").open("rb") as source,
            (place / "t").open("w+b") as target,
            pytest.raises(EndedError, match="shrank"),
        ):
            Copier(source.fileno(), target.fileno()).copy(0, 0, 1001)


def test_which_side_failed_is_told_apart(tmp_path: Path, elsewhere: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    # A file that is open for writing alone cannot be read; /dev/full takes nothing.
    with source.open("r+b") as reader, Path("/dev/full").open("wb", buffering=0) as full:
        with pytest.raises(OSError, match="space") as caught:
            Copier(reader.fileno(), full.fileno()).copy(0, 0, 1000)
        assert not isinstance(caught.value, (SourceError, EndedError))
        assert caught.value.errno == errno.ENOSPC
    unreadable = os.open(tmp_path, os.O_RDONLY)
    try:
        with (elsewhere / "t").open("w+b") as target, pytest.raises(SourceError) as lost:
            copier = Copier(unreadable, target.fileno())
            copier._kernel_can = False
            copier.copy(7, 0, 10)
        assert lost.value.at == 7
    finally:
        os.close(unreadable)
