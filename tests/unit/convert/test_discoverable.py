"""Partitions whose type says where they are mounted."""

from __future__ import annotations

import pytest

from pipeline.convert.discoverable import by_type
from pipeline.convert.survey import Candidate
from pipeline.disk.blocks.partition import Partition
from pipeline.disk.blocks.superblock import Superblock
from pipeline.disk.blocks.volume import Stretch, Volume
from tests.fixtures.disks.memory import MemoryDisk
from tests.fixtures.disks.trees import tree

DISK = MemoryDisk(1 << 30)
VAR = "4d21b016-b534-45c2-a9fb-5c16e091fd2d"


def partition(
    number: int, kind: str, label: str = "", uuid: str = "f5", attributes: int = 0
) -> Candidate:
    stretch = Stretch(0, 1 << 20)
    place = f"partition {number}"
    found = Partition(number, stretch, kind, f"0a-{number}", label, "", attributes)
    volume = Volume(DISK, (stretch,), place)
    return Candidate(str(number), place, volume, Superblock("ext4", uuid), found)


def typed(fstab: str, *others: Candidate) -> dict[str, str]:
    return by_type(others, tree({"etc": {"fstab": fstab.encode()}}))


@pytest.mark.parametrize(
    ("kind", "point"),
    [
        ("8484680C-9521-48C6-9C11-B0720656F69E", "/usr"),
        (VAR, "/var"),
        ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "/home"),
        ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "/srv"),
        ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", "/var/tmp"),
    ],
)
def test_places_by_type(kind: str, point: str) -> None:
    assert typed("", partition(3, kind)) == {point: "partition 3"}


@pytest.mark.parametrize(
    "kind",
    [
        "0fc63daf-8483-4772-8e79-3d69d8477de4",  # Linux data
        "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",  # swap
        "bc13c2ff-59e6-4262-a352-b275fd6f7172",  # extended boot loader
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",  # EFI system
        "83",
    ],
)
def test_other_types_give_none(kind: str) -> None:
    assert typed("", partition(3, kind)) == {}


def test_a_partition_that_fstab_puts_to_another_use() -> None:
    assert typed("UUID=f5 /data ext4 defaults 0 2\n", partition(3, VAR)) == {}
    assert typed("PARTUUID=0a-3 /data ext4 defaults 0 2\n", partition(3, VAR)) == {}
    assert typed("UUID=f6 /data ext4 defaults 0 2\n", partition(3, VAR)) == {"/var": "partition 3"}


def test_a_partition_that_is_not_mounted_for_its_type() -> None:
    assert typed("", partition(3, VAR, attributes=1 << 63)) == {}
    assert typed("", partition(3, VAR, attributes=1 << 60)) == {"/var": "partition 3"}  # read-only


def test_a_slot_that_waits_for_an_update_holds_nothing() -> None:
    assert typed("", partition(3, VAR, "_empty")) == {}
