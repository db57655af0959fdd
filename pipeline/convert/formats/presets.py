"""What each consumer of disk images takes: format, size, packing, and who says so."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.convert.formats.protocol import GIB, MIB
from pipeline.convert.formats.registry import unknown
from pipeline.convert.writers.transport import Packing
from pipeline.core.image import Format


@dataclass(frozen=True)
class Preset:
    """How a disk is written for one consumer.

    multiple: bytes that its size is rounded up to, 0 for the format's own rule. why: one line with
    the source.
    """

    name: str
    format: Format
    why: str
    variant: str = ""
    compression: str = ""
    pack: Packing | None = None
    multiple: int = 0
    file: str = ""
    """What the file must be called, "" for any name."""


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "openstack",
            "qcow2",
            "every release of Nova and Glance reads it (OpenStack virtual machine image guide,"
            " disk formats); zlib, as hosts before QEMU 5.1 read nothing else",
            compression="zlib",
        ),
        Preset(
            "ec2-import",
            "vmdk",
            "VM Import/Export takes stream-optimised ESX VMDK, OVA, VHD and raw (VM Import/Export"
            " user guide, image formats)",
            variant="stream",
            multiple=MIB,
        ),
        Preset(
            "azure",
            "vhd",
            "Azure takes fixed VHD whose virtual size is a whole number of MiB (Azure: prepare"
            " Linux for imaging, resizing VHDs)",
            variant="fixed",
            multiple=MIB,
        ),
        Preset(
            "gce",
            "tar",
            "disk.raw of whole GiB in an oldgnu tar, packed by gzip (Compute Engine: import disks"
            " manually, image requirements)",
            pack="gzip",
            multiple=GIB,
        ),
        Preset(
            "vmware",
            "ova",
            "vSphere deploys OVF packages with stream-optimised disks (VMware: deploy OVF and OVA"
            " templates)",
            multiple=MIB,
        ),
        Preset("virtualbox", "vdi", "VirtualBox's own format (VirtualBox manual, ch. 5.2)"),
        Preset(
            "hyperv",
            "vhdx",
            "Hyper-V since 2012 (Microsoft: supported formats of virtual hard disks)",
            multiple=MIB,
        ),
        Preset(
            "xen",
            "raw",
            "xl attaches raw files through the kernel's loop or blktap (xl-disk-configuration(5))",
        ),
        Preset(
            "libvirt",
            "qcow2",
            "QEMU 5.1 and later read zstd (qemu-img(1), compression_type)",
            compression="zstd",
        ),
    )
}


def find_preset(word: str) -> Preset:
    """The preset of that name; InputError that offers the nearest."""
    if word not in PRESETS:
        raise unknown("write a disk for", word, PRESETS)
    return PRESETS[word]
