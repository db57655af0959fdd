"""What the boot check is given and what it says: frozen records, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from pipeline.core.architecture import WORDS, Architecture
from pipeline.core.hardware import USUAL_HARDWARE, Hardware

_RECORD = ConfigDict(extra="forbid")

ROOT_LABEL = "uec-rootfs"
"""Label of every root filesystem the pipeline makes (the name Ubuntu's UEC images introduced)."""

CheckTarget = Literal["triple", "disk"]
"""What a boot check boots: the three files as Nova would, or the disk by its own boot loader."""

Firmware = Literal["bios", "uefi"]

FIRMWARES: Mapping[Architecture, tuple[Firmware, ...]] = {
    "x86_64": ("bios", "uefi"),
    "aarch64": ("uefi",),
}
"""What a whole disk can be started by."""

NOVA_COMMAND_LINE = "root=/dev/vda console=tty0 console=ttyS0"
"""What Nova's libvirt driver passes when the image has no os_command_line.

On another bus than virtio the root has another name: `nova_command_line`.
"""


def nova_command_line(hardware: Hardware) -> str:
    """The same for a root on the bus that the image's properties ask for.

    Nova names an x86 machine's consoles on every architecture. Where the serial port has another
    name, that is added for the check alone: without it init's own messages go to the screen, and
    what failed would not be seen.
    """
    line = NOVA_COMMAND_LINE.replace("/dev/vda", hardware.root_device)
    port = WORDS[hardware.architecture].serial
    return line if f"console={port}" in line.split() else f"{line} console={port}"


@dataclass(frozen=True)
class Triple:
    """Three files as a cloud would boot them.

    command_line: the recorded kernel command line, passed as it is. user: who gets the SSH key.
    label: of the root file system. selinux_type: the type `authorized_keys` must carry in a guest
    that enforces SELinux. memory_mib: the guest's memory. hardware: what disk and network card
    are attached to.
    """

    machine: Path
    kernel: Path
    ramdisk: Path
    command_line: str
    user: str = "root"
    label: str = ROOT_LABEL
    selinux_type: str = "ssh_home_t"
    memory_mib: int = 512
    hardware: Hardware = USUAL_HARDWARE


@dataclass(frozen=True)
class WholeDisk:
    """A disk image that boots through its own boot loader, under each firmware in turn.

    format: as qemu names it ("raw", "qcow2", "vmdk", "vpc"). firmwares: empty for all that its
    architecture has. The rest as in Triple.
    """

    disk: Path
    format: str = "raw"
    firmwares: tuple[Firmware, ...] = ()
    user: str = "root"
    label: str = ROOT_LABEL
    selinux_type: str = "ssh_home_t"
    memory_mib: int = 512
    hardware: Hardware = USUAL_HARDWARE

    @property
    def boots_by(self) -> tuple[Firmware, ...]:
        """The firmwares it is booted by."""
        return self.firmwares or FIRMWARES[self.hardware.architecture]


@dataclass(frozen=True)
class Assertion:
    """One named fact about the guest. `detail` is one line: what was seen.

    reached: False when the boot ended before this could be looked at; `passed` is False then too,
    but the cause is another assertion's failure.
    """

    __pydantic_config__ = _RECORD

    name: Annotated[str, Field(description="as docs/explanation/verify.md lists them")]
    passed: Annotated[bool, Field(description="whether it holds")]
    detail: Annotated[str, Field(description="what was seen")]
    reached: Annotated[bool, Field(description="whether a boot came far enough to tell")] = True


@dataclass(frozen=True)
class CheckReport:
    """One boot check as the manifest keeps it, of exactly the artifacts it names."""

    __pydantic_config__ = _RECORD

    target: Annotated[CheckTarget, Field(description="what was booted: triple or disk")]
    artifacts: Annotated[
        dict[str, str], Field(description="role of each file that was booted -> its sha256")
    ]
    passed: Annotated[bool, Field(description="whether all assertions hold")]
    seconds_to_ssh: Annotated[
        float | None, Field(description="of the first boot; null without a login")
    ]
    boot_seconds: Annotated[
        dict[str, float], Field(description="how long each boot took, by its name")
    ]
    assertions: Annotated[tuple[Assertion, ...], Field(description="in the order of causes")]
    console_lines: Annotated[
        tuple[str, ...], Field(description="what matters for the first failure")
    ] = ()

    @property
    def failures(self) -> tuple[Assertion, ...]:
        """What was looked at and found wrong, in the order of the table."""
        return tuple(a for a in self.assertions if a.reached and not a.passed)


@dataclass(frozen=True)
class VerifyReport:
    """What came of a boot check, with the files it left.

    seconds_to_ssh: from the start of the first boot to the first SSH login; None when there was
    none. evidence: console logs and screen pictures. console_lines: the lines that matter for the
    first failure.
    overlays: what the guests wrote, if it was kept. boot_seconds: what each boot took.
    """

    passed: bool
    assertions: tuple[Assertion, ...]
    seconds_to_ssh: float | None
    evidence: tuple[Path, ...]
    console_lines: tuple[str, ...] = ()
    overlays: tuple[Path, ...] = ()
    boot_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failures(self) -> tuple[Assertion, ...]:
        """What was looked at and found wrong, in the order of the table."""
        return tuple(a for a in self.assertions if a.reached and not a.passed)

    def record(self, target: CheckTarget, artifacts: Mapping[str, str]) -> CheckReport:
        """What is kept of it. artifacts: role of each file that was booted -> its sha256."""
        return CheckReport(
            target=target,
            artifacts=dict(artifacts),
            passed=self.passed,
            seconds_to_ssh=self.seconds_to_ssh,
            boot_seconds=dict(self.boot_seconds),
            assertions=self.assertions,
            console_lines=self.console_lines,
        )
