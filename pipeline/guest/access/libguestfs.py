"""Edit through one libguestfs appliance: the kernel's own file systems in a bounded guest.

For what debugfs.py does not take: xfs, and ext with features or a state that only a kernel
should handle. Source: guestfs(3), guestfs-performance(1).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.core import settings
from pipeline.core.errors import DiskError, GuestError, HostError
from pipeline.core.image import Acceleration, PartitionImage
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.blocks.superblock import recognise
from pipeline.guest.access.libguestfs_edits import CALL_SECONDS, ApplianceGuest
from pipeline.guest.access.paths import PathGuest, shown
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
_CLOSE_SECONDS = 30.0  # the appliance is down by then; its files lie in the scratch space
_MEMORY_MIB = 512  # the appliance idles in some 100; the rest is its page cache
_SECTOR = 512
# The optional arguments of add_drive from iface to cachemode are left out, then comes discard.
_WITH_DISCARD = (*(None,) * 8, "besteffort")
_TRIM_SECONDS = 1800.0  # of a file system of terabytes in an emulated guest
_PASSED = ("LIBGUESTFS_HV", "LIBGUESTFS_PATH", "SUPERMIN_KERNEL", "SUPERMIN_MODULES")


class _Appliance:
    """Calls of one libguestfs handle in a process of its own (libguestfs_process.py)."""

    def __init__(self, program: Program, errors: Path) -> None:
        self._program, self._errors = program, errors
        self._buffer = b""

    def call(self, method: str, *arguments: Any, timeout: float = CALL_SECONDS) -> Any:
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
            words = " ".join(str(answer["error"]).split())
            raise GuestError("edit the guest through the appliance", why=shown(words[:500]))
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
        _mount(appliance, devices[0], "/", root)
        if boot is not None:
            _compare(appliance, devices[1], boot)
            _mount(appliance, devices[1], "/boot", boot)
        guest = ApplianceGuest(call, devices[0], root, separate_boot=boot is not None)
        yield guest
        guest.put_times_back()
        if guest.freed and call("feature_available", ["fstrim"]):
            # Removed keys and swapped pages would be read from the image's free blocks.
            call("sync")
            call("fstrim", "/", timeout=_TRIM_SECONDS)
        call("umount_all")
        guest.label_unmounted()
        call("shutdown")
    _read_label_back(root, guest.label)


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


def _check_supported(image: PartitionImage, known: tuple[str, ...]) -> None:
    if image.filesystem not in known:
        raise DiskError(
            "edit",
            image.source or image.path,
            why=f"a file system of type {image.filesystem or 'unknown'} is not supported",
            next_step=f"Install the machine with its root on one of {', '.join(known)}",
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


def _mount(appliance: _Appliance, device: str, point: str, image: PartitionImage) -> None:
    """Mount a file system; DiskError with the kernel's own words when it refuses."""
    try:
        appliance.call("mount", device, point)
    except GuestError as error:
        release, log = appliance.call("utsname")["uts_release"], appliance.call("dmesg")
        said = kernels_words(str(log), device)
        raise DiskError(
            "mount",
            image.source or image.path,
            why=f"Linux {release} of the editing appliance refuses its {image.filesystem}: "
            f"{shown('; '.join(said[-4:]))[:500] or error.why}",
            next_step="If it is newer than that kernel, build on a host with a newer one, or name "
            "one by SUPERMIN_KERNEL and SUPERMIN_MODULES; else repair it on the disk itself",
        ) from None


def kernels_words(log: str, device: str) -> list[str]:
    """What dmesg says of one device's file system; the appliance's own disk talks too.

    Lines have the form "[    9.215114] XFS (sda): Superblock has unknown ...".
    """
    own = re.compile(rf"\((?:device )?{re.escape(device.rpartition('/')[2])}\):? ")
    return [line.partition("] ")[2] for line in log.splitlines() if own.search(line)]


def _read_label_back(root: PartitionImage, label: str | None) -> None:
    """GuestError unless the label is there: xfs_admin may say so and have written nothing."""
    with RawFile(root.path) as file:
        found = recognise(file)
    if label is not None and (found is None or found.label != label):
        raise GuestError(
            "label the root file system",
            root.source or root.path,
            why=f"the label read back is {shown(found.label) if found else 'nothing'}, not {label}",
            next_step="Build on a host with newer xfsprogs or e2fsprogs",
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
