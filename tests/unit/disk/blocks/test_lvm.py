"""LVM2 metadata: round trips with an independent writer, and everything that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.lvm.groups import Groups, Placed, read_groups
from pipeline.disk.blocks.lvm.label import checksum, read_label
from pipeline.disk.blocks.lvm.text import MetadataError, parse
from pipeline.disk.blocks.partition import Partition
from pipeline.disk.blocks.volume import Stretch
from tests.fixtures.disks.memory import MemoryDisk
from tests.fixtures.disks.writers import Pv, group_text, lvm_crc, write_area, write_pv

MIB = 1 << 20
FIRST = Pv("pv0", "a" * 32, 1 * MIB, 200 * MIB)
SECOND = Pv("pv1", "b" * 32, 300 * MIB, 100 * MIB, pe_start=384)
DISK = 400 * MIB


def read(disk: MemoryDisk, *pvs: Pv) -> Groups:
    placed = []
    for number, pv in enumerate(pvs, 1):
        stretch = Stretch(pv.start, pv.size)
        found = read_label(Partition(number, stretch, "8e", "").volume(disk))
        assert found is not None
        placed.append(Placed(found, stretch, str(number)))
    return read_groups(placed, disk)


def one(text: str, ring_offset: int = 512) -> Groups:
    disk = MemoryDisk(DISK)
    write_pv(disk, FIRST, text, ring_offset)
    return read(disk, FIRST)


SIMPLE = group_text("vg", [FIRST], [("root", [(10, "pv0", 0)])])


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_the_checksum_is_lvms(data: bytes) -> None:
    assert checksum(data) == lvm_crc(data)


@st.composite
def volumes(
    draw: Callable[[st.SearchStrategy[Any]], Any],
) -> list[tuple[str, list[tuple[int, str, int]]]]:
    """Volumes in any number of segments, in any order, over two physical volumes."""
    free = [("pv0", extent) for extent in range(49)] + [("pv1", extent) for extent in range(24)]
    pieces: list[tuple[int, str, int]] = []
    while free and draw(st.booleans()):
        index = draw(st.integers(0, len(free) - 1))
        name, first = free.pop(index)
        length = 1
        while (name, first + length) in free and length < 9 and draw(st.booleans()):
            free.remove((name, first + length))
            length += 1
        pieces.append((length, name, first))
    count = draw(st.integers(1, 3))
    return [(f"lv{n}", pieces[n::count]) for n in range(count) if pieces[n::count]]


@settings(max_examples=60, deadline=None)
@given(volumes(), st.integers(512, MIB - 4097))
def test_linear_volumes_come_back_extent_by_extent(
    wanted: list[tuple[str, list[tuple[int, str, int]]]], ring_offset: int
) -> None:
    disk = MemoryDisk(DISK)
    text = group_text("vg", [FIRST, SECOND], wanted)
    for pv in (FIRST, SECOND):
        write_pv(disk, pv, text, ring_offset)
    start = {"pv0": FIRST.start + 2048 * 512, "pv1": SECOND.start + 384 * 512}
    found = read(disk, FIRST, SECOND)
    assert {v.name: v.stretches for v in found.volumes} == {
        name: tuple(Stretch(start[pv] + e * 4 * MIB, n * 4 * MIB) for n, pv, e in segments)
        for name, segments in wanted
    }
    assert found.notes == () and all(v.refusal == "" for v in found.volumes)


def test_the_metadata_may_begin_anywhere_in_the_ring() -> None:
    area = FIRST.areas[0][1]
    for ring_offset in (512, area - 512, area - 1, area - len(SIMPLE) - 1, area - len(SIMPLE) // 2):
        assert [v.path for v in one(SIMPLE, ring_offset).volumes] == ["vg/root"]


def test_the_newest_copy_counts_whichever_area_holds_it() -> None:
    two = Pv("pv0", "a" * 32, MIB, 200 * MIB, areas=((4096, 65536), (199 * MIB, 65536)))
    for newest in range(2):
        disk = MemoryDisk(DISK)
        write_pv(disk, two, group_text("vg", [two], [("old", [(1, "pv0", 0)])], seqno=9))
        text = group_text("vg", [two], [("new", [(2, "pv0", 0)])], seqno=10)
        write_area(disk, two.start, *two.areas[newest], text, 512)
        assert [v.name for v in read(disk, two).volumes] == ["new"]


def test_one_damaged_area_is_a_note_and_both_are_an_error() -> None:
    two = Pv("pv0", "a" * 32, MIB, 200 * MIB, areas=((4096, 65536), (199 * MIB, 65536)))
    disk = MemoryDisk(DISK)
    write_pv(disk, two, SIMPLE)
    disk.write(two.start + 4096 + 600, b"\xff")
    groups = read(disk, two)
    assert [v.name for v in groups.volumes] == ["root"]
    assert "checksum" in groups.notes[0]
    disk.write(two.start + 199 * MIB + 600, b"\xff")
    with pytest.raises(DiskError, match="checksum"):
        read(disk, two)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_flipped_byte_goes_unnoticed(data: st.DataObject) -> None:
    disk = MemoryDisk(DISK)
    write_pv(disk, FIRST, SIMPLE)
    ranges = [(512, 512), (4096, 512), (4096 + 512, len(SIMPLE))]
    start, length = data.draw(st.sampled_from(ranges))
    offset = FIRST.start + start + data.draw(st.integers(0, length - 1))
    (byte,) = disk.read(offset, 1)
    disk.write(offset, bytes([byte ^ data.draw(st.integers(1, 255))]))
    volume = Partition(1, Stretch(FIRST.start, FIRST.size), "8e", "").volume(disk)
    try:
        label = read_label(volume)
    except DiskError:
        return
    assert label is None or (label.copies == () and "checksum" in label.damage[0])


def test_a_damaged_label_is_an_error_and_none_is_none() -> None:
    disk = MemoryDisk(DISK)
    volume = Partition(1, Stretch(FIRST.start, FIRST.size), "8e", "").volume(disk)
    assert read_label(volume) is None
    write_pv(disk, FIRST, SIMPLE)
    disk.write(FIRST.start + 512 + 100, b"\xff")
    with pytest.raises(DiskError, match="label's checksum"):
        read_label(volume)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("thin", "LVM type thin"),
        ("thin-pool", "LVM type thin-pool"),
        ("raid1", "LVM type raid1"),
        ("raid5_ls", "LVM type raid5_ls"),
        ("mirror", "LVM type mirror"),
        ("cache+CACHE_USES_CACHEVOL", "LVM type cache"),
        ("writecache", "LVM type writecache"),
        ("vdo", "LVM type vdo"),
        ("snapshot", "LVM type snapshot"),
        ("error", "LVM type error"),
    ],
)
def test_other_types_are_refused_by_name(kind: str, words: str) -> None:
    text = SIMPLE.replace('type = "striped"', f'type = "{kind}"\norigin = "other"')
    (volume,) = one(text).volumes
    assert words in volume.refusal and volume.stretches == ()
    assert volume.size == 10 * 4 * MIB


def test_stripes_are_refused_with_their_number() -> None:
    text = SIMPLE.replace("stripe_count = 1", "stripe_count = 3\nstripe_size = 128").replace(
        '"pv0", 0', '"pv0", 0, "pv0", 10, "pv0", 20'
    )
    assert "striped over 3" in one(text).volumes[0].refusal


def test_the_origin_of_a_snapshot_is_read_the_snapshot_and_its_store_are_not() -> None:
    snapshot = """snap0 { id = "s" status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
      segment1 { start_extent = 0 extent_count = 10 type = "snapshot" chunk_size = 8
                 origin = "root" cow_store = "store" } }
    store { id = "t" status = ["READ", "WRITE"] segment_count = 1
      segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1
                 stripes = ["pv0", 20] } }"""
    text = group_text("vg", [FIRST], [("root", [(10, "pv0", 0)])], extra=snapshot)
    found = {v.name: v.refusal for v in one(text).volumes}
    assert found == {"root": "", "snap0": "it is of the LVM type snapshot"}
    merging = one(text.replace("cow_store", "merging_store"))
    assert "merge" in {v.name: v.refusal for v in merging.volumes}["root"]


def test_a_part_on_another_disk_is_named() -> None:
    disk = MemoryDisk(DISK)
    text = group_text(
        "vg", [FIRST, SECOND], [("root", [(1, "pv0", 0), (1, "pv1", 0)]), ("a", [(1, "pv0", 1)])]
    )
    write_pv(disk, FIRST, text)
    found = {v.name: v.refusal for v in read(disk, FIRST).volumes}
    assert found["a"] == ""
    assert "not on this disk (/dev/pv1)" in found["root"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("start_extent = 0", "start_extent = 1", "gap"),
        ("segment_count = 1", "segment_count = 2", "not all there"),
        ("segment_count = 1", "segment_count = 4294967296", "not all there"),
        ("extent_count = 10", "extent_count = 0", "impossible length"),
        ("extent_count = 10", "extent_count = 4294967297", "impossible length"),
        ("extent_count = 10", "extent_count = 4294967296", "outside of pv0"),
        ("extent_count = 10", "extent_count = 50", "outside of pv0"),
        ('"pv0", 0', '"pv0", 40', "outside of pv0"),
        ('"pv0", 0', '"pv0", -1', "where it lies"),
        ('"pv0", 0', '"pv0"', "where it lies"),
        ("extent_size = 8192", "extent_size = 0", "no size"),
        ("extent_size = 8192", 'extent_size = "x"', "extent_size"),
        ("seqno = 1", "seqno = {}", "cannot be understood"),
        ("physical_volumes {", "physical {", "internal volume"),
    ],
)
def test_metadata_that_contradicts_itself(old: str, new: str, words: str) -> None:
    assert old in SIMPLE
    try:
        refusals = " ".join(v.refusal for v in one(SIMPLE.replace(old, new, 1)).volumes)
    except DiskError as error:
        refusals = error.why
    assert words in refusals


def test_volumes_that_share_extents_are_an_error() -> None:
    with pytest.raises(DiskError, match="share byte"):
        one(group_text("vg", [FIRST], [("a", [(10, "pv0", 0)]), ("b", [(1, "pv0", 9)])]))


def test_two_physical_volumes_of_one_uuid_are_an_error() -> None:
    disk = MemoryDisk(DISK)
    twin = Pv("pv0", FIRST.uuid, SECOND.start, SECOND.size)
    for pv in (FIRST, twin):
        write_pv(disk, pv, SIMPLE)
    with pytest.raises(DiskError, match="UUID"):
        read(disk, FIRST, twin)


def test_an_empty_physical_volume_has_no_volumes() -> None:
    disk = MemoryDisk(DISK)
    bare = Pv("pv0", "c" * 32, MIB, 200 * MIB, areas=())
    write_pv(disk, bare, "")
    assert read(disk, bare) == Groups((), ())


NAMES = st.text("abzAZ_.+-09", min_size=1, max_size=8).map("n".__add__)
STRINGS = st.text('ab 0"\\{}[]=,#\n\u00e4', max_size=12)
VALUES = st.integers(-(10**15), 10**15) | STRINGS
SECTIONS: st.SearchStrategy[dict[str, object]] = st.recursive(
    st.dictionaries(NAMES, VALUES | st.lists(VALUES, max_size=3), max_size=4),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def written(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return str(value)


def section_text(section: dict[str, object]) -> str:
    return "\n# a comment } {\n".join(
        f"{name} {{\n{section_text(value)}\n}}"
        if isinstance(value, dict)
        else f"{name}={written(value)}"
        for name, value in section.items()
    )


@settings(max_examples=50, deadline=None)
@given(SECTIONS)
def test_text_round_trip(section: dict[str, object]) -> None:
    assert parse(section_text(section)) == section


@pytest.mark.parametrize(
    "text",
    [
        *("{", "}", "a {", "a = ", "a = {", "a b", "a = \\", 'a = "x', '"a" = 1', "a = 1 a = 2"),
        *("a = [1, ", "a = [1 2]", "a = " + "9" * 30, "a = " + "[" * 40 + "]" * 40),
        "a { " * 40 + "}" * 40,
    ],
)
def test_text_that_is_none(text: str) -> None:
    with pytest.raises(MetadataError):
        parse(text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text)
    except MetadataError as error:
        assert "line" in str(error)


def test_a_volume_carries_device_mappers_uuid() -> None:
    assert [volume.uuid for volume in one(SIMPLE).volumes] == ["v" * 32 + "l"]
