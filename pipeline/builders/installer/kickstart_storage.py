"""What of a kickstart's disk layout cannot become an image, told before the installer runs.

The machine has one blank virtio disk, and of what is installed on it the image takes the root and
/boot, from plain partitions or linear logical volumes with ext or XFS (extract.py). Source of the
commands: pykickstart 3, "Kickstart Syntax Reference".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.builders.installer.answer_text import Finding
from pipeline.builders.installer.install_target import DISK
from pipeline.builders.installer.kickstart_disks import other_disks, taken
from pipeline.builders.installer.kickstart_syntax import STORAGE, Command, Kickstart
from pipeline.core.system_places import is_essential

_ROOTS = ("ext2", "ext3", "ext4", "xfs")
DEPLOYMENTS = {
    "ostreesetup": "an OSTree deployment",
    "ostreecontainer": "an OSTree deployment",
    "bootc": "a bootable container",
}
"""Commands that install something else than packages into a plain tree."""
_REPLACED = ("/", "/boot", "/boot/efi", "/efi", "/tmp", "/var/tmp")  # noqa: S108 # the guest's
_WRITE_ROOT = "logvol / --vgname=... --name=lv_root --fstype=ext4 --size=... (or part / ...)"


@dataclass(frozen=True)
class Volume:
    """A volume that gets a file system or holds other volumes. words: its command's name.

    point: mount point, or "pv.1", "raid.1", "swap" and such. inside: what it lies in: a disk, a
    volume group, an array's members. problem: why the image cannot have a root or /boot on it.
    """

    line: int
    words: str
    point: str
    filesystem: str = ""
    problem: str = ""
    inside: tuple[str, ...] = ()
    mib: int = 0


def storage_findings(kickstart: Kickstart, disk_gib: int, release: str) -> Iterator[Finding]:
    """Everything about disks and volumes; nothing about a layout that was not understood.

    disk_gib: size of the machine's disk.
    """
    yield from other_disks(kickstart)
    yield from _deployments(kickstart)
    if kickstart.failed & (STORAGE | {""}):
        return
    volumes = [
        *_partitions(kickstart),
        *_arrays(kickstart),
        *_logical(kickstart),
        *_more(kickstart),
    ]
    yield from _root(kickstart, volumes, release)
    yield from _passphrases(kickstart)
    yield from _of_their_own(volumes)
    yield from _twice(kickstart, volumes)
    yield from _unknown_names(kickstart, volumes)
    yield from _room(volumes, disk_gib)
    told = kickstart.named("zerombr", "clearpart") or taken(kickstart)
    unknown = kickstart.dynamic or any(DISK in text for _, text in kickstart.scripts("%pre"))
    if not told and not unknown and (volumes or _automatic(kickstart)):
        yield Finding(
            0,
            "the disk is blank and nothing says that it may be initialized; write zerombr and "
            "clearpart --all --initlabel",
            fatal=False,
        )


def _deployments(kickstart: Kickstart) -> Iterator[Finding]:
    for name, what in DEPLOYMENTS.items():
        for command in kickstart.named(name):
            yield Finding(
                command.line,
                f"{name} installs {what}, whose root is no plain file tree: install packages, "
                "with url and %packages",
            )


def _partitions(kickstart: Kickstart) -> Iterator[Volume]:
    for part in kickstart.data("partition", "partitions") or ():
        kind = getattr(part, "fstype", "")
        problem = "is encrypted" if getattr(part, "encrypted", False) else _unreadable(kind)
        yield Volume(
            part.lineno, f"part {part.mountpoint}", part.mountpoint, kind, problem,
            mib=part.size or 0,
        )  # fmt: skip


def _arrays(kickstart: Kickstart) -> Iterator[Volume]:
    for array in kickstart.data("raid", "raidList") or ():
        kind = getattr(array, "fstype", "")
        problem = "is encrypted" if getattr(array, "encrypted", False) else "is RAID"
        point = array.mountpoint
        yield Volume(
            array.lineno, f"raid {point}", point, kind, problem, tuple(array.members or ())
        )


def _logical(kickstart: Kickstart) -> Iterator[Volume]:
    for volume in kickstart.data("logvol", "lvList") or ():
        kind = getattr(volume, "fstype", "")
        problem = _unreadable(kind)
        if getattr(volume, "encrypted", False):
            problem = "is encrypted"
        if getattr(volume, "thin_volume", False):
            problem = "is a thin volume"
        if getattr(volume, "cache_pvs", None):
            problem = "is cached"
        yield Volume(
            volume.lineno,
            f"logvol {volume.mountpoint}",
            volume.mountpoint,
            kind,
            problem,
            (f"volume group {volume.vgname}",),
            volume.size or 0,
        )
    for group in kickstart.data("volgroup", "vgList") or ():
        yield Volume(
            group.lineno, f"volgroup {group.vgname}", f"volume group {group.vgname}",
            inside=tuple(group.physvols or ()),
        )  # fmt: skip


def _more(kickstart: Kickstart) -> Iterator[Volume]:
    """btrfs, Stratis, and volumes that are only mounted."""
    for volume in kickstart.data("btrfs", "btrfsList") or ():
        point = volume.mountpoint
        if getattr(volume, "subvol", False):
            yield Volume(volume.lineno, f"btrfs {point}", point, "btrfs", "is btrfs")
        else:
            members = tuple(getattr(volume, "devices", ()) or ())
            yield Volume(volume.lineno, f"btrfs {point}", point, "btrfs", "is btrfs", members)
    for command in kickstart.named("stratisfs"):
        point = next((word for word in command.words[1:] if word.startswith("/")), "")
        yield Volume(command.line, f"stratisfs {point}", point, "xfs", "is a Stratis volume")
    for mount in kickstart.data("mount", "mount_points") or ():
        yield Volume(
            mount.lineno, f"mount {mount.mount_point}", mount.mount_point,
            mount.format or "", _unreadable(mount.format or ""),
        )  # fmt: skip


def _unreadable(kind: str) -> str:
    pseudo = ("", "swap", "biosboot", "prepboot", "efi", "lvmpv", "mdmember", "none")
    return "" if kind in (*_ROOTS, *pseudo) else f"is {kind}"


def _problem(volume: Volume, volumes: list[Volume], seen: frozenset[str] = frozenset()) -> str:
    """Why a volume cannot be read out of the disk, by itself or what it lies in; "" if it can."""
    if volume.problem:
        return volume.problem
    for name in volume.inside:
        for holder in volumes:
            if holder.point == name and name not in seen:
                problem = _problem(holder, volumes, seen | {name})
                if problem:
                    return f"lies in {holder.words}, which {problem}"
    return ""


def _automatic(kickstart: Kickstart) -> bool:
    return bool(kickstart.named("autopart")) and kickstart.data("autopart", "autopart") is not False


def _root(kickstart: Kickstart, volumes: list[Volume], release: str) -> Iterator[Finding]:
    """A root there must be, and the image must be able to have it; /boot likewise."""
    if _automatic(kickstart):
        yield from _autopart(kickstart, kickstart.named("autopart")[-1], release)
    elif not any(volume.point == "/" for volume in volumes):
        text = "no command makes a root volume"
        if kickstart.dynamic:
            yield Finding(0, f"{text} here: it is left to what %pre writes", fatal=False)
        else:
            yield Finding(0, f"{text}: write {_WRITE_ROOT}, or autopart --type=lvm")
    for volume in volumes:
        if volume.point in ("/", "/boot"):
            vfat = volume.point == "/boot" and volume.filesystem in ("vfat", "efi")
            problem = "" if vfat else _problem(volume, volumes)
            if problem:
                yield Finding(
                    volume.line,
                    f"{volume.words} {problem}, and no image can be made of that: use a plain "
                    "partition or a linear logical volume with ext4 or xfs",
                )


def _autopart(kickstart: Kickstart, command: Command, release: str) -> Iterator[Finding]:
    options = dict(command.options())
    kind = options.get("--type", "")
    if kickstart.data("autopart", "encrypted"):
        yield Finding(command.line, "autopart --encrypted: the root is encrypted; leave it out")
    if kind in ("btrfs", "thinp"):
        what = "btrfs" if kind == "btrfs" else "a thin volume"
        yield Finding(
            command.line, f"autopart --type={kind}: the root is {what}, which no image can be made "
            "of; write --type=lvm or --type=plain"
        )  # fmt: skip
    filesystem = options.get("--fstype", "")
    if _unreadable(filesystem):
        yield Finding(
            command.line, f"autopart --fstype={filesystem}: the root is {filesystem}, which no "
            "image can be made of; write --fstype=ext4 or --fstype=xfs"
        )  # fmt: skip
    number = release.removeprefix("F")
    if not kind and release.startswith("F") and number.isdigit() and int(number) >= 33:
        yield Finding(
            command.line,
            "autopart without --type makes btrfs on Fedora since 33 but for Fedora Server, and no "
            "image can be made of that; write --type=lvm",
            fatal=False,
        )


def _of_their_own(volumes: list[Volume]) -> Iterator[Finding]:
    for volume in volumes:
        point = _tidy(volume.point)
        if not point.startswith("/") or point in _REPLACED or volume.filesystem == "tmpfs":
            continue
        essential = is_essential(point)
        what = "no system runs without it" if essential else "its content is lost"
        yield Finding(
            volume.line,
            f"{volume.words}: {point} is on a volume of its own, the image is the root alone, and "
            f"{what}: leave the line out, which puts it on the root",
            fatal=essential,
        )


def _passphrases(kickstart: Kickstart) -> Iterator[Finding]:
    """Volumes beside the root that the installer would ask a passphrase for."""
    lists = (("partition", "partitions"), ("logvol", "lvList"), ("raid", "raidList"))
    for command, attribute in lists:
        for volume in kickstart.data(command, attribute) or ():
            encrypted = getattr(volume, "encrypted", False) and not volume.passphrase
            if encrypted and volume.mountpoint not in ("/", "/boot"):
                yield Finding(
                    volume.lineno,
                    f"{volume.mountpoint} is encrypted and has no passphrase, so the installer "
                    "would ask for it: remove --encrypted, or give --passphrase",
                )


def _tidy(point: str) -> str:
    return point.rstrip("/") or point


def _twice(kickstart: Kickstart, volumes: list[Volume]) -> Iterator[Finding]:
    names = [(v.point and _tidy(v.point), v.line) for v in volumes if _is_unique(v.point)]
    for volume in kickstart.data("logvol", "lvList") or ():
        if volume.name and volume.name != "none":
            names.append((f"logical volume {volume.vgname}/{volume.name}", volume.lineno))
    names += [(f"md{a.device}", a.lineno) for a in kickstart.data("raid", "raidList") or ()]
    first: dict[str, int] = {}
    for name, line in names:
        if name in first:
            # anaconda lets the last of two mount points win, and base files rely on it.
            overrides = name.startswith("/") and not kickstart.same_file(line, first[name])
            yield Finding(
                line, f"{name} is given twice: keep one", fatal=not overrides, other=first[name]
            )
        first.setdefault(name, line)


def _is_unique(point: str) -> bool:
    return point.startswith(("/", "pv.", "raid.", "btrfs.", "volume group "))


def _unknown_names(kickstart: Kickstart, volumes: list[Volume]) -> Iterator[Finding]:
    """Volumes that lie in what no command makes."""
    if kickstart.dynamic:
        return
    made = {volume.point for volume in volumes}
    for volume in volumes:
        for name in volume.inside:
            if name.startswith(("pv.", "raid.", "btrfs.", "volume group ")) and name not in made:
                how = "volgroup" if name.startswith("volume group ") else f"part {name} --size=..."
                yield Finding(
                    volume.line, f"{volume.words} lies in {name}, which no command makes: write "
                    f"{how}, or correct the name"
                )  # fmt: skip


def _room(volumes: list[Volume], disk_gib: int) -> Iterator[Finding]:
    parts = [volume for volume in volumes if volume.words.startswith("part ")]
    groups = sum(volume.mib for volume in parts if volume.point.startswith("pv."))
    logical = sum(volume.mib for volume in volumes if volume.words.startswith("logvol "))
    plain = sum(volume.mib for volume in parts if not volume.point.startswith("pv."))
    wanted = plain + max(groups, logical)
    if wanted > disk_gib << 10:
        yield Finding(
            0,
            f"the volumes need {wanted} MiB and the machine's disk has {disk_gib << 10}: give "
            "smaller sizes, or the recipe a larger disk_gib",
            fatal=False,
        )
