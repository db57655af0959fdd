"""Disks with a real Debian 12 on them, in the layouts that installers leave.

For integration tests, as root (loop devices, mounts). The Debian tree is made once by mmdebstrap
and kept in the cache; partition tables come from sfdisk, volume groups from lvm2 itself (without
device-mapper), file systems from mke2fs and mkfs.xfs, their content from the kernel's drivers:
nothing here is written by the code under test.

    facts = make_disk("mbr-lvm", tmp_path / "disk.img")

or `python -m tests.disks LAYOUT FILE`.
"""

from tests.disks.debian import debian_root_tarball
from tests.disks.layouts import LAYOUTS
from tests.disks.listing import Entry, listing
from tests.disks.make import DiskFacts, make_disk, mounted

__all__ = [
    "LAYOUTS",
    "DiskFacts",
    "Entry",
    "debian_root_tarball",
    "listing",
    "make_disk",
    "mounted",
]
