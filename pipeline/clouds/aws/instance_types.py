"""What a guest's drivers mean on EC2, whose instance types attach disks in several ways."""

from __future__ import annotations

from pipeline.core.errors import InputError
from pipeline.core.image import Image


def has_driver(images: Image, driver: str) -> bool:
    """Whether the guest has a driver, as far as anybody knows."""
    return images.drivers is None or driver in images.drivers


def check_drivers(images: Image, cloud: str) -> list[str]:
    """Warnings of instance types on which the disk would not boot.

    InputError when it can find its root on none: current types show it as NVMe, those of the Xen
    generations as xen-blkfront's.
    """
    warnings = []
    if not has_driver(images, "nvme"):
        if not has_driver(images, "xen_blkfront"):
            raise InputError(
                f"publish on {cloud}",
                images.name,
                why="neither its ramdisk nor its kernel has nvme, by which EC2 attaches the root",
                next_step="Add nvme to the ramdisk in the guest; a build with --disk-image warns "
                "of it and names the command",
            )
        warnings.append(
            "the ramdisk has no nvme: the image boots on instance types of the Xen generations "
            "alone (t2, m4 and older)"
        )
    if not has_driver(images, "ena"):
        warnings.append(
            "the guest has no driver for ENA: it is registered without EnaSupport, and starts on "
            "older instance types alone"
        )
    return warnings
