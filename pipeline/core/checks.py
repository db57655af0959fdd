"""What the boot check is given and what it says: frozen records, ready for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.core.image import ROOT_LABEL

Firmware = Literal["bios", "uefi"]

NOVA_COMMAND_LINE = "root=/dev/vda console=tty0 console=ttyS0"
"""What Nova's libvirt driver passes when the image has no os_command_line."""


@dataclass(frozen=True)
class Triple:
    """Three files as a cloud would boot them.

    command_line: the recorded kernel command line, passed as it is. user: who gets the SSH key.
    label: of the root file system. selinux_type: the type `authorized_keys` must carry in a guest
    that enforces SELinux. memory_mib: the guest's memory.
    """

    machine: Path
    kernel: Path
    ramdisk: Path
    command_line: str
    user: str = "root"
    label: str = ROOT_LABEL
    selinux_type: str = "ssh_home_t"
    memory_mib: int = 512


@dataclass(frozen=True)
class WholeDisk:
    """A disk image that boots through its own boot loader, under each firmware in turn.

    format: as qemu names it ("raw", "qcow2", "vmdk", "vpc"). The rest as in Triple.
    """

    disk: Path
    format: str = "raw"
    firmwares: tuple[Firmware, ...] = ("bios", "uefi")
    user: str = "root"
    label: str = ROOT_LABEL
    selinux_type: str = "ssh_home_t"
    memory_mib: int = 512


@dataclass(frozen=True)
class Assertion:
    """One named fact about the guest. `detail` is one line: what was seen.

    reached: False when the boot ended before this could be looked at; `passed` is False then too,
    but the cause is another assertion's failure.
    """

    name: str
    passed: bool
    detail: str
    reached: bool = True


@dataclass(frozen=True)
class VerifyReport:
    """The boot check's verdict.

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

    def to_json(self) -> dict[str, Any]:
        """The record for manifest.json: plain types only, paths as strings."""
        return {
            "passed": self.passed,
            "seconds_to_ssh": self.seconds_to_ssh,
            "boot_seconds": dict(self.boot_seconds),
            "assertions": [
                {"name": a.name, "passed": a.passed, "reached": a.reached, "detail": a.detail}
                for a in self.assertions
            ],
            "evidence": [str(path) for path in self.evidence],
            "console_lines": list(self.console_lines),
        }
