"""Disks and partitions that a kickstart names and the installing machine does not have.

The machine has one blank virtio disk. Source of the commands: pykickstart 3, "Kickstart Syntax
Reference".
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.builders.installer.answer_text import Finding
from pipeline.builders.installer.install_target import DISK, is_machines_disk
from pipeline.builders.installer.kickstart_syntax import Kickstart

_ABSENT = {
    "iscsi": "an iSCSI target",
    "fcoe": "a Fibre Channel disk",
    "zfcp": "a Fibre Channel disk of a mainframe",
    "nvdimm": "a persistent memory module",
}


def other_disks(kickstart: Kickstart) -> Iterator[Finding]:
    """Names of disks and partitions that the machine does not have."""
    for line, what, name in _named_disks(kickstart):
        if name and not is_machines_disk(name):
            yield Finding(
                line, f"{what} names the disk {name}, and the machine's only disk is {DISK}: "
                + ("remove it" if what == "ignoredisk --drives" else f"write {DISK}")
            )  # fmt: skip
    for name in kickstart.data("ignoredisk", "ignoredisk") or ():
        if is_machines_disk(name):
            line = kickstart.named("ignoredisk")[-1].line
            yield Finding(line, f"ignoredisk leaves out {name}, the machine's only disk: remove it")
    scripts = kickstart.scripts("%pre")
    made_before = bool(scripts)
    for line, what, name in [] if any(DISK in text for _, text in scripts) else taken(kickstart):
        yield Finding(
            line,
            f"{what} takes {name}, which must be there before the install, and the machine's "
            "disk is blank: have it made, by part or logvol with --size",
            fatal=not made_before,
        )
    for name, device in _ABSENT.items():
        for command in kickstart.named(name):
            yield Finding(
                command.line,
                f"{name} attaches {device}, which neither the machine nor an instance has: remove "
                f"it and install on {DISK}",
            )


def _named_disks(kickstart: Kickstart) -> Iterator[tuple[int, str, str]]:
    """Line, command and name wherever a command names a disk."""
    for part in kickstart.data("partition", "partitions") or ():
        yield part.lineno, f"part {part.mountpoint} --ondisk", getattr(part, "disk", "")
        there = getattr(part, "onPart", "")
        if there and not there.startswith(("LABEL=", "UUID=")):
            yield part.lineno, f"part {part.mountpoint} --onpart", _disk_of(there)
    single = (
        ("clearpart", "--drives", kickstart.data("clearpart", "drives")),
        ("ignoredisk", "--only-use", kickstart.data("ignoredisk", "onlyuse")),
        ("ignoredisk", "--drives", kickstart.data("ignoredisk", "ignoredisk")),
        ("bootloader", "--driveorder", kickstart.data("bootloader", "driveorder")),
        ("bootloader", "--boot-drive", [kickstart.data("bootloader", "bootDrive") or ""]),
    )
    for name, option, disks in single:
        for disk in disks or ():
            yield (
                kickstart.named(name)[-1].line if kickstart.named(name) else 0,
                (f"{name} {option}"),
                disk,
            )
    for device in kickstart.data("clearpart", "devices") or ():
        yield kickstart.named("clearpart")[-1].line, "clearpart --list", _disk_of(device)
    for mount in kickstart.data("mount", "mount_points") or ():
        if mount.device.startswith("/dev/") and "/mapper/" not in mount.device:
            yield mount.lineno, "mount", _disk_of(mount.device)


def _disk_of(partition: str) -> str:
    """The disk of a partition's name: vda of vda1, nvme0n1 of nvme0n1p1."""
    name = partition.removeprefix("/dev/")
    if name.startswith("disk/"):
        return name
    stem = name.rstrip("0123456789")
    if stem.endswith("p") and stem[:-1][-1:].isdigit():
        return stem[:-1]
    return name if stem.startswith(("nvme", "mmcblk")) else stem


def taken(kickstart: Kickstart) -> list[tuple[int, str, str]]:
    """Line, command and name of volumes that are to be used as they are found."""
    return list(_present_volumes(kickstart))


def _present_volumes(kickstart: Kickstart) -> Iterator[tuple[int, str, str]]:
    for part in kickstart.data("partition", "partitions") or ():
        if getattr(part, "onPart", ""):
            yield part.lineno, f"part {part.mountpoint}", part.onPart
    for volume in kickstart.data("logvol", "lvList") or ():
        if getattr(volume, "preexist", False):
            yield volume.lineno, f"logvol {volume.mountpoint}", f"{volume.vgname}/{volume.name}"
    for group in kickstart.data("volgroup", "vgList") or ():
        if getattr(group, "preexist", False):
            yield group.lineno, "volgroup", group.vgname
    for array in kickstart.data("raid", "raidList") or ():
        if getattr(array, "preexist", False):
            yield array.lineno, f"raid {array.mountpoint}", f"md{array.device}"
    for mount in kickstart.data("mount", "mount_points") or ():
        yield mount.lineno, f"mount {mount.mount_point}", mount.device
