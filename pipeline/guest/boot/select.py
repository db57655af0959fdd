"""Take the kernel and the ramdisk that the guest would boot by default, and check the pair."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import GuestError
from pipeline.guest.access.paths import base, parent, shown
from pipeline.guest.access.protocol import Guest
from pipeline.guest.boot.kernel_image import kernel_release
from pipeline.guest.boot.kernel_names import (
    Choice,
    choose_kernel,
    is_unfit,
    kernel_version,
    ramdisk_names,
)
from pipeline.guest.boot.loader_config import (
    Entry,
    candidates,
    extlinux_default,
    grub2_default,
    legacy_default,
    loader_default,
)
from pipeline.guest.boot.ramdisk import Ramdisk, scan
from pipeline.host.context import Tools
from pipeline.host.files import finish

_MAX_CONFIG = 1 << 20
_MAX_LIST = 8 << 20  # modules.builtin and a kernel's config have some 300 KB
_MAX_ENTRIES = 200
_MAX_KERNEL = 256 << 20  # distributions' have 5 to 15 MB, with all drivers built in 50
_MAX_RAMDISK = 1 << 30  # with every module and firmware some 200 MB; a guest must hold it in memory
_GRUB2 = ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg")
_ENVIRONMENTS = ("/boot/grub2/grubenv", "/boot/grub/grubenv")
_LEGACY = ("/boot/grub/grub.conf", "/boot/grub/menu.lst", "/etc/grub.conf")
_EXTLINUX = ("/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg")
_ENTRIES = "/boot/loader/entries"
_MODULES = ("/lib/modules", "/usr/lib/modules")
_DISK = ("virtio_blk", "virtio_pci")
# Which modules can mount a root of that type; one is enough.
_FILESYSTEMS = {
    "ext2": ("ext4", "ext2"),
    "ext3": ("ext4", "ext3"),
    "ext4": ("ext4",),
    "xfs": ("xfs",),
}
_OPTIONS = {  # for kernels that come without modules.builtin
    "virtio_blk": "CONFIG_VIRTIO_BLK",
    "virtio_pci": "CONFIG_VIRTIO_PCI",
    "ext2": "CONFIG_EXT2_FS",
    "ext3": "CONFIG_EXT3_FS",
    "ext4": "CONFIG_EXT4_FS",
    "xfs": "CONFIG_XFS_FS",
}


@dataclass(frozen=True)
class BootFiles:
    """The pair that was copied out. kernel, ramdisk: guest paths, links resolved."""

    kernel_version: str
    kernel: str
    ramdisk: str
    chosen_because: str
    warnings: tuple[str, ...]


def collect(guest: Guest, kernel_out: Path, ramdisk_out: Path, tools: Tools) -> BootFiles:
    """Copy the default kernel and its ramdisk to the two host files, whole or not at all.

    GuestError when kernel, ramdisk and /lib/modules/VERSION do not pair, or when the pair could
    not boot as a virtual machine.
    """
    warnings: list[str] = []
    entry, source = default_entry(guest)
    kernel, choice = _kernel(guest, entry, source, warnings)
    unchecked = [out.with_name(f".{out.name}.unchecked") for out in (kernel_out, ramdisk_out)]
    try:
        _download(guest, kernel, unchecked[0], _MAX_KERNEL)
        version = kernel_release(unchecked[0]) or choice.version
        if choice.version and version != choice.version:
            raise _unpaired(kernel, f"the kernel says that it is {shown(version)}")
        modules = _modules(guest, version)
        ramdisk = _ramdisk(guest, version, entry, kernel)
        _download(guest, ramdisk, unchecked[1], _MAX_RAMDISK)
        content = scan(unchecked[1], tools)
        builtin = _builtin(guest, modules, version)
        problem, found = judge(content, builtin, version, guest.facts.filesystem)
        warnings += found
        if problem:
            raise GuestError(
                "use the ramdisk", ramdisk, why=problem, next_step=_remedy(guest, ramdisk, version)
            )
        finish(unchecked[0], kernel_out)
        finish(unchecked[1], ramdisk_out)
    finally:
        for file in unchecked:
            file.unlink(missing_ok=True)
    return BootFiles(version, kernel, ramdisk, choice.because, tuple(warnings))


def _download(guest: Guest, path: str, out: Path, limit: int) -> None:
    """Copy a file that is small enough to be what it should be: a hole of a TiB costs no space."""
    status = guest.stat(path)
    if status is not None and status.size > limit:
        raise GuestError(
            "take out the guest's",
            shown(path),
            why=f"it has {status.size >> 20} MiB and at most {limit >> 20} are expected",
            next_step="Look at what the installer wrote there",
        )
    guest.download(path, out)


def default_entry(guest: Guest) -> tuple[Entry | None, str]:
    """What the boot loader would boot, and the file that says so; (None, "") if none does."""
    environment = next(iter(_texts(guest, _ENVIRONMENTS).values()), "")
    entries = _loader_entries(guest)
    found: list[tuple[Entry | None, str]] = [
        (grub2_default(text, environment, entries), path)
        for path, text in _texts(guest, _GRUB2).items()
    ]
    found.append((loader_default(entries, environment), _ENTRIES))
    found += [(legacy_default(text), path) for path, text in _texts(guest, _LEGACY).items()]
    found += [
        (extlinux_default(text, parent(path)), path)
        for path, text in _texts(guest, _EXTLINUX).items()
    ]
    return next(((entry, path) for entry, path in found if entry is not None), (None, ""))


def judge(
    content: Ramdisk, builtin: frozenset[str] | None, version: str, filesystem: str
) -> tuple[str, list[str]]:
    """(why the pair cannot boot as a virtual machine, or "", and warnings).

    builtin: modules that are part of the kernel; None when the guest does not say.
    """
    warnings: list[str] = []
    for name, text in sorted(content.files.items()):
        if re.search(r"rd[._](?:lvm|LVM)|RESUME=(?!none)\S|\bresume=", text):
            warnings.append(
                f"the ramdisk's {shown(name)} waits for volumes that the image does not have "
                f"({shown(' '.join(text.split())[:200])}): make it again in the kickstart's %post "
                "without them, or boot with noresume and rd.lvm=0"
            )
    others = sorted(set(content.modules) - {version})
    if others and version not in content.modules:
        return f"its modules are of {', '.join(map(shown, others))}, not of {version}", warnings
    carried = content.modules.get(version, set()) | (builtin or frozenset())
    fit = _FILESYSTEMS.get(filesystem, (filesystem,))
    missing = [name for name in _DISK if name not in carried]
    if not carried.intersection(fit):
        missing.append(fit[0])
    if missing and builtin is None:
        warnings.append(
            f"the ramdisk carries no {', '.join(missing)}, and the guest does not say what is "
            "part of its kernel: if it stops before it finds its root, add them to the ramdisk"
        )
        return "", warnings
    if missing:
        return f"it lacks {', '.join(missing)}, and so does the kernel", warnings
    return "", warnings


def _kernel(
    guest: Guest, entry: Entry | None, source: str, warnings: list[str]
) -> tuple[str, Choice]:
    """The kernel's real path and the choice that led to it."""
    if entry is not None:
        found = next((p for p in candidates(entry.kernel) if _is_file(guest, p)), None)
        if found is None:
            warnings.append(f"{source} boots {shown(entry.kernel)}, which is not there")
        elif is_unfit(entry.kernel) or is_unfit(entry.id) or is_unfit(base(guest.resolve(found))):
            warnings.append(f"{source} boots {shown(entry.kernel)}, a rescue or debugging kernel")
        else:
            real = guest.resolve(found)
            version = kernel_version(base(real)) or entry.version
            return real, Choice(base(real), version, f"the default of {source}")
    names = [n for n in guest.names("/boot") if _is_file(guest, f"/boot/{n}")]
    choice = choose_kernel(names)
    if choice is None:
        raise GuestError(
            "find a kernel in the guest's",
            "/boot",
            why=f"there is none but rescue kernels among {shown(', '.join(names[:20])) or 'no'} "
            "files",
            next_step="Install a kernel package in the kickstart, or name the boot partition",
        )
    return guest.resolve(f"/boot/{choice.name}"), choice


