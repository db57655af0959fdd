"""Edit through one libguestfs appliance: the kernel's own file systems in a bounded guest.

For what e2fsprogs.py does not take: xfs, and ext with features or a state that only a kernel
should handle. Source: guestfs(3), guestfs-performance(1).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from pipeline.core import settings
from pipeline.core.errors import DiskError, GuestError, HostError
from pipeline.core.image import Acceleration, PartitionImage
from pipeline.disk.filesystems.status import Kind, Status
from pipeline.guest.access.paths import PathGuest, base, join, parent, shown
from pipeline.guest.access.protocol import Facts
from pipeline.host.context import Tools
from pipeline.host.programs import PIPE, Program, TimeoutExpired
from pipeline.host.requirements import Requirement, declare

REQUIRES = declare(
    Requirement(
        "customize",
        "guestfs, with the kernel that its appliance boots",
        programs={"supermin": "supermin"},
        packages=("python3-guestfs", "libguestfs-xfs", "linux-image-cloud-amd64"),
        needed=False,
    )
)
REQUIRES_XFS = declare(
    Requirement(
        "xfs",
        "guests on XFS",
        programs={"xfs_admin": "xfsprogs", "xfs_repair": "xfsprogs"},
        needed=False,
    )
)

ROOTS = ("ext2", "ext3", "ext4", "xfs")
BOOTS = (*ROOTS, "vfat")
# Launched alone without acceleration the appliance is up in 15 s, and its first build takes as
# long again; a host kept busy by other guests is some times slower. Not coming up is what this
# bounds: an accelerator that pretends to work would keep us here for ever.
_LAUNCH_SECONDS = 300.0
_CALL_SECONDS = 120.0  # each is one small operation; replaying a log at mount is the slowest
_CLOSE_SECONDS = 30.0  # the appliance is down by then; its files lie in the scratch space
_BYTES_PER_SECOND = 256 << 10  # an emulated guest on a busy host still copies that fast
_MEMORY_MIB = 512  # the appliance idles in some 100; the rest is its page cache
_MAX_WRITE = 2 << 20  # libguestfs carries at most 4 MiB a message
_READ = 1 << 20
_SECTOR = 512
# The optional arguments of add_drive from iface to cachemode are left out, then comes discard.
_WITH_DISCARD = (*(None,) * 8, "besteffort")
_TRIM_SECONDS = 1800.0  # of a file system of terabytes in an emulated guest
_MAX_LABELS = {"xfs": 12}  # bytes; ext has 16
_TYPES: dict[int, Kind] = {0x4000: "directory", 0x8000: "file", 0xA000: "symlink"}
_TEMPORARY = ".uec-rootfs.edit"
# Inode flags, letters as of chattr(1): what a user sets, and which of these forbid changes.
_USERS_FLAGS = frozenset("AacCdijsStTu")
_LOCKS = frozenset("ai")
_PASSED = ("LIBGUESTFS_HV", "LIBGUESTFS_PATH", "SUPERMIN_KERNEL", "SUPERMIN_MODULES")


class _Appliance:
    """Calls of one libguestfs handle in a process of its own (appliance.py)."""

    def __init__(self, program: Program, errors: Path) -> None:
        self._program, self._errors = program, errors
        self._buffer = b""

    def call(self, method: str, *arguments: Any, timeout: float = _CALL_SECONDS) -> Any:
        """The call's result; GuestError when it fails, HostError when the process is gone."""
        request = [method, *map(_packed, arguments)]
        stdin = self._program.process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._lost(method, "it ended") from None
        answer = json.loads(self._line(method, time.monotonic() + timeout))
        if "error" in answer:
            raise GuestError(
                "edit the guest through the appliance", why=shown(str(answer["error"])[:500])
            )
        return _unpacked(answer["value"])

    def close(self) -> None:
        """Have libguestfs delete its temporary files and end."""
        stdin = self._program.process.stdin
        assert stdin is not None
        stdin.close()
        with contextlib.suppress(TimeoutExpired):
            self._program.wait(_CLOSE_SECONDS)

    def _line(self, method: str, deadline: float) -> bytes:
        stdout = self._program.process.stdout
        assert stdout is not None
        pieces = [self._buffer]
        while b"\n" not in pieces[-1]:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._lost(method, "it did not answer in time")
            piece = os.read(stdout.fileno(), 1 << 16)
            if not piece:
                raise self._lost(method, "it ended")
            pieces.append(piece)
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        return line

    def _lost(self, method: str, why: str) -> HostError:
        words = self._errors.read_bytes()[-800:].decode(errors="replace").strip()
        return HostError(
            f"{method} the libguestfs appliance",
            why=f"{why}: {shown(words)}" if words else why,
            next_step="`libguestfs-test-tool` shows whether libguestfs works on this host",
        )


