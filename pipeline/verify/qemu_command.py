"""The virtual machine of a boot check: qemu's command line as a pure function.

Direct kernel boot, disk and network card on virtio or on what the image's properties ask for,
display and serial console, DMI strings: as Nova's libvirt driver defines a guest
(nova/virt/libvirt); `machines` has what differs by architecture.
Network: slirp, cut off from the host and the world but for the metadata address and SSH, so that a
guest cannot reach this host's loopback services and the result does not depend on the network
here.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.checks import Firmware
from pipeline.core.hardware import USUAL_HARDWARE, Hardware
from pipeline.core.image import Accelerator
from pipeline.verify import devices
from pipeline.verify.machines import Machine, machine_of, processor

NETWORK = "169.254.169.0/24"
GUEST_ADDRESS = "169.254.169.15"
METADATA_ADDRESS = "169.254.169.254"

GUEST_TIME = "shift=2,sleep=on"
"""Under TCG the guest's clock counts instructions, 4 ns each, and real time only while it sleeps.

By the host's clock a guest on a busy host would see its timer starved and its 90-second waits for
devices run out; by its own work it sees a machine of 250 MIPS, however long that takes here
(qemu, docs/devel/tcg-icount.rst).
"""


@dataclass(frozen=True)
class DirectBoot:
    """The cloud loads the kernel itself.

    variables: a private copy of the firmware's variable store, where a firmware starts the kernel.
    """

    kernel: Path
    ramdisk: Path
    command_line: str
    variables: Path | None = None


@dataclass(frozen=True)
class FirmwareBoot:
    """The disk's own boot loader runs. variables: a private copy of UEFI's variable store."""

    firmware: Firmware
    variables: Path | None = None


@dataclass(frozen=True)
class Wiring:
    """What a command line cannot know before the run: descriptors, sockets, overlay.

    exchange: the command for the metadata address; empty leaves the guest without metadata.
    """

    overlay: str
    qmp: str
    serial: str
    exchange: str


PLANNED = Wiring("OVERLAY.qcow2", "fd=QMP", "fd=SERIAL", "METADATA-EXCHANGE")
"""Stands in for a run's wiring when only the plan is wanted."""


def qemu_argv(
    boot: DirectBoot | FirmwareBoot,
    wiring: Wiring,
    *,
    accelerator: Accelerator,
    memory_mib: int,
    uuid: str,
    mac: str,
    hardware: Hardware = USUAL_HARDWARE,
) -> list[str]:
    """The whole command line. HostError for hardware that qemu does not have."""
    network = (
        f"user,id=net0,net={NETWORK},dhcpstart={GUEST_ADDRESS},restrict=on,"
        # Port 0: the kernel picks a free one while qemu binds, so runs cannot collide.
        f"hostfwd=tcp:127.0.0.1:0-{GUEST_ADDRESS}:22"
    )
    if wiring.exchange:
        network += f",guestfwd=tcp:{METADATA_ADDRESS}:80-cmd:{comma(wiring.exchange)}"
    machine = machine_of(hardware)
    return [
        machine.qemu,
        "-nodefaults",
        "-no-user-config",
        # slirp starts the metadata exchange with fork and setsid(2): those stay allowed.
        *("-sandbox", "on,obsolete=deny,resourcecontrol=deny"),
        *devices.machine(hardware),
        *("-accel", accelerator),
        *(() if accelerator == "kvm" else ("-icount", GUEST_TIME)),
        *("-cpu", processor(machine, accelerator)),
        *("-smp", "1"),
        *("-m", str(memory_mib)),
        *("-uuid", uuid),
        *machine.smbios,
        *("-display", "none"),
        *machine.display,
        "-no-reboot",
        *("-chardev", f"socket,id=qmp,{wiring.qmp}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=serial,{wiring.serial}"),
        *("-serial", "chardev:serial"),
        *("-drive", f"file={comma(wiring.overlay)},if=none,id=root,format=qcow2,cache=unsafe"),
        *devices.disk(hardware),
        *("-netdev", network),
        *devices.network_card(hardware, mac),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng0"),
        *_boot_arguments(boot, machine),
    ]


def comma(text: str | Path) -> str:
    """`text` as a value in one of qemu's option lists, where a comma is doubled."""
    return str(text).replace(",", ",,")


def readable(argv: list[str]) -> str:
    """A command line ready to read and, but for the wiring, to paste."""
    return shlex.join(argv)


def _boot_arguments(boot: DirectBoot | FirmwareBoot, machine: Machine) -> list[str]:
    uefi = machine.uefi
    flash = [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={uefi.code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={comma(boot.variables or uefi.variables)}"),
    ]
    if isinstance(boot, DirectBoot):
        return [
            *(flash if machine.needs_firmware else ()),
            *("-kernel", str(boot.kernel)),
            *("-initrd", str(boot.ramdisk)),
            *("-append", boot.command_line),
        ]
    return [] if boot.firmware == "bios" else flash
