"""A bootable whole disk from a triple: GPT, GRUB for BIOS and for UEFI, no root needed.

aarch64 has no BIOS: its disk has a loader for UEFI alone, GRUB or the guest's own systemd-boot.

The machine image is the last partition, byte for byte; kernel and ramdisk lie on the EFI system
partition next to both boot loaders, so the disk boots the very files that were verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.convert import grub, layout, systemd_boot
from pipeline.core.architecture import WORDS, Architecture
from pipeline.core.checks import FIRMWARES
from pipeline.core.errors import HostError, InputError
from pipeline.core.events import Meter
from pipeline.guest.boot.kernel_image import read_kernel, unpack
from pipeline.guest.boot.loader_files import GRUB, SYSTEMD_BOOT
from pipeline.host.context import Tools
from pipeline.host.copy import copy_sparse
from pipeline.host.files import finish, naming, write_scratch

_EPOCH = {"SOURCE_DATE_EPOCH": "1300000000"}  # mtools stamps files with it: same input, same bytes


def make_disk(  # noqa: PLR0917 # the three files of a triple, in their order
    machine: Path,
    kernel: Path,
    ramdisk: Path,
    command_line: str,
    out: Path,
    tools: Tools,
    *,
    architecture: Architecture = "x86_64",
    loader: Path | None = None,
) -> None:
    """Write the raw disk `out`.

    command_line: the kernel command line its boot menu uses; it must find the root by LABEL=,
    UUID= or PARTUUID=, since the root is not the whole disk any more. loader: what `take_loader`
    took out of the guest, for an architecture whose loader this host lacks. Same inputs give the
    same raw bytes. Raises InputError for a command line or file that cannot boot, HostError when
    the disk cannot be written, ProgramError when a program fails.
    """
    _require(machine, kernel, ramdisk, command_line)
    ids = layout.identify(_fingerprint(machine, kernel, ramdisk, command_line))
    has_bios = "bios" in FIRMWARES[architecture]
    total = machine.stat().st_blocks * 512
    with contextlib.ExitStack() as stack:
        stack.enter_context(tools.run.cleanup(remove=(partial := _partial(out))))
        stack.callback(partial.unlink, missing_ok=True)
        meter = stack.enter_context(tools.progress.task("disk image", total))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=tools.scratch)))
        kernel = _loadable(kernel, work, tools) if architecture == "aarch64" else kernel
        small = kernel.stat().st_size + ramdisk.stat().st_size
        plan = layout.lay_out(machine.stat().st_size, small, bios=has_bios)
        boot = _Boot(kernel, ramdisk, command_line, architecture, loader)
        with naming(partial), partial.open("wb") as disk:
            disk.truncate(plan.sectors * layout.SECTOR)
        tools.run.run(
            ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", partial],
            input=layout.sfdisk_script(plan, ids, architecture).encode(),
            timeout=60,
            attempted="write the partition table of the disk image",
        )
        esp = _system_partition(boot, plan, ids, work, tools)
        core = grub.bios_core(ids.volume_serial, work, tools) if has_bios else b""
        with partial.open("r+b") as disk:
            if plan.bios is not None:
                grub.embed(disk.fileno(), core, plan.bios.start, plan.bios.sectors)
            _copy_into(disk.fileno(), plan.esp.start, esp)
            _copy_into(disk.fileno(), plan.root.start, machine, meter)
        finish(partial, out)


def _copy_into(disk: int, sector: int, source: Path, meter: Meter | None = None) -> None:
    """Copy what is data in `source` to where a partition of the disk begins."""
    try:
        copy_sparse(
            source, disk, sector * layout.SECTOR, meter.advance if meter else lambda _: None
        )
    except OSError as error:
        raise HostError(
            "copy into the disk image",
            source,
            why=error.strerror or str(error),
            next_step="Check the space and the disk",
        ) from error


@dataclass(frozen=True)
class _Boot:
    """What the boot loader starts, and where the guest's own loader lies."""

    kernel: Path
    ramdisk: Path
    command_line: str
    architecture: Architecture
    loader: Path | None


