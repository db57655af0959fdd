"""Which volume of a disk a line of fstab means (fstab(5), the names of /dev as udev makes them)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.convert.survey import Candidate
from pipeline.core.fstab import parse

_BY = {"uuid": "UUID", "label": "LABEL", "partuuid": "PARTUUID", "partlabel": "PARTLABEL"}
_FIRST_DISK = re.compile(r"/dev/(?:[shv]da|xvda|nvme0n1p|mmcblk0p)(\d+)$")


def spec_of(fstab: str, mount_point: str) -> str | None:
    """The first field of the line that mounts `mount_point`; None if there is no such line."""
    for entry in parse(fstab):
        if entry.place == mount_point:
            return entry.source
    return None


def resolve(spec: str, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates that a specification such as UUID=... or /dev/mapper/... means."""
    for by, tag in _BY.items():
        spec = re.sub(rf"^/dev/disk/by-{by}/", f"{tag}=", spec)
    tag, equals, value = spec.partition("=")
    value = value.strip("\"'")
    if equals and tag in _BY.values():
        return [c for c in candidates if value and _matches(c, tag, value)]
    if number := _FIRST_DISK.match(spec):
        return [c for c in candidates if c.name == number[1]]
    return [c for c in candidates if "/" in c.name and spec in _device_names(c.name)]


def _matches(candidate: Candidate, tag: str, value: str) -> bool:
    superblock, partition = candidate.superblock, candidate.partition
    match tag:
        case "UUID":
            return superblock is not None and superblock.uuid.lower() == value.lower()
        case "LABEL":
            return superblock is not None and superblock.label == value
        case "PARTUUID":
            return partition is not None and partition.uuid.lower() == value.lower()
        case _:
            return partition is not None and partition.label == value


def _device_names(path: str) -> tuple[str, str]:
    """A logical volume's names in /dev; device-mapper doubles hyphens within a name (lvm(8))."""
    group, _, volume = path.partition("/")
    mapped = f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
    return f"/dev/{path}", f"/dev/mapper/{mapped}"
