"""Which kernel and ramdisk a build would take from a disk: by its own code, for dry runs."""

from __future__ import annotations

from pipeline.convert.lookahead import Seen, look_ahead
from pipeline.core.errors import DiskError, GuestError
from pipeline.core.image import DiskImage
from pipeline.guest.access.mounted import MountedGuest, MountedVolume
from pipeline.guest.access.protocol import Facts
from pipeline.guest.boot.select import BootFiles, collect
from pipeline.workflows.job import Job


def foresee_boot_files(disk: DiskImage, choice: str, job: Job) -> str:
    """What would be taken, in words. Raises what the build would raise.

    A journal that is not replayed may say otherwise, and XFS does not tell whether its log holds
    something: there a failure is only told.
    """
    with look_ahead(disk, choice, job.tools) as seen:
        if seen is None:
            return "take kernel and ramdisk once the journal is replayed"
        try:
            files = _collected(seen, job)
        except (DiskError, GuestError) as error:
            if seen.settled:
                raise
            return f"look for kernel and ramdisk once the journals are replayed: {error.why}"
    said = "".join(f"; warning: {warning}" for warning in files.warnings)
    return (
        f"take the kernel {files.kernel_version}, {files.kernel}, {files.chosen_because}, with "
        f"{files.ramdisk}{said}"
    )


def _collected(seen: Seen, job: Job) -> BootFiles:
    volumes = {"/": seen.root}
    if seen.boot is not None:
        volumes["/boot"] = seen.boot
    if seen.esp.candidate is not None:
        volumes[seen.esp.at] = seen.esp.candidate
    superblock = seen.root.superblock
    facts = Facts(seen.root.filesystem, superblock.uuid if superblock else "", "", 0)
    trees = {at: MountedVolume(c.volume, c.filesystem) for at, c in volumes.items()}
    is_fat = seen.boot is not None and seen.boot.filesystem == "vfat"
    return collect(
        MountedGuest(None, trees, facts),
        job.tools.scratch / "kernel",
        job.tools.scratch / "ramdisk",
        job.tools,
        esp=seen.esp.at or ("/boot" if is_fat else ""),
        hardware=job.request.recipe.hardware,
        whole_disk=job.request.wants_disk,
    )
