"""What of a guest's mounts is still true once its root is one flat file system."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.core.checks import ROOT_LABEL

_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "afs", "lustre", "davfs", "9p"}
    | {"virtiofs", "ncpfs"}
)
_VIRTUAL = frozenset(
    {"tmpfs", "ramfs", "proc", "sysfs", "devpts", "devtmpfs", "debugfs", "tracefs", "securityfs"}
    | {"selinuxfs", "cgroup", "cgroup2", "hugetlbfs", "mqueue", "configfs", "binfmt_misc"}
    | {"pstore", "efivarfs", "bpf", "overlay"}
)
_REMOVABLE = frozenset({"iso9660", "udf"})
# Directories whose content went with a volume that the image does not have: no system without.
_ESSENTIAL = ("/usr", "/var", "/etc", "/bin", "/sbin", "/lib", "/lib64")
_REPLACED = ("/", "/boot", "/boot/efi", "/efi")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Fstab:
    """A rewritten fstab. kept, dropped: lines of the old one.

    lost: mount points of other volumes with content that does not become part of the image;
    essential: those of them without which no system runs.
    """

    text: str
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    lost: tuple[str, ...]
    essential: tuple[str, ...]


def root_fstab(text: str, filesystem: str) -> Fstab:
    """One line for the root by label, and the mounts that depend on no disk of the installation.

    filesystem: the type in the root's line. Source of the format: fstab(5).
    """
    kept, dropped, lost = [], [], []
    for line in text.splitlines():
        # Other control characters than tabs have no place in a line that goes on to be parsed.
        line = "".join(c if c.isprintable() else " " for c in line).strip()  # noqa: PLW2901
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        if _still_true(fields):
            kept.append(line)
            continue
        dropped.append(line)
        if len(fields) >= 3:
            point = _unescaped(fields[1]).rstrip("/") or "/"
            if point.startswith("/") and point not in _REPLACED and not _is_removable(fields):
                lost.append(point)
    lines = [f"LABEL={ROOT_LABEL} / {filesystem} defaults 0 0", *kept]
    return Fstab(
        "\n".join(lines) + "\n",
        tuple(kept),
        tuple(dropped),
        tuple(lost),
        tuple(point for point in lost if point in _ESSENTIAL),
    )


def _still_true(fields: list[str]) -> bool:
    if len(fields) < 3:
        return False
    source, point, kind, *rest = fields
    point = _unescaped(point)
    options = rest[0].split(",") if rest else []
    if not point.startswith("/") or point.rstrip("/") in ("", "/boot", "/boot/efi"):
        return False
    if kind in _VIRTUAL or kind in _NETWORK or kind.startswith("fuse."):
        return not source.startswith(("/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="))
    return bool({"bind", "rbind"}.intersection(options))


def _is_removable(fields: list[str]) -> bool:
    options = fields[3].split(",") if len(fields) > 3 else []
    return bool(_REMOVABLE.intersection(fields[2].split(","))) or "noauto" in options


def _unescaped(word: str) -> str:
    r"""A field with its octal escapes resolved: "\040" is a space."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), word)
