"""The processor architectures of guests, and what each service and program calls them.

One word is used everywhere here, uname(1)'s; where a name leaves the pipeline it is put into the
words of whoever reads it. Sources: Nova's nova/objects/fields.py (which knows "amd64" and no
"arm64"), EC2's ArchitectureValues, the products of simplestreams, the UEFI Specification 2.10,
3.5.1.1 (names of loaders), the UAPI group's Discoverable Partitions Specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Architecture = Literal["x86_64", "aarch64"]
"""As uname(1) names it."""


@dataclass(frozen=True)
class Words:
    """One architecture in the words of others.

    debian: of packages and installers. glance: the property `architecture`. ec2: of
    RegisterImage and of the metadata service. bundle: of the manifests of EC2's bundles, which
    OpenStack's ec2-api hands on to Glance as it stands: "arm64" there would be refused by Nova.
    stream: simplestreams' `arch`. firmware:
    the UEFI's own, in names of loaders and in boot loader entries. serial: the guest's name of its
    first serial port. root_type: type GUID of a root partition.
    """

    debian: str
    glance: str
    ec2: str
    bundle: str
    stream: str
    firmware: str
    serial: str
    root_type: str

    @property
    def loader(self) -> str:
        """The name of a removable disk's boot loader ("BOOTX64.EFI")."""
        return f"BOOT{self.firmware.upper()}.EFI"


WORDS: Mapping[Architecture, Words] = {
    "x86_64": Words(
        debian="amd64",
        glance="x86_64",
        ec2="x86_64",
        bundle="x86_64",
        stream="x86_64",  # as all earlier releases wrote it
        firmware="x64",
        serial="ttyS0",
        root_type="4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    ),
    "aarch64": Words(
        debian="arm64",
        glance="aarch64",
        ec2="arm64",
        bundle="aarch64",
        stream="arm64",
        firmware="aa64",
        serial="ttyAMA0",
        root_type="B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    ),
}


def words(architecture: str) -> Words:
    """What others call it; a name that is not known here is handed on as it is.

    The manifest of a later release may have such a name.
    """
    found = WORDS.get(known(architecture))
    assert found is not None
    if architecture in WORDS:
        return found
    return replace(
        found,
        debian=architecture,
        glance=architecture,
        ec2=architecture,
        bundle=architecture,
        stream=architecture,
    )


def known(architecture: str) -> Architecture:
    """The architecture of a recorded image; x86_64 for a name that is not known here."""
    return next((name for name in WORDS if name == architecture), "x86_64")


def from_stream(arch: str) -> Architecture:
    """The architecture that simplestreams calls `arch`; x86_64 for a name not known here."""
    return next((name for name, each in WORDS.items() if arch in (name, each.stream)), "x86_64")