def _modules(guest: Guest, version: str) -> str:
    if "/" not in version and version not in ("", ".", ".."):
        for directory in _MODULES:
            status = guest.stat(f"{directory}/{version}")
            if status is not None and status.kind == "directory":
                return f"{directory}/{version}"
    there = [n for d in _MODULES if guest.exists(d) for n in guest.names(d)]
    raise _unpaired(
        f"/lib/modules/{shown(version)}",
        f"it is not there, only {shown(', '.join(sorted(set(there))[:10])) or 'nothing'}",
    )


def _ramdisk(guest: Guest, version: str, entry: Entry | None, kernel: str) -> str:
    """The ramdisk's real path: what the entry names, else what the version leads to."""
    named = []
    if entry is not None and base(kernel) == base(_real(guest, entry.kernel)):
        # Microcode comes first where there are several.
        named = [p for path in reversed(entry.ramdisks) for p in candidates(path)]
    for path in named:
        if _is_file(guest, path):
            real = guest.resolve(path)
            other = re.search(r"\d+\.\d+[\w.+~-]*", base(real))
            if other and version not in base(real):
                raise _unpaired(real, f"it is not named for the kernel's version {version}")
            return real
    for name in ramdisk_names(version):
        if _is_file(guest, f"/boot/{name}"):
            return guest.resolve(f"/boot/{name}")
    raise _unpaired(
        f"/boot/vmlinuz-{version}",
        "it has no ramdisk beside it",
        "Have the kickstart's %post make one (dracut or update-initramfs)",
    )


