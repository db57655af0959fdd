"""Whether this host can edit an XFS, by the feature words of its superblock.

Two must know every feature: the kernel of libguestfs's appliance, which mounts the file system,
and xfs_repair, which has the last word on the edits. Both say no only after everything else was
done, and xfs_repair by the exit status of damage. Feature bits: the kernel's
fs/xfs/libxfs/xfs_format.h; the appliance's kernel is chosen as supermin(1) does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DiskError, GuestError
from pipeline.core.versions import version_key
from pipeline.disk.blocks.superblock import Superblock
from pipeline.guest.boot.kernel_image import kernel_release
from pipeline.host.context import Tools

Version = tuple[int, int]
_NEEDS_REPAIR = 0x10  # incompat
_INCOMPAT: dict[int, tuple[str, Version]] = {
    0x1: ("ftype", (3, 13)),
    0x2: ("sparse inodes", (4, 2)),
    0x4: ("a UUID of its metadata", (4, 3)),
    0x8: ("bigtime", (5, 10)),
    _NEEDS_REPAIR: ("needsrepair", (5, 11)),
    0x20: ("nrext64", (5, 19)),
    0x40: ("exchange", (6, 10)),
    0x80: ("parent", (6, 10)),
    0x100: ("metadir", (6, 13)),
    0x200: ("zoned", (6, 15)),
    0x400: ("zone gaps", (6, 15)),
}
"""What each bit is called by mkfs.xfs, and the release of Linux, and so of xfsprogs, that brought
it."""
_RO_COMPAT: dict[int, tuple[str, Version]] = {
    0x1: ("finobt", (3, 16)),
    0x2: ("rmapbt", (4, 8)),
    0x4: ("reflink", (4, 9)),
    0x8: ("inobtcount", (5, 10)),
}
_FUTURE = (7, 3)
"""For bits that were not assigned when this was written."""
_OPTIONS = ((6, 18), (6, 12), (6, 6), (6, 1), (5, 15), (5, 10), (5, 4), (4, 19))
"""Kernels for which xfsprogs ships a file of mkfs options, lts_VERSION.conf."""
_OPTION_FILES = "/usr/share/xfsprogs/mkfs"
_BACKPORTS = re.compile(r"\.el\d|\.amzn|\.uek|-default$")
"""Kernels whose file systems are newer than their number."""
_SECONDS = 60.0


@dataclass(frozen=True)
class Feature:
    """A feature of a file system. since: the release of Linux and xfsprogs that brought it."""

    name: str
    since: Version


def features(superblock: Superblock) -> Iterator[Feature]:
    """The features that the words of an XFS superblock name."""
    for word, kind, known in (
        (superblock.incompat, "incompat", _INCOMPAT),
        (superblock.ro_compat, "ro_compat", _RO_COMPAT),
    ):
        for bit in (1 << number for number in range(32)):
            if word & bit:
                yield Feature(*known.get(bit, (f"the {kind} feature {bit:#x}", _FUTURE)))


def require_editable(superblock: Superblock, place: str, tools: Tools) -> None:
    """DiskError if this host's appliance or xfs_repair does not know a feature of an XFS.

    place: the volume, for the message. HostError when there is no xfs_repair.
    """
    said = tools.run.run(["xfs_repair", "-V"], timeout=_SECONDS).text
    require_known(superblock, place, kernel=appliance_kernel(os.environ), xfsprogs=said.strip())


def require_known(superblock: Superblock, place: str, *, kernel: str, xfsprogs: str) -> None:
    """DiskError unless a kernel of this release and an xfs_repair that says this know an XFS.

    An empty or unknown release refuses nothing.
    """
    if superblock.incompat & _NEEDS_REPAIR:
        raise DiskError(
            "edit the XFS of",
            place,
            why="it is marked as needing repair (needsrepair), and no kernel mounts it",
            next_step="Run xfs_repair on the disk itself, look at what was lost, try again",
        )
    known = {
        f"Linux {kernel} of the editing appliance": _version(kernel),
        xfsprogs: _version(xfsprogs),
    }
    if _BACKPORTS.search(kernel):
        known.pop(f"Linux {kernel} of the editing appliance")
    needed = list(features(superblock))
    why = "; ".join(
        f"{who} does not know {_listed(missing)}"
        for who, version in known.items()
        if version and (missing := [each for each in needed if each.since > version])
    )
    if not why:
        return
    since = "{}.{}".format(*max(each.since for each in needed))
    oldest = min(version for version in known.values() if version)
    raise DiskError("edit the XFS of", place, why=why, next_step=_remedy(since, oldest))


def _remedy(since: str, oldest: Version) -> str:
    options = next((each for each in _OPTIONS if each <= oldest), _OPTIONS[-1])
    return (
        f"Build on a host with Linux {since} and xfsprogs {since} or later (SUPERMIN_KERNEL and "
        "SUPERMIN_MODULES name another kernel for the appliance), or install on an XFS made by "
        f"mkfs.xfs -c options={_OPTION_FILES}/lts_{options[0]}.{options[1]}.conf"
    )


def _listed(missing: list[Feature]) -> str:
    return ", ".join(f"{each.name} (since {each.since[0]}.{each.since[1]})" for each in missing)


def _version(text: str) -> Version | None:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def appliance_kernel(
    environment: Mapping[str, str],
    boot: Path = Path("/boot"),
    modules: Path = Path("/lib/modules"),
) -> str:
    """The release of the kernel that libguestfs's appliance runs; "" when that cannot be told."""
    fixed = [Path(part, "kernel") for part in environment.get("LIBGUESTFS_PATH", "").split(":")]
    named = environment.get("SUPERMIN_KERNEL", "")
    for path in (*fixed, *([Path(named)] if named else [])):
        if path.is_absolute() and path.is_file():
            try:
                return kernel_release(path)
            except (GuestError, OSError):
                return Path(environment.get("SUPERMIN_MODULES", "")).name
    releases = [path.parent.name for path in modules.glob("*/vmlinuz")] or [
        path.name.removeprefix("vmlinuz-")
        for path in boot.glob("vmlinuz-*")
        if (modules / path.name.removeprefix("vmlinuz-")).is_dir()
    ]
    return max(releases, key=version_key, default="")
