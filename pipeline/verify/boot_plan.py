"""Which boots a check is made of: what each changes, and why it is there. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.architecture import WORDS
from pipeline.core.checks import Firmware, Triple, WholeDisk, nova_command_line
from pipeline.core.hardware import Hardware
from pipeline.core.image import Acceleration
from pipeline.verify import assertion_names
from pipeline.verify.metadata import Faults, Instance, Key, Metadata
from pipeline.verify.qemu_command import DirectBoot, FirmwareBoot, Wiring, qemu_argv

Role = Literal["first", "again", "other", "bare"]

_UNAVAILABLE = 2  # requests refused with 503: a cloud whose metadata lags behind its guests


@dataclass(frozen=True)
class Part:
    """One boot of a check. identity: boots of one identity share overlay, UUID and MAC."""

    role: Role
    title: str
    purpose: str
    identity: str
    has_metadata: bool = True


_DEVICE = "Nova's command line, Nova's metadata"
_AGAIN = "the same disk once more"
_RECORDED = "a fresh disk, the recorded command line, EC2's metadata by token only"
_FIRMWARE_TITLES: dict[Firmware, str] = {"bios": assertion_names.BIOS, "uefi": assertion_names.UEFI}


def parts(target: Triple | WholeDisk) -> tuple[Part, ...]:
    """The boots, in two chains that can run at once: by first identity, then the rest."""
    if isinstance(target, Triple):
        return (
            Part("first", assertion_names.ROOT_BY_DEVICE, _DEVICE, "a"),
            Part("again", assertion_names.ROOT_BY_DEVICE, _AGAIN, "a"),
            Part("other", assertion_names.ROOT_AS_RECORDED, _RECORDED, "b"),
            Part("bare", assertion_names.ROOT_AS_RECORDED, "a fresh disk, no metadata", "c", False),
        )
    one, two = target.boots_by[0], target.boots_by[-1]
    return (
        Part("first", _FIRMWARE_TITLES[one], f"{one} firmware, Nova's metadata", "a"),
        Part("again", _FIRMWARE_TITLES[two], f"the same disk, {two} firmware", "a"),
        Part("other", _FIRMWARE_TITLES[two], f"a fresh disk, {two} firmware, tokens only", "b"),
    )


def interactive(target: Triple | WholeDisk) -> Part:
    """The boot of a console session: the recorded command line, or the first firmware."""
    role: Role = "other" if isinstance(target, Triple) else "first"
    return next(part for part in parts(target) if part.role == role)


def metadata(part: Part, keys: tuple[Key, ...], hardware: Hardware) -> Metadata | None:
    """The service this boot gets: Nova's, then EC2's strictest after a late start."""
    if not part.has_metadata:
        return None
    digest = _identity(part)
    instance = Instance(
        keys=keys,
        uuid=_uuid(digest),
        mac=_mac(digest),
        architecture=WORDS[hardware.architecture].ec2,
    )
    if part.identity == "a":
        return Metadata(instance, "absent")
    return Metadata(instance, "required", Faults(unavailable=_UNAVAILABLE))


def argv_for(
    target: Triple | WholeDisk, part: Part, acceleration: Acceleration, variables: Path | None
) -> Callable[[Wiring], list[str]]:
    """qemu's command line for this boot, but for the wiring.

    variables: a private copy of UEFI's variable store; None for a plan.
    """
    digest = _identity(part)
    how: DirectBoot | FirmwareBoot
    if isinstance(target, Triple):
        line = target.command_line
        if part.identity == "a":
            line = nova_command_line(target.hardware)
        how = DirectBoot(target.kernel.absolute(), target.ramdisk.absolute(), line, variables)
    else:
        how = FirmwareBoot(firmware(target, part), variables)

    def argv(wiring: Wiring) -> list[str]:
        return qemu_argv(
            how,
            wiring,
            accelerator=acceleration.accelerator,
            memory_mib=target.memory_mib,
            uuid=_uuid(digest),
            mac=_mac(digest),
            hardware=target.hardware,
        )

    return argv


def firmware(disk: WholeDisk, part: Part) -> Firmware:
    """The firmware this boot runs: the first for the first boot, the last for the others."""
    return disk.boots_by[0] if part.role == "first" else disk.boots_by[-1]


def _identity(part: Part) -> bytes:
    return hashlib.sha256(f"boot check {part.identity}".encode()).digest()


def _uuid(digest: bytes) -> str:
    # RFC 9562, version 8: 122 bits of one's own choice.
    text = digest[:16].hex()
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-8{text[17:20]}-{text[20:32]}"


def _mac(digest: bytes) -> str:
    # fa:16:3e is the prefix Neutron gives its ports.
    return "fa:16:3e:" + ":".join(f"{byte:02x}" for byte in digest[16:19])
