"""Recipes: what to build and how to treat it, one table a distro in kickstart/recipes.toml.

A quirk of a distro is a field here, never a comparison with a recipe's name in the code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.core.architecture import WORDS, Architecture
from pipeline.core.environment import FromEnvironment
from pipeline.core.hardware import Hardware
from pipeline.core.packages import PackageSystem
from pipeline.core.properties import refusal

_COMMAND_LINE = "root=LABEL=uec-rootfs ro console=tty0 console=ttyS0"
_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class Recipe(BaseModel):
    """One distro. Sizes carry their unit in the name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=_NAME)]
    """The name of the table; lower case letters, digits, ".", "_" and "-"."""
    description: str
    """One line for `invoke recipes` and the report."""
    source: Literal["install", "packages"] = "install"
    """Installed by the distribution's own installer, or made of packages without one."""
    system: PackageSystem | None = None
    """What a recipe of packages says: its fields stand in the recipe's own table (below)."""
    answers: Path = Path()
    """Kickstart or preseed file, relative to the recipes file; absolute once loaded. Required of
    a recipe that installs."""
    installer: Literal["anaconda", "debian-installer", "stand-in"] = "anaconda"
    """Which installer reads the answers; the stand-in is the demo's own."""
    release: str = ""
    """pykickstart's name of the release whose syntax the kickstart uses ("F15", "RHEL9")."""
    trees: tuple[str, ...] = ()
    """Install trees, URLs or directories, tried in order. The stand-in's is made on the host."""
    kernel: str = "images/pxeboot/vmlinuz"
    """The installer's kernel in a tree, where no .treeinfo names it."""
    initrd: str = "images/pxeboot/initrd.img"
    """The installer's initrd in a tree, where no .treeinfo names it."""
    checksums: str = ".treeinfo"
    """The file of a tree that has its checksums: ".treeinfo", or one that sha256sum wrote."""
    tree_argument: str = ""
    """A boot argument to be given the tree's URL ("inst.repo"), for kickstarts without `url`."""
    architecture: Architecture = "x86_64"
    """Of the guest, as uname(1) names it; a disk that is given must have a kernel of it."""
    answers_argument: str = "inst.ks"
    """The installer's boot argument that names the kickstart: "ks" before Fedora 17."""
    answers_by: Literal["initrd", "http"] = "initrd"
    """How the installer gets its answer file: injected into the initrd, or served to it."""
    installer_arguments: str = ""
    """Added to the installer's kernel command line."""
    osinfo: str = "detect=on,require=off"
    """virt-install's --osinfo: which defaults the virtual machine gets."""
    variables: dict[str, str | FromEnvironment] = Field(default_factory=dict)
    """The kickstart's declared variables: a default value, or {environment = "NAME"}."""
    cpu: Literal["baseline", "maximum"] = "baseline"
    """The processor without acceleration: x86-64 as of 2003 (aarch64: a Cortex-A57), or all that
    qemu can emulate, which is slower, for distributions that need x86-64-v2 or later."""
    disk_gib: Annotated[int, Field(ge=1, le=2048)] = 8
    """Size of the disk that is installed on; sparse."""
    memory_mib: Annotated[int, Field(ge=128)] = 2048
    """Memory of the installing virtual machine."""
    vcpus: Annotated[int, Field(ge=1, le=64)] = 1
    """Processors of the installing virtual machine."""
    install_minutes: Annotated[int, Field(ge=1, le=1440)] = 120
    """The whole install may take this long."""
    quiet_minutes: Annotated[int, Field(ge=1, le=240)] = 15
    """Without console output, disk or network activity for this long the install hangs."""
    root: str = ""
    """Which volume is the root when inspection cannot tell: "VG/LV" or a partition number."""
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    """Who gets the SSH key from the metadata service."""
    command_line: str = _COMMAND_LINE
    """The kernel command line recorded for the cloud and used by the boot check. aarch64's serial
    console is ttyAMA0, which its default names in place of ttyS0."""
    verify_minutes: Annotated[int, Field(ge=1, le=240)] = 10
    """How long one boot of the boot check may take to reach SSH without acceleration."""
    shrink: bool = False
    """Shrink the file system to its content before it is hashed and sent."""
    disk_image: bool = False
    """Also make a bootable whole disk from the same three files."""
    outputs: tuple[Literal["qcow2", "vmdk", "vdi", "vhd", "vhdx", "ova"], ...] = ()
    """Formats that the whole disk is also written in; naming one makes the whole disk too."""
    properties: dict[str, str] = Field(default_factory=dict)
    """Image properties for the cloud: os_distro, os_version, hw_* and others."""

    @field_validator("properties")
    @classmethod
    def _free_names(cls, properties: dict[str, str]) -> dict[str, str]:
        refused = {name: found for name in properties if (found := refusal(name))}
        if refused:
            words = [f"{name}: {why}. {step}" for name, (why, step) in refused.items()]
            raise ValueError("; ".join(words))
        return properties

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.source == "install" and self.answers == Path():
            raise ValueError("a recipe that installs needs `answers`, a kickstart or a preseed")
        if self.source == "packages" and self.system is None:
            raise ValueError("a recipe of packages needs `distribution` and `release`")
        return self

    @model_validator(mode="before")
    @classmethod
    def _serial_console(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or fields.get("architecture", "x86_64") not in WORDS:
            return fields
        port = WORDS[fields.get("architecture", "x86_64")].serial
        return {"command_line": _COMMAND_LINE.replace("ttyS0", port)} | fields

    @model_validator(mode="after")
    def _read_console(self) -> Self:
        consoles = [w for w in self.command_line.split() if w.startswith("console=")]
        port = WORDS[self.architecture].serial
        last = consoles[-1].partition("=")[2].partition(",")[0] if consoles else port
        if self.architecture != "x86_64" and last != port:
            raise ValueError(
                f"command_line: the last console= is {last}, and the serial console of "
                f"{self.architecture} is {port}: a boot check would see nothing of what init says. "
                f"End it with console={port}"
            )
        return self

    @property
    def hardware(self) -> Hardware:
        """What the properties ask a cloud to attach root and network to."""
        return Hardware.of(self.properties, self.architecture)
