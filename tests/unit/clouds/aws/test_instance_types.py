"""A whole disk for EC2: which drivers it must have, and what is claimed of it."""

from __future__ import annotations

import pytest

from pipeline.clouds.aws.instance_types import check_drivers, has_driver
from pipeline.core.errors import InputError
from pipeline.core.image import Image


def images(*drivers: str, known: bool = True) -> Image:
    return Image("demo", "x86_64", (), "6.1", "", drivers=frozenset(drivers) if known else None)


def test_current_instance_types_are_served() -> None:
    assert check_drivers(images("nvme", "ena", "virtio_blk"), "ebs") == []
    assert has_driver(images("ena"), "ena")


def test_a_disk_that_finds_its_root_nowhere_is_refused() -> None:
    with pytest.raises(InputError, match=r"neither its ramdisk nor its kernel has nvme"):
        check_drivers(images("virtio_blk", "ena"), "ebs")


def test_a_disk_for_old_instance_types_is_warned_of() -> None:
    root, network = check_drivers(images("xen_blkfront", "xen_netfront"), "ebs")
    assert "Xen" in root
    assert "EnaSupport" in network
    assert not has_driver(images("xen_blkfront"), "ena")


def test_nothing_is_said_where_nobody_wrote_the_drivers_down() -> None:
    assert check_drivers(images(known=False), "ebs") == []
    assert has_driver(images(known=False), "ena")
