"""Extent arithmetic: a volume is exactly the concatenation of its stretches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DiskError, InputError
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.blocks.volume import Stretch, Volume, overlap
from tests.fixtures.disks.memory import PAGE, MemoryDisk

SIZE = 8 * PAGE
PLACES = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(
    lambda ends: Stretch(min(ends), abs(ends[0] - ends[1]))
)


def numbered_disk() -> MemoryDisk:
    """Every other page holds bytes that tell where they lie; the rest are holes."""
    disk = MemoryDisk(SIZE)
    for page in range(0, SIZE // PAGE, 2):
        disk.write(
            page * PAGE,
            b"".join((page * PAGE + n + 1).to_bytes(4, "big") for n in range(0, PAGE, 4)),
        )
    return disk


@settings(deadline=None)
@given(st.lists(PLACES, max_size=5), st.data())
def test_reading_any_range_is_reading_the_concatenation(
    stretches: list[Stretch], data: st.DataObject
) -> None:
    disk = numbered_disk()
    whole = b"".join(disk.read(s.start, s.length) for s in stretches)
    volume = Volume(disk, stretches, "volume")
    assert volume.size == len(whole)
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    assert volume.read(begin, end - begin) == whole[begin:end]
    covered = bytearray(end - begin)
    position = begin
    for run in volume.runs(begin, end - begin):
        assert run.offset >= position and run.length > 0
        position = run.offset + run.length
        assert position <= end
        assert run.at is not None
        there = disk.read(run.at, run.length)
        assert there == whole[run.offset : position]
        covered[run.offset - begin : position - begin] = there
    assert bytes(covered) == whole[begin:end], "what no run covers is zero"


@settings(deadline=None)
@given(st.lists(PLACES, max_size=5))
def test_overlap_is_found_exactly_when_two_stretches_share_a_byte(stretches: list[Stretch]) -> None:
    shared = any(
        max(a.start, b.start) < min(a.end, b.end)
        for i, a in enumerate(stretches)
        for b in stretches[i + 1 :]
        if a.length and b.length
    )
    found = overlap(stretches)
    assert (found is not None) == shared
    if found:
        assert max(s.start for s in found) < min(s.end for s in found)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, SIZE + 1), (SIZE, 1), (1 << 64, 1)])
def test_ranges_outside_are_errors(offset: int, length: int) -> None:
    disk = MemoryDisk(SIZE)
    volume = Volume(disk, [Stretch(0, SIZE)], "volume")
    with pytest.raises(DiskError):
        volume.read(offset, length)
    with pytest.raises(DiskError):
        list(volume.runs(offset, length))


def test_the_last_byte_belongs_to_the_volume() -> None:
    disk = MemoryDisk(SIZE)
    disk.write(SIZE - 1, b"z")
    volume = Volume(disk, [Stretch(PAGE, PAGE), Stretch(SIZE - PAGE, PAGE)], "volume")
    assert volume.read(volume.size - 1, 1) == b"z"


def test_what_the_disk_lacks_is_counted_and_never_read() -> None:
    disk = MemoryDisk(SIZE)
    volume = Volume(disk, [Stretch(SIZE - 10, 30), Stretch(2 * SIZE, 5)], "volume")
    assert volume.missing == 25
    with pytest.raises(DiskError, match="cut off"):
        volume.read(0, 30)


def test_a_raw_file_is_read_as_it_is_with_its_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(1 << 22)
        file.seek(1 << 20)
        file.write(b"data")
    with RawFile(path) as disk:
        assert disk.size == 1 << 22
        assert disk.read((1 << 20) - 2, 8) == b"\0\0data\0\0"
        runs = list(disk.runs(0, disk.size))
        assert sum(run.length for run in runs) < 1 << 20
        assert any(run.offset <= 1 << 20 < run.offset + run.length for run in runs)
        with pytest.raises(DiskError):
            disk.read(disk.size - 1, 2)


def test_a_directory_and_a_fifo_are_no_disks(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "missing"):
        with pytest.raises(InputError):
            RawFile(path)


def test_a_disk_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(PAGE))
    with RawFile(path) as disk:
        path.write_bytes(b"")
        with pytest.raises(DiskError, match="shrank"):
            disk.read(0, 512)
