"""Partition tables: what an independent writer wrote is what is read, damage is an error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.partition_table import read_table
from pipeline.disk.blocks.volume import Stretch
from tests.fixtures.disks.memory import MemoryDisk
from tests.fixtures.disks.writers import boot_record, write_gpt, write_logical, write_mbr

SECTORS = 1 << 16
Places = list[tuple[int, int]]


@st.composite
def places(draw: st.DrawFn, most: int, low: int = 64, high: int = SECTORS - 64) -> Places:
    """Disjoint (first sector, sectors), in order, at least two sectors apart."""
    cuts = sorted(draw(st.sets(st.integers(low // 4, high // 4), min_size=2, max_size=2 * most)))
    cuts = cuts[: len(cuts) // 2 * 2]
    return [(a * 4 + 2, (b - a) * 4 - 2) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]


def stretches(disk: MemoryDisk) -> dict[int, Stretch]:
    return {p.number: p.stretch for p in read_table(disk).partitions}


@settings(deadline=None)
@given(places(4), st.integers(0, 0xFFFFFFFF))
def test_primary_partitions(found: Places, signature: int) -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_mbr(disk, [(0x83, start, count) for start, count in found], signature)
    table = read_table(disk)
    assert table.kind == "dos"
    assert [(p.number, p.stretch) for p in table.partitions] == [
        (n, Stretch(start * 512, count * 512)) for n, (start, count) in enumerate(found, 1)
    ]
    assert [p.uuid for p in table.partitions] == [
        f"{signature:08x}-{n:02x}" for n in range(1, len(found) + 1)
    ]


@settings(deadline=None)
@given(places(7, low=4096), st.integers(0, 2))
def test_logical_partitions_in_any_number(found: Places, before: int) -> None:
    disk = MemoryDisk(SECTORS * 512)
    primary = [(0x83, 64 + n * 64, 64) for n in range(before)]
    start = 2048
    extended = write_logical(disk, start, SECTORS - start, [(0x8E, s, c) for s, c in found])
    write_mbr(disk, [*primary, extended])
    expected = {n + 1: Stretch((64 + n * 64) * 512, 64 * 512) for n in range(before)}
    expected |= {n: Stretch(s * 512, c * 512) for n, (s, c) in enumerate(found, 5)}
    assert stretches(disk) == expected


@pytest.mark.parametrize("sector", [512, 4096])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_gpt_by_either_copy(sector: int, data: st.DataObject) -> None:
    sectors = SECTORS * 512 // sector
    found = data.draw(places(3, low=160, high=sectors - 160))
    partitions = [(start, start + count - 1, f"name {start}") for start, count in found]
    disk = MemoryDisk(SECTORS * 512)
    write_gpt(disk, partitions, sector)
    table = read_table(disk)
    assert table.kind == "gpt" and table.notes == ()
    assert [p.stretch for p in table.partitions] == [
        Stretch(start * sector, count * sector) for start, count in found
    ]
    assert [p.label for p in table.partitions] == [name for _, _, name in partitions]
    # Any one damaged byte of the first header: the backup says the same.
    offset = data.draw(st.integers(0, 91))
    byte = disk.read(sector + offset, 1)
    disk.write(sector + offset, bytes([byte[0] ^ data.draw(st.integers(1, 255))]))
    backup = read_table(disk)
    assert backup.partitions == table.partitions
    assert backup.notes, "somebody should know"


def test_gpt_with_both_copies_damaged_is_an_error() -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_gpt(disk, [(2048, 4095, "")])
    disk.write(512 + 16, b"\xff")
    disk.write((SECTORS - 1) * 512 + 16, b"\xff")
    with pytest.raises(DiskError, match="both copies"):
        read_table(disk)


def test_damaged_gpt_entries_are_not_believed() -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_gpt(disk, [(2048, 4095, "")])
    disk.write(1024 + 32, b"\x01")  # the first sector of partition 1, in the primary table only
    table = read_table(disk)
    assert [p.stretch.start for p in table.partitions] == [2048 * 512]
    assert "wrong checksum" in table.notes[0]


def test_an_old_gpt_behind_a_plain_mbr_stays_dead() -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_gpt(disk, [(2048, 4095, "old")])
    write_mbr(disk, [(0x83, 8192, 1024)])
    assert stretches(disk) == {1: Stretch(8192 * 512, 1024 * 512)}


def test_no_table_at_all() -> None:
    for content in (
        b"",
        bytes(510) + b"\x55\xaa",
        b"\xeb\x58\x90mkfs.fat".ljust(510) + b"\x55\xaa",
    ):
        disk = MemoryDisk(SECTORS * 512)
        disk.write(0, content)
        assert read_table(disk).kind == "none"
    assert read_table(MemoryDisk(100)).kind == "none"


def test_a_chain_of_logical_partitions_that_bites_its_tail() -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_mbr(disk, [(5, 2048, 40000)])
    disk.write(2048 * 512, boot_record([(0x83, 8, 8), (5, 1000, 8)]))
    disk.write(3048 * 512, boot_record([(0x83, 8, 8), (5, 0, 8)]))
    disk.write(3048 * 512, boot_record([(0x83, 8, 8), (5, 1000, 8)]))
    with pytest.raises(DiskError, match="no end"):
        read_table(disk)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([(5, 0xFFFFFFFF, 8)], "beyond its end"),
        ([(0x83, 100, 100), (0x83, 199, 100)], "1 and 2 overlap"),
        ([(0x83, 0, 0xFFFFFFFF), (0x83, 100, 1)], "overlap"),
    ],
)
def test_tables_that_contradict_themselves(entries: list[tuple[int, int, int]], words: str) -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_mbr(disk, entries)
    with pytest.raises(DiskError, match=words):
        read_table(disk)


def test_a_logical_partition_outside_of_its_extended_one() -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_mbr(disk, [write_logical(disk, 2048, 100, [(0x83, 2050, 0xFFFFFF)])])
    with pytest.raises(DiskError, match="outside"):
        read_table(disk)


def test_a_partition_beyond_a_cut_disk_is_listed_with_what_is_missing() -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_mbr(disk, [(0x83, 2048, SECTORS)])
    (partition,) = read_table(disk).partitions
    assert partition.volume(disk).missing == 2048 * 512


@settings(deadline=None)
@given(st.binary(min_size=512, max_size=512), st.integers(1, 200))
def test_any_first_sector_is_a_table_or_an_error(sector: bytes, sectors: int) -> None:
    disk = MemoryDisk(sectors * 512)
    disk.write(0, sector[:510] + b"\x55\xaa")
    try:
        table = read_table(disk)
    except DiskError:
        return
    assert all(p.stretch.length > 0 for p in table.partitions)


def test_the_attributes_of_a_gpt_entry() -> None:
    disk = MemoryDisk(SECTORS * 512)
    write_gpt(disk, [(2048, 4095, "var")], 512, attributes=1 << 63 | 1 << 60)
    (partition,) = read_table(disk).partitions
    assert partition.attributes == 1 << 63 | 1 << 60
