"""The virtual machine of a boot check: qemu's command line as a pure function.

Direct kernel boot, virtio disk and network, VGA and serial console, DMI strings: as Nova's libvirt
driver defines a guest (nova/virt/libvirt). Network: slirp, cut off from the host and the world but
for the metadata address and SSH, so that a guest cannot reach this host's loopback services and
the result does not depend on the network here.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.checks import Firmware
from pipeline.core.image import Accelerator

QEMU = "qemu-system-x86_64"
NETWORK = "169.254.169.0/24"
GUEST_ADDRESS = "169.254.169.15"
METADATA_ADDRESS = "169.254.169.254"
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

# Five-level paging is off, as nearly all clouds have it: with it one boot in two of Debian 13's
# kernel was seen to lose memory to corruption under qemu 7.2's emulation.
_EMULATED_CPU = "max,la57=off"
GUEST_TIME = "shift=2,sleep=on"
"""Under TCG the guest's clock counts instructions, 4 ns each, and real time only while it sleeps.

By the host's clock a guest on a busy host would see its timer starved and its 90-second waits for
devices run out; by its own work it sees a machine of 250 MIPS, however long that takes here
(qemu, docs/devel/tcg-icount.rst).
"""


@dataclass(frozen=True)
class DirectBoot:
    """The cloud loads the kernel itself."""

    kernel: Path
    ramdisk: Path
    command_line: str


@dataclass(frozen=True)
class FirmwareBoot:
    """The disk's own boot loader runs. variables: a private copy of OVMF's variable store."""

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
) -> list[str]:
    """The whole command line."""
    network = (
        f"user,id=net0,net={NETWORK},dhcpstart={GUEST_ADDRESS},restrict=on,"
        # Port 0: the kernel picks a free one while qemu binds, so runs cannot collide.
        f"hostfwd=tcp:127.0.0.1:0-{GUEST_ADDRESS}:22"
    )
    if wiring.exchange:
        network += f",guestfwd=tcp:{METADATA_ADDRESS}:80-cmd:{comma(wiring.exchange)}"
    return [
        QEMU,
        "-nodefaults",
        "-no-user-config",
        # slirp starts the metadata exchange with fork and setsid(2): those stay allowed.
        *("-sandbox", "on,obsolete=deny,resourcecontrol=deny"),
        *("-machine", "pc"),
        *("-accel", accelerator),
        *(() if accelerator == "kvm" else ("-icount", GUEST_TIME)),
        *("-cpu", "host" if accelerator == "kvm" else _EMULATED_CPU),
        *("-smp", "1"),
        *("-m", str(memory_mib)),
        *("-uuid", uuid),
        *(
            "-smbios",
            "type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova",
        ),
        *("-display", "none"),
        *("-vga", "std"),
        "-no-reboot",
        *("-chardev", f"socket,id=qmp,{wiring.qmp}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=serial,{wiring.serial}"),
        *("-serial", "chardev:serial"),
        *("-drive", f"file={comma(wiring.overlay)},if=none,id=root,format=qcow2,cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=root,bootindex=1"),
        *("-netdev", network),
        *("-device", f"virtio-net-pci,netdev=net0,mac={mac},romfile="),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng0"),
        *_boot_arguments(boot),
    ]


def comma(text: str | Path) -> str:
    """`text` as a value in one of qemu's option lists, where a comma is doubled."""
    return str(text).replace(",", ",,")


def readable(argv: list[str]) -> str:
    """A command line ready to read and, but for the wiring, to paste."""
    return shlex.join(argv)


def _boot_arguments(boot: DirectBoot | FirmwareBoot) -> list[str]:
    if isinstance(boot, DirectBoot):
        return [
            *("-kernel", str(boot.kernel)),
            *("-initrd", str(boot.ramdisk)),
            *("-append", boot.command_line),
        ]
    if boot.firmware == "bios":
        return []
    return [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={comma(boot.variables or OVMF_VARS)}"),
    ]
