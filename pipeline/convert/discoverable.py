"""Where the types of a disk's partitions have them mounted, if nothing else says so.

Source: the discoverable partitions specification of the UAPI group, as the initramfs and
systemd-gpt-auto-generator(8) keep it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.convert.fstab_devices import resolve
from pipeline.convert.survey import Candidate
from pipeline.core.fstab import parse
from pipeline.disk.filesystems.lookup import Tree

_POINTS = {
    "8484680c-9521-48c6-9c11-b0720656f69e": "/usr",  # x86-64
    "75250d76-8cc6-458e-bd66-bd47cc81a812": "/usr",  # x86
    "b0e01050-ee5f-4390-949a-9101b17104e9": "/usr",  # AArch64
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "/var",
    "7ec6f557-3bc5-4aca-b293-16ef5df639d1": "/var/tmp",  # noqa: S108 # the guest's
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "/home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "/srv",
}
_UNUSED = "_empty"
"""The label of a slot that systemd-sysupdate(8) has yet to fill."""
_NO_AUTO = 1 << 63
"""The attribute of a partition that is not to be mounted for its type."""
_MAX_FSTAB = 1 << 20  # bytes


def by_type(others: Iterable[Candidate], root: Tree) -> dict[str, str]:
    """Mount point -> partition, for people.

    others: the volumes beside root and /boot. root: the root's content, whose fstab may have put
    a partition to another use.
    """
    text = (root.read("/etc/fstab", _MAX_FSTAB) or b"").decode(errors="replace")
    sources = [entry.source for entry in parse(text)]
    found: dict[str, str] = {}
    for candidate in others:
        partition = candidate.partition
        if partition is None or partition.label == _UNUSED:
            continue
        if partition.attributes & _NO_AUTO:
            continue
        point = _POINTS.get(partition.kind.lower())
        if point and not any(resolve(source, [candidate]) for source in sources):
            found.setdefault(point, candidate.place)
    return found
