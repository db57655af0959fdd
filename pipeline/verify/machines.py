"""The virtual machine of each architecture: its qemu, processor, firmware and display.

Sources: nova/virt/libvirt/driver.py (an aarch64 guest always starts through UEFI, with the kernel
handed to the firmware; SMBIOS strings are set on x86 alone; its display is virtio), qemu's manual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.architecture import Architecture
from pipeline.core.hardware import Hardware
from pipeline.core.image import Accelerator
from pipeline.host.hypervisor import QEMU


@dataclass(frozen=True)
class Firmware:
    """UEFI for a machine. code: run as it is. variables: the store that each guest gets a copy of.

    package: Debian's, which brings both.
    """

    code: Path
    variables: Path
    package: str


@dataclass(frozen=True)
class Machine:
    """What a guest of one architecture is run on.

    qemu: the program. emulated: the processor without KVM. smbios: qemu's words for what a guest
    reads about its maker; empty where Nova leaves that to qemu. needs_firmware: whether a kernel
    that is loaded by the cloud is started by the firmware too.
    """

    qemu: str
    emulated: str
    uefi: Firmware
    smbios: tuple[str, ...]
    display: tuple[str, ...]
    needs_firmware: bool


MACHINES: Mapping[Architecture, Machine] = {
    "x86_64": Machine(
        QEMU["x86_64"],
        # Five-level paging is off, as nearly all clouds have it: with it one boot in two of Debian
        # 13's kernel was seen to lose memory to corruption under qemu 7.2's emulation.
        "max,la57=off",
        Firmware(
            Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
            Path("/usr/share/OVMF/OVMF_VARS_4M.fd"),
            "ovmf",
        ),
        ("-smbios", "type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova"),
        ("-vga", "std"),
        needs_firmware=False,
    ),
    "aarch64": Machine(
        QEMU["aarch64"],
        # Pointers are signed by a simple hash: by the architecture's own cipher, which no guest
        # can tell from it, an emulated boot was seen to take 2.7 times as long.
        "max,pauth-impdef=on",
        Firmware(
            Path("/usr/share/AAVMF/AAVMF_CODE.fd"),
            Path("/usr/share/AAVMF/AAVMF_VARS.fd"),
            "qemu-efi-aarch64",
        ),
        (),
        ("-device", "virtio-gpu-pci"),
        needs_firmware=True,
    ),
}


def machine_of(hardware: Hardware) -> Machine:
    """The machine that an image with this hardware is run on."""
    return MACHINES[hardware.architecture]


def processor(machine: Machine, accelerator: Accelerator) -> str:
    """qemu's word for the processor."""
    return "host" if accelerator == "kvm" else machine.emulated
