"""GRUB's images for BIOS and UEFI, put in place without grub-install.

The host's grub-mkimage makes images for any target of which it is given the modules: those of
aarch64, for which Debian has no package on other hosts, may come out of the guest.

Layout, as GRUB documents it in include/grub/i386/pc/boot.h, include/grub/offsets.h and
grub-core/boot/i386/pc/diskboot.S: in boot.img the sector of core.img is 8 bytes at 0x5c and the
check of the boot drive 2 bytes at 0x66, which grub-bios-setup turns into no-ops on hard disks; the
first sector of core.img (diskboot.img) ends in a block list, its first entry at 0x1f4: first
sector (8 bytes), count (2), segment (2), little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.architecture import WORDS, Architecture
from pipeline.core.errors import HostError, InputError
from pipeline.core.resources import TEMPLATES
from pipeline.guest.boot.loader_files import grub_target
from pipeline.host.context import Tools
from pipeline.host.requirements import Requirement, declare

REQUIRES = declare(
    Requirement(
        "disk image",
        "bootable whole disks",
        programs={
            "grub-mkimage": "grub-common",
            "mcopy": "mtools",
            "mformat": "mtools",
            "sfdisk": "fdisk",
        },
        packages=("dosfstools", "grub-efi-amd64-bin", "grub-pc-bin"),
        needed=False,
        unchecked={"mmd": "mtools"},
    )
)

DIRECTORY = "/EFI/image"
"""Where the menu, the kernel and the ramdisk lie on the EFI system partition."""

_TEMPLATES: Mapping[Architecture, Path] = {
    "x86_64": TEMPLATES / "grub-disk.cfg",
    "aarch64": TEMPLATES / "grub-disk-aarch64.cfg",
}
_IMAGES = Path("/usr/lib/grub/i386-pc")
_SECTOR = 512
_BOOT_CODE = 440  # bytes; the disk signature and the protective MBR's table follow
_CORE_SECTOR = 0x5C
_DRIVE_CHECK = 0x66
_BLOCK_LIST = 0x1F4
MODULES = (
    *("part_gpt", "fat", "search", "search_fs_uuid", "configfile", "normal"),
    *("linux", "serial", "terminal", "echo", "test", "all_video", "gfxterm"),
)
"""GRUB's modules that a loader for UEFI carries, beside those that they need."""


def host_modules(architecture: Architecture) -> Path | None:
    """The directory with GRUB's modules for UEFI on this host; None without."""
    directory = Path("/usr/lib/grub") / grub_target(architecture)
    return directory if (directory / "kernel.img").is_file() else None


def menu(command_line: str, architecture: Architecture = "x86_64") -> str:
    """The boot menu for this kernel command line."""
    text = _TEMPLATES[architecture].read_text()
    return text.replace("@DIRECTORY@", DIRECTORY).replace("@COMMAND_LINE@", quoted(command_line))


def quoted(command_line: str) -> str:
    """The words in GRUB's single quotes, within which nothing is special (GRUB manual, Quoting)."""
    if not command_line.isascii() or not command_line.isprintable():
        raise InputError(
            "write a boot menu with the command line",
            command_line,
            why="it has characters other than printable ASCII",
        )
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in command_line.split())


def bios_core(volume_serial: str, work: Path, tools: Tools) -> bytes:
    """core.img for BIOS, which finds the menu on the volume of that serial number."""
    core = work / "core.img"
    _make_image("i386-pc", core, ("biosdisk", *MODULES[:-2]), volume_serial, work, tools)
    return core.read_bytes()


def efi_loader(
    volume_serial: str,
    work: Path,
    tools: Tools,
    architecture: Architecture = "x86_64",
    modules: Path | None = None,
) -> Path:
    """BOOTX64.EFI or its like, the removable-media loader of UEFI Specification 2.10, 3.5.1.1.

    modules: a directory with GRUB's modules, in place of the host's own.
    """
    loader = work / WORDS[architecture].loader
    target = grub_target(architecture)
    place = ("-d", modules) if modules else ()
    _make_image(target, loader, MODULES, volume_serial, work, tools, place)
    return loader


def boot_sector(image: bytes, core_sector: int) -> bytes:
    """boot.img's code for a hard disk whose core.img begins at `core_sector`."""
    if len(image) != _SECTOR or image[510:] != b"\x55\xaa":
        raise HostError("use GRUB's boot.img", _IMAGES, why="it is not a boot sector")
    code = bytearray(image[:_BOOT_CODE])
    struct.pack_into("<Q", code, _CORE_SECTOR, core_sector)
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"
    return bytes(code)


def placed_core(core: bytes, core_sector: int, room: int) -> bytes:
    """core.img with its block list set for one run of sectors. room: sectors there are for it."""
    sectors = -(-len(core) // _SECTOR)
    if sectors > room:
        raise HostError(
            "embed GRUB's core.img", why=f"it needs {sectors} sectors and there are {room}"
        )
    image = bytearray(core.ljust(sectors * _SECTOR, b"\0"))
    struct.pack_into("<QH", image, _BLOCK_LIST, core_sector + 1, sectors - 1)
    return bytes(image)


def embed(disk: int, core: bytes, core_sector: int, room: int) -> None:
    """Write boot sector code and core.img into the disk open for writing."""
    try:
        image = (_IMAGES / "boot.img").read_bytes()
    except FileNotFoundError:
        raise HostError(
            "use GRUB's boot.img",
            _IMAGES,
            why="GRUB for BIOS is not installed",
            next_step="Install it: apt-get install grub-pc-bin",
        ) from None
    code = boot_sector(image, core_sector)
    os.pwrite(disk, code, 0)
    os.pwrite(disk, placed_core(core, core_sector, room), core_sector * _SECTOR)


def _make_image(  # noqa: PLR0917 # private: two callers above
    target: str,
    out: Path,
    modules: tuple[str, ...],
    serial: str,
    work: Path,
    tools: Tools,
    place: tuple[str | Path, ...] = (),
) -> None:
    early = work / f"{target}.cfg"
    # By serial number, never by disk order: an instance may have more disks than this one.
    early.write_text(
        f"search --no-floppy --fs-uuid --set=root {serial}\n"
        f"set prefix=($root){DIRECTORY}\nconfigfile ($root){DIRECTORY}/grub.cfg\n"
    )
    tools.run.run(
        ["grub-mkimage", "-O", target, *place, "-p", DIRECTORY, "-c", early, "-o", out, *modules],
        timeout=120,
        attempted=f"make GRUB's image for {target}",
    )
