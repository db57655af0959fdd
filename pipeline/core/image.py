"""The hand-offs between steps: frozen records of paths, names and figures, never handles.

Words, one meaning each: a *disk image* has a partition table (and perhaps LVM); a *partition
image* is one file system in a file; the *root filesystem* is content, never the file; *kernel*
and *ramdisk* are local files; a *triple* is kernel, ramdisk and machine image; an *artifact* is one
file of an *image*; AKI, ARI and AMI are registered images and their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.core import architecture as architectures
from pipeline.core.hardware import Hardware

if TYPE_CHECKING:
    from pipeline.core.checks import CheckReport, CheckTarget

Accelerator = Literal["kvm", "tcg"]

DiskFormat = Literal[
    "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "tar", "gzip", "xz", "zstd", "bzip2"
]
"""What a disk may come in: an image format, an archive with one image in it (OVA is one), or any of
these compressed."""


@dataclass(frozen=True)
class Acceleration:
    """How guests run on this host, as measured: `reason` is one line for the user."""

    accelerator: Accelerator
    reason: str


Measure = Callable[[], Acceleration]
"""Measures when it is asked first: what starts no guest needs none that works."""


@dataclass(frozen=True)
class DiskImage:
    """An installed disk; never written by the pipeline."""

    path: Path
    format: DiskFormat


@dataclass(frozen=True)
class PartitionImage:
    """One file system in a file.

    size: bytes, exactly the volume's. filesystem: as blkid names it ("ext4", "xfs").
    uuid: lower case, as blkid prints it. source: where it came from, for people
    ("LV VolGroup/lv_root in partition 2").
    """

    path: Path
    size: int
    filesystem: str
    uuid: str
    label: str
    source: str


@dataclass(frozen=True)
class Mount:
    """A file system image and the guest path at which the guest has it mounted."""

    at: str
    image: PartitionImage


class Role(StrEnum):
    """The part an artifact plays in an image."""

    KERNEL = "kernel"
    RAMDISK = "ramdisk"
    MACHINE = "machine"
    DISK = "disk"


TRIPLE = (Role.KERNEL, Role.RAMDISK, Role.MACHINE)
"""The roles of a triple, in the order in which they must be registered."""

Format = Literal["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "ova", "tar"]
"""The form of an artifact's bytes; kernels, ramdisks and partition images are raw."""

SUFFIXES = {
    Role.MACHINE: ".img",
    Role.KERNEL: "-vmlinuz",
    Role.RAMDISK: "-initrd",
    Role.DISK: "-disk.raw",
}
"""What the files of a build are called: the recipe's name and this, by role."""


OUTPUTS: tuple[Format, ...] = ("qcow2", "vmdk", "vdi", "vhd", "vhdx", "ova")
"""What a build's whole disk may also be written in."""


def file_name(name: str, role: Role, form: Format = "raw") -> str:
    """What an artifact of the build `name` is called."""
    return name + (SUFFIXES[role] if form == "raw" else f"-disk.{form}")


@dataclass(frozen=True)
class Artifact:
    """One file of an image. size and allocated in bytes; sha256 of all its bytes, lower-case hex.

    For the machine image and the disk, `allocated` is what the file takes without its holes.
    """

    role: Role
    path: Path
    sha256: str
    size: int
    allocated: int
    format: Format = "raw"


@dataclass(frozen=True)
class Image:
    """A finished image: its artifacts and what a cloud must know of them.

    name: the recipe's name. architecture: as uname(1) names it ("x86_64"). artifacts: a triple's
    three and, where one was made, whole disks of the same content. command_line: the kernel
    command line for Nova's os_command_line. properties: further image properties from the recipe
    (os_distro, os_version, hw_* ...). checks: the boot checks of exactly these artifacts. drivers:
    those of disks that ramdisk and kernel have, and of networks that the guest has; None where
    nobody wrote them down.
    """

    name: str
    architecture: str
    artifacts: tuple[Artifact, ...]
    kernel_version: str
    command_line: str
    properties: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[CheckReport, ...] = ()
    drivers: frozenset[str] | None = None

    def find(self, role: Role, form: Format | None = None) -> Artifact | None:
        """The artifact of that role, and of that format where one is named; None without one."""
        fits = (a for a in self.artifacts if a.role is role and form in (None, a.format))
        return next(fits, None)

    def replacing(self, *artifacts: Artifact) -> Image:
        """The same image with these artifacts in place of, or beside, those it had."""
        new = {(a.role, a.format): a for a in artifacts}
        kept = tuple(a for a in self.artifacts if (a.role, a.format) not in new)
        return replace(self, artifacts=(*kept, *artifacts))

    def _one(self, role: Role) -> Artifact:
        found = self.find(role)
        if found is None:
            raise LookupError(f"the image {self.name} has no {role}")
        return found

    @property
    def kernel(self) -> Artifact:
        """The kernel; LookupError for an image without one."""
        return self._one(Role.KERNEL)

    @property
    def ramdisk(self) -> Artifact:
        """The ramdisk; LookupError for an image without one."""
        return self._one(Role.RAMDISK)

    @property
    def machine(self) -> Artifact:
        """The machine image, one file system; LookupError for an image without one."""
        return self._one(Role.MACHINE)

    @property
    def disk(self) -> Artifact | None:
        """The bootable whole disk, if the build made one."""
        return self.find(Role.DISK)

    @property
    def hardware(self) -> Hardware:
        """What the properties ask a cloud to attach root and network to."""
        return Hardware.of(self.properties, architectures.known(self.architecture))

    @property
    def triple(self) -> tuple[Artifact, Artifact, Artifact]:
        """Kernel, ramdisk, machine image: the order in which they must be registered."""
        return self.kernel, self.ramdisk, self.machine

    def check(self, target: CheckTarget) -> CheckReport | None:
        """The boot check of the triple or of the disk; None when it was skipped."""
        return next((check for check in self.checks if check.target == target), None)

    def verified(self, *, whole_disk: bool = False) -> bool:
        """Whether the boot check passed on what would be registered."""
        check = self.check("disk" if whole_disk else "triple")
        return check is not None and check.passed


@dataclass(frozen=True)
class Registration:
    """A triple as one cloud knows it. `created` is False when everything was already there.

    kernel_id and ramdisk_id are empty for a whole-disk registration. generation: when it was
    made, "20261121T054000Z", unique and rising under one name on one cloud. key: the identity of
    its content (`clouds.identity.content_key`). location: where the machine image's bytes or
    manifest lie, if the cloud has such a notion.
    """

    cloud: str
    name: str
    kernel_id: str
    ramdisk_id: str
    machine_id: str
    created: bool
    generation: str = ""
    key: str = ""
    location: str = ""