@contextmanager
def opened(
    root: PartitionImage, boot: PartitionImage | None, acceleration: Acceleration, tools: Tools
) -> Iterator[PathGuest]:
    """Launch, mount, compare the appliance's view with ours; unmount cleanly at the end."""
    for image, known in ((root, ROOTS), (boot, BOOTS)):
        if image is not None:
            _check_supported(image, known)
    with ExitStack() as stack:
        appliance = stack.enter_context(_started(acceleration, tools))
        call = appliance.call
        call("add_drive", str(root.path.absolute()), False, "raw", *_WITH_DISCARD)
        if boot is not None:
            # A read-only drive is a throw-away overlay: a dirty log is replayed, not kept.
            call("add_drive", str(boot.path.absolute()), True, "raw")
        with tools.progress.task("starting the editing appliance"):
            call("launch", timeout=_LAUNCH_SECONDS)
        devices = call("list_devices")
        _compare(appliance, devices[0], root)
        call("mount", devices[0], "/")
        if boot is not None:
            _compare(appliance, devices[1], boot)
            call("mount", devices[1], "/boot")
        guest = _ApplianceGuest(appliance, devices[0], root, separate_boot=boot is not None)
        yield guest
        guest.give_flags_back()
        if guest.freed and call("feature_available", ["fstrim"]):
            # Removed keys and swapped pages would be read from the image's free blocks.
            call("sync")
            call("fstrim", "/", timeout=_TRIM_SECONDS)
        call("umount_all")
        guest.label_unmounted()
        call("shutdown")


@contextmanager
def _started(acceleration: Acceleration, tools: Tools) -> Iterator[_Appliance]:
    with ExitStack() as stack:
        # Its sockets need a path of less than 108 bytes, so they cannot be in the scratch space.
        sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="guestfs-"))
        stack.enter_context(tools.run.cleanup(remove=Path(sockets)))
        cache = settings.cache_dir() / "appliance"
        cache.mkdir(parents=True, exist_ok=True)
        errors = tools.scratch / "appliance.log"
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        program = stack.enter_context(
            tools.run.start(
                [sys.executable, "-I", Path(__file__).with_name("libguestfs_process.py")],
                env=environment | {"XDG_RUNTIME_DIR": sockets},
                stdin=PIPE,
                stdout=PIPE,
                stderr=stack.enter_context(errors.open("wb")),
            )
        )
        appliance = _Appliance(program, errors)
        appliance.call("set_backend", "direct")
        forced = "force_kvm" if acceleration.accelerator == "kvm" else "force_tcg"
        appliance.call("set_backend_settings", [forced])
        appliance.call("set_memsize", _MEMORY_MIB)
        appliance.call("set_tmpdir", str(tools.scratch.absolute()))
        appliance.call("set_cachedir", str(cache))
        yield appliance
        appliance.close()


