"""The hand-offs between stages: frozen records of paths, names and figures, never handles.

Words, one meaning each: a *disk image* has a partition table (and perhaps LVM); a *partition
image* is one file system in a file; the *root filesystem* is content, never the file; *kernel*
and *ramdisk* are local files; an *image set* is the three files; AKI, ARI and AMI are registered
images and their ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

ROOT_LABEL = "uec-rootfs"
"""Label of every root filesystem the pipeline makes (the name Ubuntu's UEC images introduced)."""

Accelerator = Literal["kvm", "tcg"]


@dataclass(frozen=True)
class Acceleration:
    """How guests run on this host, as measured: `reason` is one line for the user."""

    accelerator: Accelerator
    reason: str


@dataclass(frozen=True)
class DiskImage:
    """An installed disk; never written by the pipeline."""

    path: Path
    format: Literal["raw", "qcow2"]


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


class Role(StrEnum):
    """The part an image plays in a triple."""

    KERNEL = "kernel"
    RAMDISK = "ramdisk"
    MACHINE = "machine"


@dataclass(frozen=True)
class ImageFile:
    """One of the three files. size and allocated in bytes; sha256 in lower-case hex."""

    role: Role
    path: Path
    sha256: str
    size: int
    allocated: int


@dataclass(frozen=True)
class ImageSet:
    """The three files of a finished build and what a cloud must know of them.

    name: the recipe's name. architecture: "x86_64". command_line: the kernel command line for
    Nova's os_command_line. properties: further image properties from the recipe (os_distro,
    os_version, hw_* ...). verified: whether the boot check passed on exactly these files.
    disk: a bootable whole disk made from the same three, if the build made one. disk_sha256: its
    digest in lower-case hex, "" where nobody wrote it down.
    """

    name: str
    architecture: str
    machine: ImageFile
    kernel: ImageFile
    ramdisk: ImageFile
    kernel_version: str
    command_line: str
    verified: bool
    properties: Mapping[str, str] = field(default_factory=dict)
    disk: Path | None = None
    disk_sha256: str = ""

    def files(self) -> tuple[ImageFile, ImageFile, ImageFile]:
        """Kernel, ramdisk, machine: the order in which they must be registered."""
        return self.kernel, self.ramdisk, self.machine


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
