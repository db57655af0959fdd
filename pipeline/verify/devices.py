"""The machine, its disk and its network card as image properties ask Nova for them; qemu's words.

Pure. Sources: nova/virt/libvirt (buses and models), libvirt's domain format (what it takes where
no model is named), qemu's manual.
"""

from __future__ import annotations

from pipeline.core.errors import HostError
from pipeline.core.hardware import Hardware

_DRIVE = "drive=root,bootindex=1"
_SCSI = {
    "": "lsi53c895a",  # libvirt's choice where qemu has it
    "virtio-scsi": "virtio-scsi-pci",
    "lsilogic": "lsi53c895a",
    "lsisas1068": "mptsas1068",
    "lsisas1078": "megasas",
    "vmpvscsi": "pvscsi",
}
_NETWORKS = {
    "virtio": "virtio-net-pci",
    "e1000": "e1000",
    "e1000e": "e1000e",
    "igb": "igb",
    "ne2k_pci": "ne2k_pci",
    "pcnet": "pcnet",
    "rtl8139": "rtl8139",
    "vmxnet3": "vmxnet3",
}


def machine(hardware: Hardware) -> list[str]:
    """-machine: q35 or pc, for aarch64 virt; the version that a property may name says nothing to
    this host.
    """
    if hardware.is_virt:
        # The newest interrupt controller that the accelerator has: by default it is that of 2011.
        return ["-machine", "virt,gic-version=max"]
    return ["-machine", "q35" if hardware.is_q35 else "pc"]


def disk(hardware: Hardware) -> list[str]:
    """The root disk on its bus. HostError for a bus that qemu does not have."""
    bus = hardware.disk_bus
    if bus == "virtio":
        return _on_pci("virtio-blk-pci", _DRIVE, hardware, 1)
    if bus == "scsi" and hardware.scsi_model in _SCSI:
        controller = _on_pci(_SCSI[hardware.scsi_model], "id=disks", hardware, 1)
        return [*controller, "-device", f"scsi-hd,bus=disks.0,{_DRIVE}"]
    if bus == "ide" and not hardware.has_express:
        return ["-device", f"ide-hd,bus=ide.0,{_DRIVE}"]
    if bus == "sata":
        # q35 comes with such a controller, whose first bus is called ide.0.
        controller = [] if hardware.is_q35 else ["-device", "ahci,id=disks"]
        name = "ide.0" if hardware.is_q35 else "disks.0"
        return [*controller, "-device", f"ide-hd,bus={name},{_DRIVE}"]
    if bus == "usb":
        controller = ["-device", f"{_usb(hardware)},id=disks"]
        return [*controller, "-device", f"usb-storage,bus=disks.0,{_DRIVE}"]
    if bus == "nvme":
        return _on_pci("nvme", f"serial=root,{_DRIVE}", hardware, 1)
    raise _unknown(hardware.disk_words)


def network_card(hardware: Hardware, mac: str) -> list[str]:
    """The network card. HostError for a model that qemu does not have."""
    model = _NETWORKS.get(hardware.vif_model)
    if model is None:
        raise _unknown(f"hw_vif_model={hardware.vif_model}")
    return _on_pci(model, f"netdev=net0,mac={mac},romfile=", hardware, 2)


def _usb(hardware: Hardware) -> str:
    """libvirt's choice of a controller."""
    if hardware.is_virt:
        return "qemu-xhci"
    return "ich9-usb-ehci1" if hardware.is_q35 else "piix3-usb-uhci"


def _on_pci(device: str, options: str, hardware: Hardware, slot: int) -> list[str]:
    """A device on PCI; on PCI Express behind a port of its own, as libvirt puts it there.

    That matters: a virtio device behind such a port speaks virtio 1.0 alone.
    """
    if not hardware.has_express:
        return ["-device", f"{device},{options}"]
    port = ["-device", f"pcie-root-port,id=port{slot},chassis={slot}"]
    return [*port, "-device", f"{device},bus=port{slot},{options}"]


def _unknown(words: str) -> HostError:
    return HostError(
        "boot the image as its properties ask,",
        words,
        why="qemu has no such device on such a machine",
        next_step="Correct the recipe's properties, or build with --no-verify",
    )
