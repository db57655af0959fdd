"""What a cloud attaches an instance's root and network card to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.architecture import Architecture

_SCSI_NAMES = {"paravirtual": "vmpvscsi", "lsilogicsas": "lsisas1068"}
_MACHINES: Mapping[Architecture, str] = {"x86_64": "pc", "aarch64": "virt"}
_VIF_NAMES = {
    "virtuale1000": "e1000",
    "virtuale1000e": "e1000e",
    "virtualvmxnet3": "vmxnet3",
    "virtualpcnet32": "pcnet",
}


@dataclass(frozen=True)
class Hardware:
    """What a cloud attaches an instance's root and network card to, as image properties ask.

    disk_bus: hw_disk_bus. scsi_model: hw_scsi_model, which counts for the bus "scsi" alone; ""
    where none is named and libvirt chooses. vif_model: hw_vif_model. machine_type:
    hw_machine_type. All in lower case, VMware's names as Nova's. architecture: the image's own.
    """

    disk_bus: str = "virtio"
    scsi_model: str = ""
    vif_model: str = "virtio"
    machine_type: str = "pc"
    architecture: Architecture = "x86_64"

    @staticmethod
    def of(properties: Mapping[str, str], architecture: Architecture = "x86_64") -> Hardware:
        """What these image properties ask for; Nova's defaults for the rest."""

        def word(name: str, default: str) -> str:
            return properties.get(name, "").strip().lower() or default

        scsi, vif = word("hw_scsi_model", ""), word("hw_vif_model", "virtio")
        return Hardware(
            word("hw_disk_bus", "virtio"),
            _SCSI_NAMES.get(scsi, scsi),
            _VIF_NAMES.get(vif, vif),
            word("hw_machine_type", _MACHINES[architecture]),
            architecture,
        )

    @property
    def is_q35(self) -> bool:
        """Whether it is the PC with PCI Express in place of PCI."""
        return "q35" in self.machine_type and not self.is_virt

    @property
    def is_virt(self) -> bool:
        """Whether it is the board that was made for virtual machines, which all aarch64 runs on."""
        return self.architecture == "aarch64"

    @property
    def has_express(self) -> bool:
        """Whether the machine has PCI Express."""
        return self.is_q35 or self.is_virt

    @property
    def disk_words(self) -> str:
        """The properties that name the root's bus, as they are written."""
        model = ""
        if self.disk_bus == "scsi":
            named = f"hw_scsi_model={self.scsi_model}"
            model = f", {named if self.scsi_model else 'no hw_scsi_model'}"
        return f"hw_disk_bus={self.disk_bus}{model}"

    @property
    def root_device(self) -> str:
        """The root's device as the guest names it.

        Nova calls an IDE disk /dev/hda, which no kernel since 2.6.40 does.
        """
        named = {"virtio": "/dev/vda", "xen": "/dev/xvda", "nvme": "/dev/nvme0n1"}
        return named.get(self.disk_bus, "/dev/sda")


USUAL_HARDWARE = Hardware()
"""What an image gets whose properties ask for nothing: virtio."""
