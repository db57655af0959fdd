"""Which drivers a guest needs to find its root and its network, and what is missing.

Pure decisions over names of modules. What a cloud attaches is decided by the image's properties
(Nova: hw_disk_bus, hw_scsi_model, hw_vif_model, hw_machine_type; its libvirt driver's defaults),
or by EC2, whose current instance types show disks as NVMe and networks as ENA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.core.hardware import USUAL_HARDWARE, Hardware
from pipeline.guest.access.paths import shown
from pipeline.guest.boot.ramdisk import Ramdisk

Group = frozenset[str]
"""Modules of which one is enough."""

# Which modules can mount a root of that type; one is enough.
_FILESYSTEMS = {
    "ext2": ("ext4", "ext2"),
    "ext3": ("ext4", "ext3"),
    "ext4": ("ext4",),
    "xfs": ("xfs",),
}


def _all(*names: str) -> tuple[Group, ...]:
    """Groups from words; "a|b" for either."""
    return tuple(frozenset(name.split("|")) for name in names)


# Kernels before 2.6.40 drive IDE by piix and ide-disk as well.
_IDE = _all("ata_piix|piix|ata_generic", "sd_mod|ide_gd_mod|ide_disk")
_BUSES = {
    "virtio": _all("virtio_blk", "virtio_pci"),
    "ide": _IDE,
    "sata": _all("ahci", "sd_mod"),
    "usb": _all("uhci_hcd|ehci_pci|ehci_hcd|xhci_pci|xhci_hcd", "usb_storage|uas", "sd_mod"),
    "xen": _all("xen_blkfront"),
    "nvme": _all("nvme"),
    "fdc": _all("floppy"),
}
_SCSI = {
    # libvirt's choice: lsilogic where its QEMU has that, which Red Hat's does not.
    "": _all("sym53c8xx|virtio_scsi", "sd_mod"),
    "virtio-scsi": _all("virtio_scsi", "virtio_pci", "sd_mod"),
    "lsilogic": _all("sym53c8xx|mptspi", "sd_mod"),
    "lsisas1068": _all("mptsas", "sd_mod"),
    "lsisas1078": _all("megaraid_sas", "sd_mod"),
    "buslogic": _all("BusLogic", "sd_mod"),
    "vmpvscsi": _all("vmw_pvscsi", "sd_mod"),
}
_NETWORKS = {
    "virtio": _all("virtio_net"),
    "e1000": _all("e1000"),
    "e1000e": _all("e1000e"),
    "igb": _all("igb"),
    "rtl8139": _all("8139cp|8139too"),
    "ne2k_pci": _all("ne2k_pci"),
    "pcnet": _all("pcnet32"),
    "vmxnet3": _all("vmxnet3"),
    "netfront": _all("xen_netfront"),
}


def _names(*kinds: tuple[Group, ...]) -> frozenset[str]:
    return frozenset(name for groups in kinds for group in groups for name in group)


DISKS = _names(*_BUSES.values(), *_SCSI.values())
"""Drivers of disks that are looked for, by module name."""
NETWORKS = _names(*_NETWORKS.values(), _all("ena"))
"""Drivers of network cards that are looked for."""
_OPTIONS = {  # for kernels that come without modules.builtin
    "ahci": "SATA_AHCI",
    "ata_piix": "ATA_PIIX",
    "e1000": "E1000",
    "e1000e": "E1000E",
    "ena": "ENA_ETHERNET",
    "ext2": "EXT2_FS",
    "ext3": "EXT3_FS",
    "ext4": "EXT4_FS",
    "nvme": "BLK_DEV_NVME",
    "sd_mod": "BLK_DEV_SD",
    "usb_storage": "USB_STORAGE",
    "virtio_blk": "VIRTIO_BLK",
    "virtio_net": "VIRTIO_NET",
    "virtio_pci": "VIRTIO_PCI",
    "virtio_scsi": "SCSI_VIRTIO",
    "xen_blkfront": "XEN_BLKDEV_FRONTEND",
    "xfs": "XFS_FS",
}
_MODERN = (3, 10)
"""Red Hat's 3.10 has virtio 1.0 by backport; the kernel itself since 4.0."""


def bus_needs(hardware: Hardware) -> tuple[Group, ...] | None:
    """What ramdisk and kernel must have to find a disk; None for a bus nobody knows."""
    if hardware.disk_bus == "scsi":
        return _SCSI.get(hardware.scsi_model)
    return _BUSES.get(hardware.disk_bus)


def disk_needs(hardware: Hardware, filesystem: str) -> tuple[Group, ...] | None:
    """What ramdisk and kernel must have to mount the root; None for a bus nobody knows."""
    bus = bus_needs(hardware)
    if bus is None:
        return None
    return (*bus, frozenset(_FILESYSTEMS.get(filesystem, (filesystem,))))


def missing(needs: Iterable[Group], carried: Iterable[str]) -> list[str]:
    """The first module of each group of which none is carried."""
    there = frozenset(carried)
    lacking = [group for group in needs if not group & there]
    return [min(group, key=_preference) for group in lacking]


def _preference(name: str) -> tuple[bool, str]:
    """What to name of a group: what current kernels have."""
    current = ("ext4", "ata_piix", "sd_mod", "xhci_pci", "sym53c8xx", "usb_storage")
    return name not in current, name


def builtin_modules(listing: str) -> frozenset[str]:
    """Names in a modules.builtin: "kernel/fs/ext4/ext4.ko" -> "ext4"."""
    names = (line.rpartition("/")[2].partition(".ko")[0] for line in listing.splitlines())
    return frozenset(name.replace("-", "_") for name in names if name)


