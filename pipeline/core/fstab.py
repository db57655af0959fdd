"""The one reader of /etc/fstab: its lines as records, and what each of them needs to be mounted.

Pure: text in, records out. Sources: fstab(5), mount(8), systemd.mount(5), overlayfs and loop as
mount(8) describes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncp", "ncpfs", "ceph", "glusterfs", "afs", "lustre"}
    | {"davfs", "9p", "virtiofs", "pvfs2", "orangefs", "beegfs", "fhgfs", "efs", "cvmfs", "gpfs"}
    | {
        "panfs",
        "wekafs",
        "coda",
        "curlftpfs",
        "ftpfs",
        "sshfs",
        "s3fs",
        "goofys",
        "gcsfuse",
        "hdfs",
    }
    | {"moosefs", "mfs", "lizardfs", "juicefs", "quobyte", "seaweedfs", "aznfs", "objectivefs"}
    | {"rclone", "blobfuse", "blobfuse2", "kafs"}
)
"""Types whose content comes from a server, and so never from a disk of this machine."""
_KNOWN_TO_SYSTEMD = frozenset(
    {"afs", "ceph", "cifs", "smb3", "smbfs", "sshfs", "ncpfs", "ncp", "nfs", "nfs4", "gfs", "gfs2"}
    | {"glusterfs", "pvfs2", "ocfs2", "lustre", "davfs"}
)
"""Types that systemd mounts after the network without being told _netdev (systemd.mount(5))."""
_HYPERVISOR = frozenset({"vboxsf", "vmhgfs", "prl_fs", "fuse.vmhgfs-fuse", "fuse.prl_fsd"})
_DISK = frozenset(
    {"auto", "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "zfs", "jfs", "reiserfs", "f2fs"}
    | {"nilfs2", "gfs", "gfs2", "ocfs2", "vfat", "msdos", "exfat", "ntfs", "ntfs3", "ntfs-3g"}
    | {"iso9660", "udf", "hfs", "hfsplus", "apfs", "squashfs", "erofs", "cramfs", "minix", "ufs"}
    | {"ubifs", "jffs2", "fuseblk", "swap"}
)
_TAGS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL", "ID")
_LAYERS = ("lowerdir", "upperdir", "workdir", "br", "dirs")
_OCTAL = re.compile(r"\\([0-7]{3})")
_WORD = re.compile(r'(?:(?:UUID|LABEL|PARTUUID|PARTLABEL)="[^"]*"|\S)+')


class Rests(Enum):
    """What a mount needs besides the kernel."""

    NOTHING = "nothing"
    NETWORK = "a server"
    HYPERVISOR = "the hypervisor"
    VOLUME = "a volume"
    PLACES = "files of other mounts"


@dataclass(frozen=True)
class Entry:
    r"""One mount or swap area. line: as it is written, without white space around it.

    source, target, kind and options are the first four fields, octal escapes such as "\040"
    resolved and a tag's quotes removed. kind is "" in a line that is too short.
    """

    line: str
    source: str
    target: str
    kind: str = ""
    options: tuple[str, ...] = field(default=())

    @property
    def place(self) -> str:
        """The target as a path without double and trailing slashes; "" if it is no path."""
        return normal(self.target) if self.target.startswith("/") else ""

    @property
    def is_swap(self) -> bool:
        """Whether it is swapped to, not mounted."""
        return self.kind == "swap"

    @property
    def at_boot(self) -> bool:
        """Whether a boot mounts it, be it at the first access."""
        return "noauto" not in self.options or bool(
            {"x-systemd.automount", "comment=systemd.automount"}.intersection(self.options)
        )

    @property
    def may_fail(self) -> bool:
        """Whether a boot goes on without it."""
        return not {"noauto", "nofail"}.isdisjoint(self.options)

    @property
    def rests_on(self) -> Rests:
        """What it needs to be there."""
        if {"bind", "rbind"}.intersection(self.options):
            return Rests.PLACES
        if self.kind in _HYPERVISOR:
            return Rests.HYPERVISOR
        if self.kind == "gpfs":  # it calls its file systems /dev/NAME, which are no devices
            return Rests.NETWORK
        # A helper may stand before it: ntfs-3g#/dev/sdb1.
        device = self.source.partition("#")[2] or self.source
        if names_volume(device) and not re.match(r"/dev/zram\d+$", device):
            return Rests.VOLUME
        if self.kind in NETWORK or _served(self.source):
            return Rests.NETWORK
        if self.places:
            return Rests.PLACES
        if "_netdev" in self.options or self.kind.startswith("fuse"):
            return Rests.NETWORK
        return Rests.VOLUME if self.kind in _DISK else Rests.NOTHING

    @property
    def places(self) -> tuple[str, ...]:
        """Paths in the guest it takes its content from: bound, layered, in a file."""
        source = self.source
        if self.kind.startswith("fuse") and "#" in source:
            source = source.partition("#")[2]
        parts = () if _served(source) else source.split(":")
        found = [part for part in parts if part.startswith("/")]
        for option in self.options:
            name, _, value = option.partition("=")
            if name in _LAYERS:
                layers = (part.partition("=")[0] for part in value.split(":"))
                found += [layer for layer in layers if layer.startswith("/")]
        return tuple(normal(place) for place in found)

    @property
    def needs_network(self) -> bool:
        """Whether it cannot be mounted where the network is cut off."""
        return self.rests_on is Rests.NETWORK or (
            "_netdev" in self.options and self.rests_on is Rests.PLACES
        )

    @property
    def after_network(self) -> bool:
        """Whether systemd waits for the network before it mounts this."""
        kind = self.kind.removeprefix("fuse.")
        return "_netdev" in self.options or kind in _KNOWN_TO_SYSTEMD


def parse(text: str) -> Iterator[Entry]:
    """The entries of a file, comments left out. A line that is too short has an empty kind."""
    for raw in text.splitlines():
        # Other control characters than tabs have no place in a line that goes on to be parsed.
        line = "".join(c if c.isprintable() else " " for c in raw).strip()
        if not line or line.startswith("#"):
            continue
        source, target, kind, options = (
            *map(unescaped, _WORD.findall(line)[:4]),
            *("", "", "", ""),
        )[:4]
        yield Entry(line, unquoted(source), target.strip('"'), kind, tuple(options.split(",")))


def names_volume(source: str) -> bool:
    """Whether a first field names a block device, by whatever spelling."""
    return source.startswith("/dev/") or source.partition("=")[0] in _TAGS


def unquoted(source: str) -> str:
    """A tag's value without the quotes that mount(8) allows around it."""
    tag, equals, value = source.strip("\"'").partition("=")
    return f"{tag}={value.strip(chr(34) + chr(39))}" if equals and tag in _TAGS else source


def unescaped(word: str) -> str:
    r"""A field with its octal escapes resolved: "\040" is a space."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), word)


def normal(path: str) -> str:
    """An absolute path without double slashes, "." and "..", and no slash at its end."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def around(path: str) -> Iterator[str]:
    """A normal path, and every directory above it, the innermost first."""
    while path != "/":
        yield path
        path = path.rpartition("/")[0] or "/"
    yield path


def _served(source: str) -> bool:
    """Whether a first field has the form of a server's export: host:/path, //host/share, a URL."""
    return bool(re.match(r"(?://[^/]|[^/\s=#]+:/|[^/\s]+@[^/\s]+:|[a-z0-9+.-]+://)", source))
