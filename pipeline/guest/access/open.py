"""Which editing backend, and the file system check that has the last word on its edits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import DiskError, GuestError
from pipeline.core.image import Acceleration, Measure, PartitionImage
from pipeline.core.request import Backend
from pipeline.guest.access import debugfs, fsck, libguestfs
from pipeline.guest.access.ext_support import unsafe_because
from pipeline.guest.access.paths import PathGuest
from pipeline.guest.access.protocol import Guest
from pipeline.host.context import Tools

_CHECK_SECONDS = 1800.0  # some seconds a gigabyte of inode tables on a busy disk, hundreds of them


@contextmanager
def opened(
    root: PartitionImage,
    boot: PartitionImage | None,
    backend: Backend,
    acceleration: Acceleration | Measure,
    tools: Tools,
    *,
    epoch: int | None = None,
) -> Iterator[PathGuest]:
    """See `pipeline.guest.access.open.open_guest`."""
    unsafe = "" if backend == "guestfs" else refused(root, boot)
    if backend == "e2fsprogs" and unsafe:
        raise DiskError(
            "edit with e2fsprogs",
            root.path,
            why=unsafe,
            next_step="Leave the choice of the backend to the pipeline, or choose guestfs",
        )
    if backend == "guestfs" or unsafe:
        tools.progress.say(f"editing through guestfs: {unsafe or 'as asked'}")
        found = acceleration() if callable(acceleration) else acceleration
        with libguestfs.opened(root, boot, found, tools) as appliance_guest:
            yield appliance_guest
    else:
        with debugfs.opened(root, boot, tools, epoch) as ext_guest:
            yield ext_guest
    check(root.path, root.filesystem, tools)


def refused(root: PartitionImage, boot: PartitionImage | None) -> str:
    """Why e2fsprogs is not for these two; "" when it is."""
    for image, name in ((root, "the root file system"), (boot, "/boot")):
        why = unsafe_because(image) if image is not None else ""
        if why:
            return f"{name}: {why}"
    return ""


def check(path: Path, filesystem: str, tools: Tools) -> None:
    """GuestError unless the file system check finds nothing; it changes nothing."""
    if filesystem == "xfs":
        program, found = "xfs_repair", fsck.xfs_repair(path, tools, timeout=_CHECK_SECONDS)
    else:
        program, found = "e2fsck", fsck.e2fsck(path, tools, "-fn", timeout=_CHECK_SECONDS)
    if found.damaged or found.mended:
        raise GuestError(
            "edit the root file system in",
            path,
            why=f"{program} finds it damaged afterwards: {found.words}",
            next_step="Try again with the other editing backend, and report this",
        )


@contextmanager
def open_guest(
    root: PartitionImage,
    boot: PartitionImage | None,
    *,
    backend: Backend,
    acceleration: Acceleration | Measure,
    tools: Tools,
    epoch: int | None = None,
) -> Iterator[Guest]:
    """Open the images for editing; the edits are in `root.path`, checked, when the context ends.

    "auto" takes e2fsprogs where `ext_support.unsafe_because` finds nothing against it.
    acceleration: measured only where the appliance is needed, if it is to be measured.
    epoch: what the edits of e2fsprogs are dated by, seconds since 1970; None for the time of day.
    Raises DiskError for a file system that cannot be edited, GuestError for edits that fail the
    file system check afterwards.
    """

    with opened(root, boot, backend, acceleration, tools, epoch=epoch) as guest:
        yield guest
