"""What is told of an appliance that refuses a guest's file system."""

from __future__ import annotations

from pipeline.guest.access.libguestfs import kernels_words

LOG = """\
[    1.031337] EXT4-fs (sdb): mounted filesystem without journal. Quota mode: none.
[    9.215114] XFS (sda): Superblock has unknown incompatible features (0x100) enabled.
[    9.215999] EXT4-fs error (device sda): ext4_fill_super: no
[    9.216001] sda: sda1
"""


def test_the_kernels_words_on_one_device() -> None:
    assert kernels_words(LOG, "/dev/sda") == [
        "XFS (sda): Superblock has unknown incompatible features (0x100) enabled.",
        "EXT4-fs error (device sda): ext4_fill_super: no",
    ]
    assert kernels_words(LOG, "/dev/sdc") == []
