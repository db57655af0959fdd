"""UEFI for virtual machines: where Debian's packages put it, by architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.architecture import Architecture
from pipeline.core.errors import HostError


@dataclass(frozen=True)
class Uefi:
    """UEFI for a machine. code: run as it is. variables: the store that each guest gets a copy of.

    package: Debian's, which brings both.
    """

    code: Path
    variables: Path
    package: str

    def require(self) -> None:
        """HostError that names the package unless both files are there."""
        for file in (self.code, self.variables):
            if not file.is_file():
                raise HostError(
                    "boot under UEFI with",
                    file,
                    why="the firmware is not installed",
                    next_step=f"Install it: apt-get install {self.package}",
                )


UEFI: Mapping[Architecture, Uefi] = {
    "x86_64": Uefi(
        Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"), "ovmf"
    ),
    "aarch64": Uefi(
        Path("/usr/share/AAVMF/AAVMF_CODE.fd"),
        Path("/usr/share/AAVMF/AAVMF_VARS.fd"),
        "qemu-efi-aarch64",
    ),
}
