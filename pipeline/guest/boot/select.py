"""Take the kernel and the ramdisk that the guest would boot by default, and check the pair."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DiskError, GuestError
from pipeline.core.hardware import USUAL_HARDWARE, Hardware
from pipeline.core.image import Mount
from pipeline.guest.access.mounted import mounted
from pipeline.guest.access.paths import base, shown
from pipeline.guest.access.protocol import Guest
from pipeline.guest.boot.defaults import Images, boot_default, is_file, system_directory
from pipeline.guest.boot.drivers import (
    DISKS,
    NETWORKS,
    builtin_modules,
    ec2_warnings,
    judge,
    lacking,
    machine_warnings,
    modinfo_names,
    module_names,
    network_warnings,
    options_set,
)
from pipeline.guest.boot.kernel_image import KernelFile, read_kernel
from pipeline.guest.boot.ramdisk import Ramdisk, scan
from pipeline.guest.boot.remedies import ramdisk_tool, remedy
from pipeline.guest.boot.search import MODULES, FoundKernel, Search, unpaired
from pipeline.host.context import Tools
from pipeline.host.files import finish

__all__ = ["BootFiles", "builtin_modules", "collect", "judge"]

_MAX_LIST = 8 << 20  # modules.builtin and a kernel's config have some 300 KB
_MAX_KERNEL = 256 << 20  # distributions' have 5 to 15 MB, with all drivers built in 50
_MAX_RAMDISK = 1 << 30  # with every module and firmware some 200 MB; a guest must hold it in memory
_ALIGNED = 4  # bytes; boot loaders pad each ramdisk to them, as the kernel wants archives to begin


@dataclass(frozen=True)
class BootFiles:
    """The pair that was copied out. kernel, ramdisk: guest paths, links resolved.

    ramdisk: several paths, with commas between, where the boot loader loads several. drivers:
    modules for disks that ramdisk or kernel have, and for networks that the guest has; None when
    the guest does not say what is part of its kernel.
    """

    kernel_version: str
    kernel: str
    ramdisk: str
    chosen_because: str
    warnings: tuple[str, ...]
    drivers: tuple[str, ...] | None = None


def collect(
    guest: Guest,
    kernel_out: Path,
    ramdisk_out: Path,
    tools: Tools,
    *,
    mounts: tuple[Mount, ...] = (),
    esp: str = "",
    hardware: Hardware = USUAL_HARDWARE,
    whole_disk: bool = False,
) -> BootFiles:
    """Copy the default kernel and its ramdisk to the two host files, whole or not at all.

    mounts: volumes that the guest was not opened with, for reading. esp: where the EFI system
    partition is mounted; "" for none. hardware: what ramdisk and kernel must be able to drive.
    whole_disk: warn of what a disk lacks on EC2.
    GuestError when kernel, ramdisk and
    /lib/modules/VERSION do not pair, or when the pair could not boot as a virtual machine.
    """
    outs = (kernel_out, ramdisk_out)
    try:
        with mounted(guest, mounts) as whole:
            return _Collector(whole, tools, esp, hardware, whole_disk).collect(*outs)
    except DiskError as error:
        # The firmware's partition is seldom where the kernel lies: without it there may be enough.
        if not esp:
            raise
        unread = f"the EFI system partition cannot be read ({error.why}): what it says was left out"
    others = tuple(mount for mount in mounts if mount.at != esp)
    with mounted(guest, others) as whole:
        try:
            files = _Collector(whole, tools, "", hardware, whole_disk).collect(*outs)
        except GuestError as error:
            raise GuestError(
                error.attempted,
                error.subject,
                why=f"{error.why}; {unread}",
                next_step=error.next_step,
            ) from error
    return BootFiles(**{**vars(files), "warnings": (unread, *files.warnings)})


@dataclass
class _Collector:
    """One guest with all that it boots from; esp: where its EFI system partition is mounted."""

    guest: Guest
    tools: Tools
    esp: str
    hardware: Hardware
    whole_disk: bool

    def collect(self, kernel_out: Path, ramdisk_out: Path) -> BootFiles:
        """See `collect`."""
        with tempfile.TemporaryDirectory(prefix="boot-", dir=self.tools.scratch) as name:
            self.images = Images(self.guest, Path(name), self.hardware.architecture)
            esp = self.esp or system_directory(self.guest)
            self.search = Search(self.guest, esp, self.images)
            default = boot_default(self.guest, esp, self.images)
            warnings = list(default.warnings)
            kernel = self.search.kernel(default, warnings)
            unchecked = [
                out.with_name(f".{out.name}.unchecked") for out in (kernel_out, ramdisk_out)
            ]
            try:
                version = self._take_kernel(kernel, unchecked[0])
                modules = self._modules(version)
                ramdisk, content = self._take_ramdisk(kernel, version, modules, unchecked[1])
                drivers = self._check(content, version, modules, ramdisk, warnings)
                finish(unchecked[0], kernel_out)
                finish(unchecked[1], ramdisk_out)
            finally:
                for file in unchecked:
                    file.unlink(missing_ok=True)
        return BootFiles(version, kernel.path, ramdisk, kernel.because, tuple(warnings), drivers)

    def _take_kernel(self, kernel: FoundKernel, out: Path) -> str:
        """Copy it out, and its version by its own header."""
        if kernel.in_image:
            image = self.images.get(kernel.path)
            assert image is not None
            _check_size(kernel.path, image.sections[".linux"][1], _MAX_KERNEL)
            image.carve(".linux", out)
        else:
            self._download(kernel.path, out, _MAX_KERNEL)
        found = read_kernel(out, self.tools, name=kernel.path)
        self._check_architecture(kernel.path, found)
        version = found.release or kernel.version or kernel.hint
        if kernel.version and version != kernel.version:
            raise unpaired(kernel.path, f"the kernel says that it is {shown(version)}")
        return version

    def _check_architecture(self, path: str, kernel: KernelFile) -> None:
        wanted = self.hardware.architecture
        if kernel.architecture != wanted:
            raise GuestError(
                "use the kernel",
                shown(path),
                why=f"it is for {kernel.architecture} ({kernel.form}), and the recipe is for "
                f"{wanted}",
                next_step=f'Write architecture = "{kernel.architecture}" in the recipe, or give a '
                f"disk of {wanted}",
            )

    # The ramdisk

    def _take_ramdisk(
        self, kernel: FoundKernel, version: str, modules: str, out: Path
    ) -> tuple[str, Ramdisk]:
        """Copy out what belongs to the kernel: its path or paths, and what it holds."""
        paths = kernel.ramdisks or tuple(self.search.ramdisk(kernel, version, modules))
        if not paths:
            raise self.search.no_ramdisk(kernel, modules)
        for path in paths:
            other = re.search(r"\d+\.\d+[\w.+~-]*", base(path))
            if other and version not in base(path) and not kernel.in_image:
                raise unpaired(path, f"it is not named for the kernel's version {version}")
        if len(paths) == 1:
            self._fetch(paths[0], out)
            return paths[0], scan(out, self.tools, paths[0])
        return self._joined(paths, out)

    def _joined(self, paths: Sequence[str], out: Path) -> tuple[str, Ramdisk]:
        """Several ramdisks as a boot loader loads them, one behind the other.

        Microcode is left out: a virtual machine's host has it.
        """
        parts: list[str] = []
        part = out.with_name(f"{out.name}.part")
        try:
            with out.open("wb") as whole:
                for path in paths:
                    self._fetch(path, part)
                    if not part.stat().st_size or scan(part, self.tools, path).is_early:
                        continue
                    whole.write(bytes(-whole.tell() % _ALIGNED))
                    with part.open("rb") as file:
                        while data := file.read(_MAX_LIST):
                            whole.write(data)
                    parts.append(path)
                    _check_size(path, whole.tell(), _MAX_RAMDISK)
        finally:
            part.unlink(missing_ok=True)
        return ", ".join(parts), scan(out, self.tools, ", ".join(parts))

    def _fetch(self, path: str, out: Path) -> None:
        """Copy a ramdisk out: a file, or a section of an image."""
        image = self.images.get(path) if path.lower().endswith((".efi", ".uki")) else None
        if image is None:
            self._download(path, out, _MAX_RAMDISK)
        elif ".initrd" in image.sections:
            _check_size(path, image.sections[".initrd"][1], _MAX_RAMDISK)
            image.carve(".initrd", out)
        else:
            raise GuestError(
                "take the ramdisk out of",
                shown(path),
                why="the image has none",
                next_step="Make it again with one (ukify --initrd), or install a kernel in /boot",
            )

    def _download(self, path: str, out: Path, limit: int) -> None:
        """Copy a file that is small enough to be what it should be: a hole of a TiB is no cost."""
        status = self.guest.stat(path)
        if status is not None:
            _check_size(path, status.size, limit)
        self.guest.download(path, out)

    # The pair

    def _modules(self, version: str) -> str:
        if "/" not in version and version not in ("", ".", ".."):
            for directory in MODULES:
                status = self.guest.stat(f"{directory}/{version}")
                if status is not None and status.kind == "directory":
                    return f"{directory}/{version}"
        there = {name for d in MODULES if self.guest.exists(d) for name in self.guest.names(d)}
        raise unpaired(
            f"/lib/modules/{shown(version)}",
            f"it is not there, only {shown(', '.join(sorted(there)[:10])) or 'nothing'}",
        )

    def _check(
        self, content: Ramdisk, version: str, modules: str, ramdisk: str, warnings: list[str]
    ) -> tuple[str, ...] | None:
        """Whether the pair could boot on the hardware that is asked for; what it can drive."""
        builtin = self._builtin(modules, version)
        if builtin is None and version in content.builtin:
            builtin = builtin_modules(content.builtin[version])
        filesystem = self.guest.facts.filesystem
        problem, found = judge(content, builtin, version, filesystem, self.hardware)
        names = lacking(content, builtin, version, filesystem, self.hardware)
        tool = ramdisk_tool(self.guest, content, ramdisk)
        step = remedy(tool, names or ["virtio_blk", "virtio_pci"], ramdisk, version)
        if problem:
            raise GuestError("use the ramdisk", shown(ramdisk), why=problem, next_step=step)
        warnings += found
        listing = f"{modules}/modules.dep"
        installed: frozenset[str] | None = None
        if builtin is not None and is_file(self.guest, listing):
            text = self.guest.read(listing, _MAX_LIST).decode(errors="replace")
            installed = module_names(text) | builtin
        warnings += network_warnings(self.hardware, installed)
        warnings += machine_warnings(self.hardware, version)
        if builtin is None or installed is None:
            return None
        carried = content.modules.get(version, set()) | builtin
        if self.whole_disk:
            step = remedy(tool, ["nvme"], ramdisk, version)
            warnings += ec2_warnings(carried, installed, step)
        return tuple(sorted((carried & DISKS) | (installed & NETWORKS)))

    def _builtin(self, modules: str, version: str) -> frozenset[str] | None:
        """Names of modules that are part of the kernel; None if the guest does not say."""
        listing = f"{modules}/modules.builtin"
        if is_file(self.guest, listing):
            return builtin_modules(self.guest.read(listing, _MAX_LIST).decode(errors="replace"))
        information = f"{modules}/modules.builtin.modinfo"
        if is_file(self.guest, information):
            return modinfo_names(self.guest.read(information, _MAX_LIST))
        for config in (f"/boot/config-{version}", f"{modules}/config"):
            if is_file(self.guest, config):
                return options_set(self.guest.read(config, _MAX_LIST).decode(errors="replace"))
        return None


def _check_size(path: str, size: int, limit: int) -> None:
    if size > limit:
        raise GuestError(
            "take out the guest's",
            shown(path),
            why=f"it has {size >> 20} MiB and at most {limit >> 20} are expected",
            next_step="Look at what the installer wrote there",
        )
