"""Running programs of another architecture: qemu's emulator, registered with the kernel.

Since Linux 6.7 every user namespace may have registrations of its own, so this needs no root; on
older kernels the host's own counts. Source: the kernel's Documentation/admin-guide/binfmt-misc.rst;
elf(5) for the header.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import HostError
from pipeline.host.requirements import Requirement, declare, find

REQUIRES = declare(
    Requirement(
        "isolation",
        "running programs of another architecture in an emulator",
        programs={"qemu-aarch64-static": "qemu-user-static"},
        needed=False,
    )
)

_MACHINES = {"aarch64": b"\xb7\x00", "x86_64": b"\x3e\x00"}  # e_machine, little-endian
_KEEPS_NAME = "/usr/libexec/qemu-binfmt/{}-binfmt-P"  # Debian's name for: argv[0] is kept
_REGISTERED = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True)
class Emulator:
    """How a foreign program is run.

    line: what a namespace's own registration is made of, "" for a native program. there: whether
    the host has a registration that works in another root.
    """

    line: str
    there: bool


def emulator(architecture: str) -> Emulator:
    """The emulator for programs of `architecture`; HostError where there is none."""
    if architecture == platform.machine():
        return Emulator("", True)
    machine = _MACHINES.get(architecture)
    there = _registered(architecture)
    program = find(f"qemu-{architecture}-static")
    if machine is None or not (program or there):
        raise HostError(
            f"run programs of {architecture}",
            why=f"this host is {platform.machine()} and has no qemu-{architecture}-static",
            next_step="Install it: apt-get install qemu-user-static",
        )
    if not program:
        return Emulator("", True)
    keeps = Path(_KEEPS_NAME.format(architecture))
    # O and C: setuid programs stay setuid; F: the emulator is opened here, not in the guest's root.
    flags, interpreter = ("POCF", keeps) if keeps.exists() else ("OCF", Path(program))
    magic = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + machine
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
    shown = ("".join(f"\\x{byte:02x}" for byte in value) for value in (magic, mask))
    name = f"qemu-{architecture}"
    return Emulator(f":{name}:M::{':'.join(shown)}:{interpreter}:{flags}", there)


def _registered(architecture: str) -> bool:
    """Whether the host's registration is on, with flag F."""
    try:
        text = (_REGISTERED / f"qemu-{architecture}").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags:")), "")
    return text.startswith("enabled") and "F" in flags.removeprefix("flags:")
