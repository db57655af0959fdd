"""A bootable whole disk from a triple: GPT, GRUB for BIOS and for UEFI, no root needed.

The machine image is the last partition, byte for byte; kernel and ramdisk lie on the EFI system
partition next to both boot loaders, so the disk boots the very files that were verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from pipeline.convert import grub, layout
from pipeline.core.errors import HostError, InputError
from pipeline.core.events import Meter
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
) -> None:
    """Write the raw disk `out`.

    command_line: the kernel command line its boot menu uses; it must find the root by LABEL=,
    UUID= or PARTUUID=, since the root is not the whole disk any more. Same inputs give the same
    raw bytes. Raises InputError for a command line or file that cannot boot, HostError when the
    disk cannot be written, ProgramError when a program fails.
    """
    _require(machine, kernel, ramdisk, command_line)
    ids = layout.identify(_fingerprint(machine, kernel, ramdisk, command_line))
    plan = layout.lay_out(machine.stat().st_size, kernel.stat().st_size + ramdisk.stat().st_size)
    total = machine.stat().st_blocks * 512
    with contextlib.ExitStack() as stack:
        stack.enter_context(tools.run.cleanup(remove=(partial := _partial(out))))
        stack.callback(partial.unlink, missing_ok=True)
        meter = stack.enter_context(tools.progress.task("disk image", total))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=tools.scratch)))
        with naming(partial), partial.open("wb") as disk:
            disk.truncate(plan.sectors * layout.SECTOR)
        tools.run.run(
            ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", partial],
            input=layout.sfdisk_script(plan, ids).encode(),
            timeout=60,
            attempted="write the partition table of the disk image",
        )
        esp = _system_partition(kernel, ramdisk, command_line, plan, ids, work, tools)
        core = grub.bios_core(ids.volume_serial, work, tools)
        with partial.open("r+b") as disk:
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


def _system_partition(  # noqa: PLR0917 # private: named after what they are everywhere here
    kernel: Path,
    ramdisk: Path,
    command_line: str,
    plan: layout.Layout,
    ids: layout.Identities,
    work: Path,
    tools: Tools,
) -> Path:
    """The EFI system partition as a file: FAT32 with both boot loaders' menu and files."""
    image = work / "esp.img"
    with naming(image), image.open("wb") as file:
        file.truncate(plan.esp.sectors * layout.SECTOR)
    menu = work / "grub.cfg"
    write_scratch(menu, grub.menu(command_line))
    loader = grub.efi_loader(ids.volume_serial, work, tools)
    commands: list[list[str | Path]] = [
        [
            "mformat",
            "-i",
            image,
            "-F",
            "-N",
            ids.volume_serial.replace("-", ""),
            "-v",
            "BOOT",
            "::",
        ],
        ["mmd", "-i", image, "::/EFI", "::/EFI/BOOT", f"::{grub.DIRECTORY}"],
        ["mcopy", "-i", image, loader, "::/EFI/BOOT/BOOTX64.EFI"],
        ["mcopy", "-i", image, menu, f"::{grub.DIRECTORY}/grub.cfg"],
        ["mcopy", "-i", image, kernel, f"::{grub.DIRECTORY}/vmlinuz"],
        ["mcopy", "-i", image, ramdisk, f"::{grub.DIRECTORY}/initrd"],
    ]
    for argv in commands:
        tools.run.run(argv, env=_EPOCH, timeout=300, attempted="fill the EFI system partition")
    return image


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
