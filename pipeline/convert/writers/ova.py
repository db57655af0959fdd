"""Writes OVA files: a descriptor of the machine, digests, and the disk, in one tar archive.

Sources: DMTF DSP0243 2.1 and its schema, as vSphere and VirtualBox read it (version 1 of the
namespace); POSIX ustar. The descriptor comes first and the manifest second; both have no time and
no random identifier, so that the same disk gives the same file.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

_MOST_OF_USTAR = 8 << 30
_HARDWARE = "vmx-13"  # of vSphere 6.5 (2016) and later
# Known to vSphere and to VirtualBox alike; their own paravirtual ones are not.
_CONTROLLER, _CARD = "lsilogic", "E1000"


@dataclass(frozen=True)
class Machine:
    """What the descriptor says. capacity: bytes of the disk."""

    name: str
    cpus: int
    memory_mib: int
    capacity: int


def write_ova(machine: Machine, disk: Path, target: Path) -> None:
    """Write the archive anew. disk: a stream-optimised VMDK. OSError where it cannot be."""
    names = [f"{_plain(machine.name)}{suffix}" for suffix in (".ovf", ".mf", "-disk1.vmdk")]
    size = disk.stat().st_size
    descriptor = _descriptor(machine, names[2], size).encode()
    with disk.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    digests = {names[0]: hashlib.sha256(descriptor).hexdigest(), names[2]: digest}
    manifest = "".join(f"SHA256({name})= {value}\n" for name, value in digests.items()).encode()
    with target.open("wb") as out:
        for name, content in ((names[0], descriptor), (names[1], manifest)):
            _put(out, name, len(content), io.BytesIO(content))
        with disk.open("rb") as file:
            _put(out, names[2], size, file)
        out.write(bytes(2 * tarfile.BLOCKSIZE))


def _put(out: io.BufferedWriter, name: str, size: int, content: io.BufferedIOBase) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    is_plain = size < _MOST_OF_USTAR
    out.write(info.tobuf(tarfile.USTAR_FORMAT if is_plain else tarfile.GNU_FORMAT, "utf-8"))
    shutil.copyfileobj(content, out, 1 << 20)
    out.write(bytes(-size % tarfile.BLOCKSIZE))


def _plain(name: str) -> str:
    """A name that every reader of archives takes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)[:80]


def _descriptor(machine: Machine, file: str, size: int) -> str:
    name, attribute = escape(machine.name), quoteattr(_plain(machine.name))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <References>
  <File ovf:href={quoteattr(file)} ovf:id="file1" ovf:size="{size}"/>
 </References>
 <DiskSection>
  <Info>The disks of the machine</Info>
  <Disk ovf:capacity="{machine.capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="disk1"
   ovf:fileRef="file1"
   ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
 </DiskSection>
 <NetworkSection>
  <Info>The networks of the machine</Info>
  <Network ovf:name="VM Network">
   <Description>The network of the machine's only card</Description>
  </Network>
 </NetworkSection>
 <VirtualSystem ovf:id={attribute}>
  <Info>A machine</Info>
  <Name>{name}</Name>
  <OperatingSystemSection ovf:id="101">
   <Info>The guest's operating system: Linux of 64 bits</Info>
  </OperatingSystemSection>
  <VirtualHardwareSection>
   <Info>What the machine needs</Info>
   <System>
    <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
    <vssd:InstanceID>0</vssd:InstanceID>
    <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
    <vssd:VirtualSystemType>{_HARDWARE}</vssd:VirtualSystemType>
   </System>
{_items(machine)}  </VirtualHardwareSection>
 </VirtualSystem>
</Envelope>
"""


def _items(machine: Machine) -> str:
    """Processors, memory, a controller, its disk and a network card.

    The schema wants the elements of an item in the order of the alphabet.
    """
    items: list[dict[str, str | int]] = [
        {
            "AllocationUnits": "hertz * 10^6",
            "ElementName": f"{machine.cpus} virtual CPUs",
            "InstanceID": 1,
            "ResourceType": 3,
            "VirtualQuantity": machine.cpus,
        },
        {
            "AllocationUnits": "byte * 2^20",
            "ElementName": f"{machine.memory_mib} MB of memory",
            "InstanceID": 2,
            "ResourceType": 4,
            "VirtualQuantity": machine.memory_mib,
        },
        {
            "Address": 0,
            "ElementName": "SCSI controller 0",
            "InstanceID": 3,
            "ResourceSubType": _CONTROLLER,
            "ResourceType": 6,
        },
        {
            "AddressOnParent": 0,
            "ElementName": "Hard disk 1",
            "HostResource": "ovf:/disk/disk1",
            "InstanceID": 4,
            "Parent": 3,
            "ResourceType": 17,
        },
        {
            "AddressOnParent": 7,
            "AutomaticAllocation": "true",
            "Connection": "VM Network",
            "ElementName": "Network adapter 1",
            "InstanceID": 5,
            "ResourceSubType": _CARD,
            "ResourceType": 10,
        },
    ]
    lines = []
    for item in items:
        lines.append("   <Item>")
        lines += [f"    <rasd:{key}>{value}</rasd:{key}>" for key, value in item.items()]
        lines.append("   </Item>")
    return "\n".join(lines) + "\n"
