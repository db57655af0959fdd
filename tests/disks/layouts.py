"""The layouts as data: where the root lies, in which tables, made by which lvm2 commands."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 1 << 20
ROOT_MIB = 1024
SWAP_MIB = 64


@dataclass(frozen=True)
class Lvm:
    """A volume group, made by lvm2.

    partitions: of its physical volumes. commands: what lvm2 is told after vgcreate; {vg} stands
    for the group and {0}, {1} for the physical volumes.
    """

    vg: str
    root: str
    swap: str
    partitions: tuple[int, ...]
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One kind of disk.

    table: a script for sfdisk(8). boot: the partition of a separate /boot. root: the partition
    of a root that is not on LVM. dirty: cut off with files that are only in the journal.
    fill: how much of the root is used, in per cent; 0 for as much as the system needs.
    convert: options of qemu-img convert for a disk that is not raw.
    """

    table: str
    boot: int | None = None
    root: int | None = None
    lvm: Lvm | None = None
    filesystem: str = "ext4"
    dirty: bool = False
    fill: int = 0
    convert: tuple[str, ...] = ()
    size_mib: int = field(default=1800)


_VOLUMES = (
    "lvcreate -n {root} -l 256 {vg}",
    "lvcreate -n {swap} -l 16 {vg}",
)
_FEDORA_TABLE = "label: dos\nsize=500MiB, type=83, bootable\ntype=8e\n"
_FEDORA = Lvm("VolGroup", "lv_root", "lv_swap", (2,), _VOLUMES)

LAYOUTS = {
    # Fedora 15's automatic partitioning.
    "mbr-lvm": Layout(_FEDORA_TABLE, boot=1, lvm=_FEDORA),
    # Debian's installer, "guided, LVM": the volume group in a logical partition.
    "debian": Layout(
        "label: dos\nsize=487MiB, type=83, bootable\ntype=5\nstart=489MiB, type=8e\n",
        boot=1,
        lvm=Lvm("installed-vg", "root", "swap_1", (5,), _VOLUMES),
    ),
    "gpt": Layout(
        "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\n"
        "size=500MiB, type=L\ntype=E6D6D379-F507-44C2-A23C-238F2A3DF928\n",
        boot=2,
        lvm=Lvm("VolGroup", "lv_root", "lv_swap", (3,), _VOLUMES),
    ),
    "names": Layout(
        _FEDORA_TABLE,
        boot=1,
        lvm=Lvm("vg-build.host_01", "os+root", "memory", (2,), _VOLUMES),
    ),
    # The second half of the root lies before the first.
    "two-segments": Layout(
        _FEDORA_TABLE,
        boot=1,
        lvm=Lvm(
            "VolGroup",
            "lv_root",
            "lv_swap",
            (2,),
            (
                "lvcreate -n {root} -l 100 {vg} {0}:172-271",
                "lvextend -l +156 {vg}/{root} {0}:0-155",
                "lvcreate -n {swap} -l 16 {vg}",
            ),
        ),
    ),
    "two-partitions": Layout(
        "label: dos\nsize=500MiB, type=83, bootable\nsize=600MiB, type=8e\ntype=8e\n",
        boot=1,
        lvm=Lvm(
            "VolGroup",
            "lv_root",
            "lv_swap",
            (2, 3),
            (
                "lvcreate -n {root} -l 140 {vg} {1}",
                "lvextend -l +116 {vg}/{root} {0}",
                "lvcreate -n {swap} -l 16 {vg}",
            ),
        ),
    ),
    "no-lvm": Layout("label: dos\nsize=1024MiB, type=83, bootable\nsize=64MiB, type=82\n", root=1),
    "dirty": Layout(_FEDORA_TABLE, boot=1, lvm=_FEDORA, dirty=True),
    "full": Layout(_FEDORA_TABLE, boot=1, lvm=_FEDORA, fill=95),
    "xfs": Layout(_FEDORA_TABLE, boot=1, lvm=_FEDORA, filesystem="xfs"),
    "qcow2": Layout(_FEDORA_TABLE, boot=1, lvm=_FEDORA, convert=("-O", "qcow2")),
    "qcow2-compressed": Layout(_FEDORA_TABLE, boot=1, lvm=_FEDORA, convert=("-c", "-O", "qcow2")),
}
