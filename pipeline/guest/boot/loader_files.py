"""The boot loader that a guest of another architecture brings for its whole disk.

A host has the loaders of its own architecture; those of another it may not be able to install. A
guest has what belongs to it: GRUB's modules, or systemd-boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.core.architecture import WORDS, Architecture
from pipeline.core.errors import GuestError
from pipeline.guest.access.protocol import Guest
from pipeline.guest.boot.defaults import is_directory, is_file

GRUB = "grub"
"""The directory that gets GRUB's modules."""
SYSTEMD_BOOT = "systemd-boot.efi"
"""The file that systemd-boot becomes."""

_KERNEL = "kernel.img"  # GRUB's own core
_DEPENDENCIES = "moddep.lst"
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_MAX_LIST = 256 << 10  # bytes; GRUB 2.12's has 6 KB
_MAX_FILE = 8 << 20  # bytes of a module or loader; the largest have half a MB


def grub_target(architecture: Architecture) -> str:
    """GRUB's word for UEFI on that architecture ("arm64-efi")."""
    return f"{'arm64' if architecture == 'aarch64' else 'x86_64'}-efi"


def take_loader(
    guest: Guest, architecture: Architecture, modules: Iterable[str], out: Path
) -> None:
    """Copy what the guest has of boot loaders into the new directory `out`.

    modules: GRUB's that are needed; what they need comes along. GuestError when the guest has
    neither GRUB's modules nor systemd-boot.
    """
    out.mkdir()
    directory = f"/usr/lib/grub/{grub_target(architecture)}"
    if is_directory(guest, directory) and is_file(guest, f"{directory}/{_KERNEL}"):
        (out / GRUB).mkdir()
        _take_grub(guest, directory, modules, out / GRUB)
        return
    firmware = WORDS[architecture].firmware
    path = f"/usr/lib/systemd/boot/efi/systemd-boot{firmware}.efi"
    if is_file(guest, path):
        _download(guest, path, out / SYSTEMD_BOOT)
        return
    debian = WORDS[architecture].debian
    raise GuestError(
        "make a bootable whole disk of",
        "the guest",
        why=f"this host has no GRUB for {architecture}, and the guest has neither GRUB's modules "
        f"({directory}) nor systemd-boot ({path})",
        next_step=f"Install grub-efi-{debian}-bin or systemd-boot in the guest, or on this host "
        f"(dpkg --add-architecture {debian}, apt-get update, apt-get install "
        f"grub-efi-{debian}-bin:{debian}), or build without --disk-image",
    )


def _take_grub(guest: Guest, directory: str, modules: Iterable[str], out: Path) -> None:
    text = guest.read(f"{directory}/{_DEPENDENCIES}", _MAX_LIST).decode("ascii", "replace")
    (out / _DEPENDENCIES).write_text(text)
    needs = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        needs[name.strip()] = rest.split()
    wanted, waiting = set[str](), list(modules)
    while waiting:
        name = waiting.pop()
        if name not in wanted and _NAME.fullmatch(name):
            wanted.add(name)
            waiting += needs.get(name, [])
    _download(guest, f"{directory}/{_KERNEL}", out / _KERNEL)
    for name in sorted(wanted):
        _download(guest, f"{directory}/{name}.mod", out / f"{name}.mod")


def _download(guest: Guest, path: str, to: Path) -> None:
    if not is_file(guest, path):
        raise GuestError(
            "take the boot loader out of",
            "the guest",
            why=f"{path} is not there",
            next_step="Install the guest's GRUB again",
        )
    status = guest.stat(guest.resolve(path))
    if status is not None and status.size > _MAX_FILE:
        raise GuestError(
            "take the boot loader out of",
            "the guest",
            why=f"{path} has {status.size >> 20} MiB",
            next_step="Install the guest's GRUB again",
        )
    guest.download(path, to)
