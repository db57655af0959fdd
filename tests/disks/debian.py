"""Real Debian roots, made once by mmdebstrap and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.settings import cache_dir
from tests.disks.tools import run

_PACKAGES = (
    "systemd-sysv",
    "udev",
    "kmod",
    "linux-image-cloud-amd64",
    "openssh-server",
    "lvm2",
    "iproute2",
    "netbase",
    "dbus",  # systemd-logind, which answers the power button, does not run without it
)
_OPTIONS = (
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    '--aptopt=Acquire::Languages "none"',
    # A mirror may keep the list of a suite in the making for longer than that list is valid.
    '--aptopt=Acquire::Check-Valid-Until "false"',
)


@dataclass(frozen=True)
class Flavour:
    """What a Debian root is made of: its release, what makes its ramdisk, what its network."""

    suite: Literal["bookworm", "trixie", "forky", "sid"]
    ramdisk: Literal["initramfs-tools", "dracut"]
    network: Literal["ifupdown", "systemd-networkd"]

    def __str__(self) -> str:
        return f"{self.suite}-{self.ramdisk}-{self.network}"

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages asked for."""
        client = "isc-dhcp-client" if self.suite == "bookworm" else "dhcpcd-base"
        network = ("ifupdown", client) if self.network == "ifupdown" else ()
        return (*_PACKAGES, self.ramdisk, *network)


BOOKWORM = Flavour("bookworm", "initramfs-tools", "ifupdown")
TRIXIE = Flavour("trixie", "initramfs-tools", "ifupdown")


def debian_root_tarball(flavour: Flavour = BOOKWORM) -> Path:
    """A tarball of Debian with systemd, kernel, ramdisk and an SSH server (325 MB).

    The first call takes a minute or two and needs a Debian mirror; later ones take none of both.
    """
    key = hashlib.sha256(repr((flavour.packages, _OPTIONS)).encode()).hexdigest()[:12]
    directory = cache_dir() / "tests"
    directory.mkdir(parents=True, exist_ok=True)
    tarball = directory / f"debian-{flavour}-{key}.tar"
    with (directory / f"debian-{flavour}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tarball.exists():
            partial = tarball.with_suffix(f".{os.getpid()}.partial")
            try:
                run(
                    "mmdebstrap",
                    "--mode=root",
                    "--format=tar",
                    *_OPTIONS,
                    f"--include={','.join(flavour.packages)}",
                    flavour.suite,
                    partial,
                )
                partial.replace(tarball)
            finally:
                partial.unlink(missing_ok=True)
    return tarball