class _ApplianceGuest(PathGuest):
    backend: Literal["guestfs", "e2fsprogs"] = "guestfs"

    def __init__(
        self, appliance: _Appliance, device: str, image: PartitionImage, *, separate_boot: bool
    ) -> None:
        super().__init__(separate_boot=separate_boot)
        self._call = appliance.call
        self._device, self._image = device, image
        self._label: str | None = None
        self._flags: dict[str, frozenset[str]] = {}
        self.freed = False

    @property
    def facts(self) -> Facts:
        call = self._call
        label = self._label if self._label is not None else call("vfs_label", self._device)
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
        known = self._flags.get(real)
        return "i" in (self._call("get_e2attrs", real) if known is None else known)

    def _download(self, real: str, size: int, to: Path) -> None:
        timeout = _CALL_SECONDS + size / _BYTES_PER_SECOND
        self._call("download", real, str(to.absolute()), timeout=timeout)

    # Writing

    def _unlock(self, real: str) -> None:
        """Take away the flags that keep an entry and its directory from being changed."""
        for path in (real, parent(real)):
            status = self._lookup(path)
            if path in self._flags or status is None or status.kind not in ("file", "directory"):
                continue
            flags = _USERS_FLAGS.intersection(self._call("get_e2attrs", path))
            self._flags[path] = flags
            if locks := flags & _LOCKS:
                self._call("set_e2attrs", path, "".join(sorted(locks)), True)

    def give_flags_back(self) -> None:
        """Set the flags of everything that was unlocked or has a new inode, once all is done."""
        for real, flags in self._flags.items():
            if flags and self._lookup(real) is not None:
                self._call("set_e2attrs", real, "".join(sorted(flags)))

    def _replace(self, real: str, data: bytes, status: Status, taken: bool) -> None:
        if len(data) > _MAX_WRITE:
            raise GuestError("write the guest's", shown(real), why="it is too large for an edit")
        self._unlock(real)
        # A new inode takes the name, as with the other backend: what else is linked to the old
        # one keeps its content.
        temporary = join(parent(real), _TEMPORARY)
        self._call("rm_f", temporary)
        self._call("write", temporary, data)
        self._set_status(temporary, status)
        self._call("rename", temporary, real)
        self.freed = self.freed or taken

    def _mkdir(self, real: str, status: Status) -> None:
        self._unlock(real)
        self._call("mkdir", real)
        self._set_status(real, status)

    def _symlink(self, target: str, real: str, taken: bool) -> None:
        self._unlock(real)
        if taken:
            self._call("rm", real)
            self._flags.pop(real, None)
        self._call("ln_s", target, real)

    def _unlink(self, real: str) -> None:
        self._unlock(real)
        self._call("rm", real)
        self._flags.pop(real, None)
        self.freed = True

    def _rmdir(self, real: str) -> None:
        self._unlock(real)
        self._call("rmdir", real)
        self._flags.pop(real, None)

    def _set_status(self, real: str, status: Status) -> None:
        if real in self._known:
            self._unlock(real)
        self._call("lchown", status.uid, status.gid, real)
        # chown clears the set-id bits, so the mode comes last; a link's own mode means nothing.
        if status.kind != "symlink":
            self._call("chmod", status.mode, real)

    def _set_xattr(self, real: str, name: str, value: bytes) -> None:
        # The value travels as a C string: its terminator may be counted in, an inner one not.
        text = value.removesuffix(b"\0")
        if b"\0" in text:
            raise GuestError("set an attribute of", shown(real), why="its value holds zero bytes")
        self._unlock(real)
        self._call("lsetxattr", name, text.decode(), len(value), real)

    def set_label(self, label: str) -> None:
        """Label the root file system; xfs is labelled once it is unmounted."""
        longest = _MAX_LABELS.get(self._image.filesystem, 16)
        if len(label.encode()) > longest:
            raise GuestError(
                "label the root file system", label, why=f"it has over {longest} bytes"
            )
        self._label = label

    def label_unmounted(self) -> None:
        """Write the label that `set_label` was given."""
        if self._label is not None:
            self._call("set_label", self._device, self._label)


def _check_supported(image: PartitionImage, known: tuple[str, ...]) -> None:
    if image.filesystem not in known:
        raise DiskError(
            "edit",
            image.source or image.path,
            why=f"a file system of type {image.filesystem or 'unknown'} is not supported",
            next_step=f"Choose one of {', '.join(known)} in the kickstart",
        )
    if image.size != image.path.stat().st_size or image.size % _SECTOR:
        raise DiskError(
            "edit",
            image.path,
            why=f"the file is not exactly the volume's {image.size} bytes in whole sectors",
        )


def _compare(appliance: _Appliance, device: str, image: PartitionImage) -> None:
    """DiskError unless the appliance sees the size, type and UUID that we found."""
    call = appliance.call
    seen = (
        call("blockdev_getsize64", device),
        call("vfs_type", device),
        str(call("vfs_uuid", device)).lower(),
    )
    if seen != (image.size, image.filesystem, image.uuid.lower()):
        raise DiskError(
            "edit",
            image.path,
            why=f"the appliance sees {seen}, not "
            f"{(image.size, image.filesystem, image.uuid)} (size, type, UUID)",
        )


def _packed(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"base64"}:
            return base64.b64decode(value["base64"])
        return {key: _unpacked(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_unpacked(each) for each in value]
    return value
