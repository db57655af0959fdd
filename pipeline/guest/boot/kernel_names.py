"""Which kernel a guest boots, by the names in /boot: order of versions, names of ramdisks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core.versions import version_key

_KERNEL = re.compile(r"(?:vmlinuz|bzImage|Image|kernel|linux)-(?P<version>\d\S*)")
# What distributions with one kernel a flavour call it; the version is in its header alone.
_UNVERSIONED = re.compile(r"(?:vmlinuz|bzImage|Image|kernel|linux)(?:-(?P<flavour>[a-z][\w-]*))?")
_FLAVOURED_RAMDISKS = ("initramfs-{0}.img", "initramfs-{0}", "initrd-{0}", "booster-{0}.img")
_PLAIN_RAMDISKS = ("initrd.img", "initramfs.img", "initrd", "initramfs")
# Never the default of an image: rescue and crash kernels, and debugging builds, which are
# minutes slower ("+debug" is Fedora's, "-dbg" Debian's suffix).
_UNFIT = re.compile(r"rescue|kdump|fadump|[-+.]de?bu?g\b", re.IGNORECASE)
_OTHER_FILE = re.compile(r"\.(gz|old|bak|sig|sign|hmac|rpmsave|rpmnew|dpkg-\w+|img)$")
# How Fedora and its kin, Debian and its kin, and SUSE name the ramdisk of a kernel version.
_RAMDISKS = (
    "initramfs-{0}.img",
    "initrd.img-{0}",
    "initrd-{0}",
    "initrd-{0}.img",
    "initramfs-{0}",
    "initrd-{0}.gz",
    "initramfs-{0}.gz",
)


@dataclass(frozen=True)
class Choice:
    """A kernel's file name in /boot, its version, and why it was taken, for people."""

    name: str
    version: str
    because: str


def kernel_version(name: str) -> str:
    """The version in a kernel's file name; "" if it is not named like a kernel."""
    match = _KERNEL.fullmatch(name)
    return match["version"] if match and not _OTHER_FILE.search(name) else ""


def is_unfit(name: str) -> bool:
    """Whether it is a rescue, crash or debugging kernel by its name."""
    return bool(_UNFIT.search(name))


def choose_kernel(names: Iterable[str], default: str = "") -> Choice | None:
    """The default kernel if it is among `names` and fit, else the newest fit one; None of none.

    names: what is in /boot. default: the file name the boot loader's configuration leads to.
    """
    versions = {name: kernel_version(name) for name in names}
    if default in versions and not is_unfit(default):
        return Choice(default, versions[default], "the boot loader's default")
    fit = [name for name, version in versions.items() if version and not is_unfit(name)]
    if not fit:
        return None
    # The name breaks ties, so that the choice never depends on the directory's order.
    newest = max(fit, key=lambda name: (version_key(versions[name]), name))
    others = f"the newest of {len(fit)}" if len(fit) > 1 else "the only one"
    return Choice(newest, versions[newest], others)


def ramdisk_names(version: str) -> tuple[str, ...]:
    """File names the ramdisk of a kernel version may have, most usual first."""
    return tuple(name.format(version) for name in _RAMDISKS)


def unversioned_kernels(names: Iterable[str]) -> list[str]:
    """Kernels named for a flavour or for nothing ("vmlinuz-linux", "vmlinuz-lts", "vmlinuz")."""
    found = [n for n in names if _UNVERSIONED.fullmatch(n) and not is_unfit(n)]
    return sorted(n for n in found if not _OTHER_FILE.search(n))


def unversioned_ramdisks(kernel: str) -> tuple[str, ...]:
    """File names that the ramdisk of such a kernel may have, most usual first."""
    match = _UNVERSIONED.fullmatch(kernel)
    if not match:
        return ()
    if not match["flavour"]:
        return _PLAIN_RAMDISKS
    return tuple(name.format(match["flavour"]) for name in _FLAVOURED_RAMDISKS)
