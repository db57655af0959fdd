"""Which Debian package brings a program, and what to say when it is missing."""

from __future__ import annotations

import os
import shutil

from pipeline.core.errors import HostError

_PACKAGES = {  # program -> Debian package, for the next step of "not found"
    "blkid": "util-linux",
    "busybox": "busybox-static",
    "curl": "curl",
    "debugfs": "e2fsprogs",
    "dropbear": "dropbear-bin",
    "dropbearkey": "dropbear-bin",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "grub-mkimage": "grub-common",
    "guestfish": "libguestfs-tools",
    "libvirtd": "libvirt-daemon",
    "lvm": "lvm2",
    "lz4": "lz4",
    "mcopy": "mtools",
    "mformat": "mtools",
    "mke2fs": "e2fsprogs",
    "mkswap": "util-linux",
    "mmd": "mtools",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "resize2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "sfdisk": "fdisk",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ssh-keyscan": "openssh-client",
    "supermin": "supermin",
    "tune2fs": "e2fsprogs",
    "virsh": "libvirt-clients",
    "virt-install": "virtinst",
    "xfs_admin": "xfsprogs",
    "xfs_repair": "xfsprogs",
    "zstd": "zstd",
}


def require(program: str, path: str | None = None) -> None:
    """HostError that names the package unless `program` can be run."""
    if shutil.which(program, path=path or f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        package = _PACKAGES.get(program)
        raise HostError(
            "run",
            program,
            why="the program is not installed",
            next_step=f"Install it: apt-get install {package}" if package else "Install it",
        )
