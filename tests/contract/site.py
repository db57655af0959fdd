"""What the contract suite needs of a cloud besides the product's own code.

A new cloud joins the suite with a `Site` and one line in conftest.py's SITES.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.clouds.protocol import Cloud
from pipeline.core.checks import CheckReport, CheckTarget
from pipeline.core.image import Artifact, Image, Role

MIB = 1 << 20


@dataclass(frozen=True)
class Seen:
    """One image as any user of the cloud sees it, read without the product's code.

    role: "kernel", "ramdisk", "machine", or "" if the cloud does not say.
    """

    id: str
    role: str
    kernel_id: str = ""
    ramdisk_id: str = ""


@dataclass(frozen=True)
class Site:
    """A running cloud with an account of its own for one test.

    word, environment: how a child process opens the same account (`open_clouds([word])`).
    visible: what the cloud lists for an ordinary user: nothing half-registered may be in it.
    everything: all images of the account, hidden and unfinished ones too; equal to `visible` where
    a cloud hides nothing. data: an image's bytes, or None where they cannot be read back.
    foreign: registers an image of that name by other means; returns its id.
    stranger: the same cloud with credentials it refuses; None where there are none.
    """

    kind: str
    word: str
    open: Callable[[], Cloud]
    visible: Callable[[], list[Seen]]
    everything: Callable[[], list[Seen]]
    data: Callable[[str], bytes | None]
    foreign: Callable[[str], str]
    stranger: Callable[[], Cloud] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def make_images(
    directory: Path, *, name: str = "demo", seed: int = 1, machine_size: int = 5 * MIB + 512
) -> Image:
    """A triple of seeded bytes: a root with data at both ends and a hole between.

    Each test, with its children, has bytes of its own: tests share servers, and a Glance without
    projects keeps the ids of all that was deleted.
    """
    directory.mkdir(parents=True, exist_ok=True)
    test, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")
    source = random.Random(f"{test} {seed}")
    kernel, ramdisk, machine = (
        directory / f"{name}{suffix}" for suffix in ("-vmlinuz", "-initrd", ".img")
    )
    kernel.write_bytes(source.randbytes(300_001))
    ramdisk.write_bytes(source.randbytes(700_003))
    with machine.open("wb") as file:
        file.write(source.randbytes(min(MIB, machine_size // 2)))
        file.truncate(machine_size)
        file.seek(machine_size - 4096)
        file.write(source.randbytes(4096))
    return Image(
        name=name,
        architecture="x86_64",
        artifacts=(
            image_file(Role.MACHINE, machine),
            image_file(Role.KERNEL, kernel),
            image_file(Role.RAMDISK, ramdisk),
        ),
        kernel_version="6.1.0-1-test",
        command_line="root=LABEL=uec-rootfs ro console=ttyS0",
        checks=(passed_check("triple"), passed_check("disk")),
        properties={"os_distro": "demo", "os_version": "1"},
    )


def passed_check(target: CheckTarget) -> CheckReport:
    return CheckReport(target, {}, True, 10.0, {}, ())


def with_disk(images: Image, disk: Path) -> Image:
    """The image with a whole disk, too, or with another one."""
    return images.replacing(image_file(Role.DISK, disk))


def image_file(role: Role, path: Path) -> Artifact:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    status = path.stat()
    return Artifact(role, path, digest, status.st_size, status.st_blocks * 512)


def rebuilt(images: Image, seed: int) -> Image:
    """The same recipe built again: another root, the same kernel and ramdisk."""
    path = images.machine.path.with_name(f"{images.name}-{seed}.img")
    path.write_bytes(images.machine.path.read_bytes())
    with path.open("r+b") as file:
        file.write(random.Random(seed).randbytes(64))
    return images.replacing(image_file(Role.MACHINE, path))


def child_environment(site: Site) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "AWS_"))}
    return kept | dict(site.environment)