def module_names(listing: str) -> frozenset[str]:
    """Names in a modules.dep: "kernel/net/ena.ko.xz: kernel/a.ko.xz" -> "ena"."""
    return builtin_modules("\n".join(line.partition(":")[0] for line in listing.splitlines()))


def modinfo_names(data: bytes) -> frozenset[str]:
    """Names in a modules.builtin.modinfo: "ext4.license=GPL", zero bytes between."""
    names = (item.partition(b"=")[0].partition(b".")[0] for item in data.split(b"\0"))
    return frozenset(n.decode("ascii", "replace").replace("-", "_") for n in names if n)


def options_set(config: str) -> frozenset[str]:
    """Modules that a kernel's .config makes part of it."""
    lines = frozenset(config.splitlines())
    return frozenset(name for name, option in _OPTIONS.items() if f"CONFIG_{option}=y" in lines)


def waits(content: Ramdisk) -> list[str]:
    """Warnings of what in a ramdisk's settings waits for volumes that the image does not have."""
    return [
        f"the ramdisk's {shown(name)} waits for volumes that the image does not have "
        f"({shown(' '.join(text.split())[:200])}): make it again in the installed system "
        "without them, or boot with noresume and rd.lvm=0"
        for name, text in sorted(content.files.items())
        if re.search(r"rd[._](?:lvm|LVM)|RESUME=(?!none)\S|\bresume=", text)
    ]


def lacking(
    content: Ramdisk,
    builtin: frozenset[str] | None,
    version: str,
    filesystem: str,
    hardware: Hardware,
) -> list[str]:
    """The modules that neither the ramdisk nor, as far as is known, the kernel has."""
    carried = content.modules.get(version, set()) | (builtin or frozenset())
    return missing(disk_needs(hardware, filesystem) or (), carried)


def judge(
    content: Ramdisk,
    builtin: frozenset[str] | None,
    version: str,
    filesystem: str,
    hardware: Hardware = USUAL_HARDWARE,
) -> tuple[str, list[str]]:
    """(why the pair cannot boot as a virtual machine, or "", and warnings).

    builtin: modules that are part of the kernel; None when the guest does not say.
    """
    warnings = waits(content)
    others = sorted(set(content.modules) - {version})
    if others and version not in content.modules:
        return f"its modules are of {', '.join(map(shown, others))}, not of {version}", warnings
    if disk_needs(hardware, filesystem) is None:
        warnings.append(
            f"whether the ramdisk can drive the root on {shown(hardware.disk_words)} is not known: "
            "no driver of such a bus is known here"
        )
        return "", warnings
    names = ", ".join(lacking(content, builtin, version, filesystem, hardware))
    asked = "" if hardware.disk_bus == "virtio" else f" ({hardware.disk_words} asks for it)"
    if names and builtin is None:
        warnings.append(
            f"the ramdisk carries no {names}{asked}, and the guest does not say what is "
            "part of its kernel: if it stops before it finds its root, add them to the ramdisk"
        )
        return "", warnings
    return f"it lacks {names}, and so does the kernel{asked}" if names else "", warnings


def network_warnings(hardware: Hardware, installed: frozenset[str] | None) -> list[str]:
    """What is wrong with the network card that the properties ask for.

    installed: all modules of the guest, those of the kernel itself too; None if it is not known.
    """
    needs = _NETWORKS.get(hardware.vif_model)
    if needs is None:
        return [f"no driver is known for hw_vif_model={shown(hardware.vif_model)}"]
    lacking = [] if installed is None else missing(needs, installed)
    return [
        f"the guest has no {name}, the driver of its network card "
        f"(hw_vif_model={hardware.vif_model}): it will have no network, and get no SSH key"
        for name in lacking
    ]


def ec2_warnings(carried: Iterable[str], installed: Iterable[str], step: str) -> list[str]:
    """What keeps a whole disk from current instance types of EC2.

    carried: modules of ramdisk and kernel. installed: of the guest. step: what adds nvme.
    """
    warnings = []
    if "nvme" not in carried:
        warnings.append(
            "neither ramdisk nor kernel has nvme, by which current EC2 instance types attach the "
            f"root: the whole disk does not boot there. {step}"
        )
    if "ena" not in installed:
        warnings.append(
            "the guest has no ena, the network card of current EC2 instance types: the whole disk "
            "is registered there without EnaSupport"
        )
    return warnings


def machine_warnings(hardware: Hardware, version: str) -> list[str]:
    """What is wrong with the kind of machine that the properties ask for."""
    if hardware.disk_bus == "scsi" and not hardware.scsi_model:
        return [
            "hw_disk_bus=scsi without hw_scsi_model: libvirt takes lsilogic (sym53c8xx) where its "
            "QEMU has that, else virtio-scsi: name the model that the guest can drive"
        ]
    number = re.match(r"(\d+)\.(\d+)", version)
    old = number is not None and (int(number[1]), int(number[2])) < _MODERN
    if hardware.is_q35 and old and "virtio" in (hardware.disk_bus, hardware.vif_model):
        return [
            f"hw_machine_type={hardware.machine_type}: virtio devices of such a machine speak "
            f"virtio 1.0 only, which kernel {shown(version)} does not know: use the machine type "
            "pc, or another disk bus and network card"
        ]
    if hardware.has_express and hardware.disk_bus == "ide":
        return [
            f"hw_machine_type={hardware.machine_type} has no IDE, which hw_disk_bus=ide asks for: "
            "Nova will refuse to start it; use sata"
        ]
    return []
