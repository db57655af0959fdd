"""The files of a guest that libguestfs's appliance has mounted, read and edited call by call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import GuestError
from pipeline.core.image import PartitionImage
from pipeline.disk.filesystems.status import Kind, Status
from pipeline.guest.access.paths import PathGuest, base, join, parent, shown
from pipeline.guest.access.protocol import Facts

CALL_SECONDS = 120.0
"""Bound of a call: each is one small operation; replaying a log at mount is the slowest."""
_BYTES_PER_SECOND = 256 << 10  # an emulated guest on a busy host still copies that fast
_MAX_WRITE = 2 << 20  # libguestfs carries at most 4 MiB a message
_READ = 1 << 20
_MAX_LABELS = {"xfs": 12}  # bytes; ext has 16
_TYPES: dict[int, Kind] = {0x4000: "directory", 0x8000: "file", 0xA000: "symlink"}
_TEMPORARY = ".uec-rootfs.edit"
_TIMES = ("atime_sec", "atime_nsec", "mtime_sec", "mtime_nsec")
_LOCKS = "ia"
_KEPT = "AcCdjsStTu"
"""Attributes of chattr(1) that a file keeps when its content is replaced, besides the locks."""


class ApplianceGuest(PathGuest):
    """A mounted guest. label: what the root is to be labelled once it is unmounted; None for no
    other label. freed: whether an edit gave blocks back.
    """

    backend: Literal["guestfs", "e2fsprogs"] = "guestfs"

    def __init__(
        self, call: Callable[..., Any], device: str, image: PartitionImage, *, separate_boot: bool
    ) -> None:
        super().__init__(separate_boot=separate_boot)
        self._call = call
        self._device, self._image = device, image
        self._times: dict[str, tuple[int, ...]] = {}
        self.label: str | None = None
        self.freed = False

    @property
    def facts(self) -> Facts:
        """See Guest."""
        call = self._call
        label = self.label if self.label is not None else call("vfs_label", self._device)
        return Facts(
            call("vfs_type", self._device),
            call("vfs_uuid", self._device),
            label,
            call("blockdev_getsize64", self._device),
        )

    # Reading

    def _lstat(self, real: str) -> Status | None:
        # The plural form says "not there" by an inode number of -1 in place of an error.
        (found,) = self._call("lstatnslist", parent(real), [base(real) or "."])
        if found["st_ino"] == -1:
            return None
        kind = _TYPES.get(found["st_mode"] & 0xF000, "other")
        mode = found["st_mode"] & 0o7777
        return Status(kind, mode, found["st_uid"], found["st_gid"], found["st_size"])

    def _read_link(self, real: str) -> str:
        return str(self._call("readlink", real))

    def _read(self, real: str, size: int) -> bytes:
        pieces = [self._call("pread", real, _READ, at) for at in range(0, size, _READ)]
        return b"".join(pieces)[:size]

    def _list(self, real: str) -> list[str]:
        names = [entry["name"] for entry in self._call("readdir", real)]
        return [name for name in names if name not in (".", "..")]

    def _xattrs(self, real: str) -> dict[str, bytes]:
        return {entry["attrname"]: entry["attrval"] for entry in self._call("lgetxattrs", real)}

    def _is_immutable(self, real: str) -> bool:
        return bool(self._attributes(real, "i"))

    def _download(self, real: str, size: int, to: Path) -> None:
        timeout = CALL_SECONDS + size / _BYTES_PER_SECOND
        self._call("download", real, str(to.absolute()), timeout=timeout)

    # Writing

    def _replace(self, real: str, data: bytes, status: Status, taken: bool) -> None:
        if len(data) > _MAX_WRITE:
            raise GuestError("write the guest's", shown(real), why="it is too large for an edit")
        kept = self._attributes(real, _KEPT) if taken else ""
        # A new inode takes the name, as with the other backend: what else is linked to the old
        # one keeps its content.
        temporary = join(parent(real), _TEMPORARY)

        def replace() -> None:
            self._call("rm_f", temporary)
            self._call("write", temporary, data)
            self._own(temporary, status)
            if kept:
                self._call("set_e2attrs", temporary, kept, False)
            self._call("rename", temporary, real)

        # A lock of the old file hinders the renaming, and is put on the new one after it.
        self._change(replace, parent(real), *([real] if taken else []))
        self.freed = self.freed or taken

    def _mkdir(self, real: str, status: Status) -> None:
        self._change(lambda: self._call("mkdir", real), parent(real))
        self._own(real, status)

    def _symlink(self, target: str, real: str, taken: bool) -> None:
        if taken:
            self._unlink(real)
        self._change(lambda: self._call("ln_s", target, real), parent(real))

    def _unlink(self, real: str) -> None:
        self._change(lambda: self._call("rm", real), parent(real), real)
        self.freed = True

    def _rmdir(self, real: str) -> None:
        self._change(lambda: self._call("rmdir", real), parent(real), real)
        self._times.pop(real, None)

    def _set_status(self, real: str, status: Status) -> None:
        self._change(lambda: self._own(real, status), real, keep_times=False)

    def _own(self, real: str, status: Status) -> None:
        self._call("lchown", status.uid, status.gid, real)
        # chown clears the set-id bits, so the mode comes last; a link's own mode means nothing.
        if status.kind != "symlink":
            self._call("chmod", status.mode, real)

    def _set_xattr(self, real: str, name: str, value: bytes) -> None:
        # The value travels as a C string: its terminator may be counted in, an inner one not.
        text = value.removesuffix(b"\0")
        if b"\0" in text:
            raise GuestError("set an attribute of", shown(real), why="its value holds zero bytes")
        self._change(
            lambda: self._call("lsetxattr", name, text.decode(), len(value), real),
            real,
            keep_times=False,
        )

    def _change(self, change: Callable[[], Any], *entries: str, keep_times: bool = True) -> None:
        """Make a change that touches these entries, the directory first.

        Where attributes of chattr(1) forbid it, it is made without them, as debugfs makes it, and
        they are put back. keep_times: the directory's times stay what they were.
        """
        if keep_times and entries[0] not in self._times:
            (found,) = self._call("lstatnslist", parent(entries[0]), [base(entries[0]) or "."])
            self._times[entries[0]] = tuple(found[f"st_{name}"] for name in _TIMES)
        try:
            change()
        except GuestError:
            locks = {entry: self._attributes(entry, _LOCKS) for entry in entries}
            if not any(locks.values()):
                raise
            for entry, attributes in locks.items():
                if attributes:
                    self._call("set_e2attrs", entry, attributes, True)
            change()
            for entry, attributes in locks.items():
                if attributes and self._call("exists", entry):
                    self._call("set_e2attrs", entry, attributes, False)

    def _attributes(self, real: str, wanted: str) -> str:
        """Those of the `wanted` attributes of chattr(1) that an entry has; none on links."""
        try:
            found = str(self._call("get_e2attrs", real))
        except GuestError:  # links, devices, file systems without
            return ""
        return "".join(letter for letter in found if letter in wanted)

    def put_times_back(self) -> None:
        """Give directories whose entries were edited the times they had, as debugfs leaves them."""
        for directory, times in self._times.items():
            self._change(
                functools.partial(self._call, "utimens", directory, *times),
                directory,
                keep_times=False,
            )

    def set_label(self, label: str) -> None:
        """Label the root file system; xfs is labelled once it is unmounted."""
        longest = _MAX_LABELS.get(self._image.filesystem, 16)
        if len(label.encode()) > longest:
            raise GuestError(
                "label the root file system", label, why=f"it has over {longest} bytes"
            )
        self.label = label

    def label_unmounted(self) -> None:
        """Write the label that `set_label` was given."""
        if self.label is not None:
            self._call("set_label", self._device, self.label)