def _loadable(kernel: Path, work: Path, tools: Tools) -> Path:
    """The kernel as boot loaders for arm64 take it: GRUB knows the plain Image alone."""
    found = read_kernel(kernel, tools)
    if not found.compression:
        return kernel
    unpack(found, kernel, work / "Image", tools)
    return work / "Image"


def _system_partition(
    boot: _Boot, plan: layout.Layout, ids: layout.Identities, work: Path, tools: Tools
) -> Path:
    """The EFI system partition as a file: FAT32 with the boot loaders' menu and files."""
    image = work / "esp.img"
    with naming(image), image.open("wb") as file:
        file.truncate(plan.esp.sectors * layout.SECTOR)
    loader, menus = _loader(boot, ids, work, tools)
    directories = ["/EFI", "/EFI/BOOT", grub.DIRECTORY, *_directories(menus)]
    files = {
        f"/EFI/BOOT/{WORDS[boot.architecture].loader}": loader,
        **menus,
        f"{grub.DIRECTORY}/vmlinuz": boot.kernel,
        f"{grub.DIRECTORY}/initrd": boot.ramdisk,
    }
    serial = ids.volume_serial.replace("-", "")
    commands: list[list[str | Path]] = [
        ["mformat", "-i", image, "-F", "-N", serial, "-v", "BOOT", "::"],
        ["mmd", "-i", image, *(f"::{directory}" for directory in directories)],
    ]
    commands += [["mcopy", "-i", image, file, f"::{path}"] for path, file in files.items()]
    for argv in commands:
        tools.run.run(argv, env=_EPOCH, timeout=300, attempted="fill the EFI system partition")
    return image


def _loader(
    boot: _Boot, ids: layout.Identities, work: Path, tools: Tools
) -> tuple[Path, dict[str, Path]]:
    """(the loader for UEFI, its menu's files by their paths on the partition)."""
    own = boot.loader / GRUB if boot.loader else None
    named = boot.loader / SYSTEMD_BOOT if boot.loader else None
    host = grub.host_modules(boot.architecture)
    texts = {f"{grub.DIRECTORY}/grub.cfg": grub.menu(boot.command_line, boot.architecture)}
    if host is None and named is not None and named.is_file():
        loader = named
        texts = systemd_boot.menu(boot.command_line, grub.DIRECTORY)
    else:
        modules = own if host is None and own is not None and own.is_dir() else None
        loader = grub.efi_loader(ids.volume_serial, work, tools, boot.architecture, modules)
    menus = {}
    for number, (path, text) in enumerate(texts.items()):
        menus[path] = work / f"menu-{number}"
        write_scratch(menus[path], text)
    return loader, menus


def _directories(paths: Iterable[str]) -> list[str]:
    """Directories of these files that the partition has not yet, parents first."""
    found = {str(p) for path in paths for p in PurePosixPath(path).parents}
    return sorted(found - {"/", "/EFI", "/EFI/BOOT", grub.DIRECTORY})


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _fingerprint(machine: Path, kernel: Path, ramdisk: Path, command_line: str) -> bytes:
    """What tells this disk from others: all of the small files, the head of the large one.

    The head holds the superblock with its UUID and the time of the last write.
    """
    digest = hashlib.sha256(command_line.encode())
    for path, count in ((kernel, -1), (ramdisk, -1), (machine, 65536)):
        with path.open("rb") as file:
            digest.update(hashlib.sha256(file.read(count)).digest())
    digest.update(machine.stat().st_size.to_bytes(8, "little"))
    return digest.digest()


def _require(machine: Path, kernel: Path, ramdisk: Path, command_line: str) -> None:
    for path in (machine, kernel, ramdisk):
        if not path.is_file() or path.stat().st_size == 0:
            raise InputError("make a disk from", path, why="it is not a file with content")
    roots = [word for word in command_line.split() if word.startswith("root=")]
    if not roots or not roots[-1].startswith(("root=LABEL=", "root=UUID=", "root=PARTUUID=")):
        raise InputError(
            "make a disk with the command line",
            command_line,
            why="it does not name the root by LABEL=, UUID= or PARTUUID=",
            next_step="Set the recipe's command_line, for example to root=LABEL=uec-rootfs",
        )