def _real(guest: Guest, path: str) -> str:
    found = next((p for p in candidates(path) if _is_file(guest, p)), path)
    return guest.resolve(found) if found.startswith("/") else found


def _builtin(guest: Guest, modules: str, version: str) -> frozenset[str] | None:
    """Names of modules that are part of the kernel; None if the guest does not say."""
    listing = f"{modules}/modules.builtin"
    if _is_file(guest, listing):
        return builtin_modules(guest.read(listing, _MAX_LIST).decode(errors="replace"))
    config = f"/boot/config-{version}"
    if _is_file(guest, config):
        lines = guest.read(config, _MAX_LIST).decode(errors="replace").splitlines()
        return frozenset(name for name, option in _OPTIONS.items() if f"{option}=y" in lines)
    return None


def builtin_modules(listing: str) -> frozenset[str]:
    """Names in a modules.builtin: "kernel/fs/ext4/ext4.ko" -> "ext4"."""
    names = (line.rpartition("/")[2].partition(".ko")[0] for line in listing.splitlines())
    return frozenset(name.replace("-", "_") for name in names if name)


def _remedy(guest: Guest, ramdisk: str, version: str) -> str:
    if base(ramdisk).startswith("initrd.img") or guest.exists("/etc/initramfs-tools"):
        return (
            "Add to the %post or late_command: printf 'virtio_blk\\nvirtio_pci\\n' >> "
            f"/etc/initramfs-tools/modules && update-initramfs -u -k {version}"
        )
    return (
        "Add to the kickstart's %post: dracut --force --no-hostonly --add-drivers "
        f"'virtio_blk virtio_pci' {shown(ramdisk)} {version}"
    )


def _unpaired(
    subject: str,
    why: str,
    next_step: str = "Kernel, ramdisk and /lib/modules must be of one version",
) -> GuestError:
    return GuestError("pair the guest's kernel with", shown(subject), why=why, next_step=next_step)


def _is_file(guest: Guest, path: str) -> bool:
    if not guest.exists(path):
        return False
    status = guest.stat(guest.resolve(path))
    return status is not None and status.kind == "file"


def _texts(guest: Guest, paths: tuple[str, ...]) -> Mapping[str, str]:
    return {
        path: guest.read(path, _MAX_CONFIG).decode(errors="replace")
        for path in paths
        if _is_file(guest, path)
    }


def _loader_entries(guest: Guest) -> dict[str, str]:
    if not guest.exists(_ENTRIES):
        return {}
    names = [n for n in guest.names(_ENTRIES) if n.endswith(".conf")][:_MAX_ENTRIES]
    return {
        base(path): text
        for path, text in _texts(guest, tuple(f"{_ENTRIES}/{name}" for name in names)).items()
    }
