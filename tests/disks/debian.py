"""Real Debian roots, made once by mmdebstrap and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from pipeline.settings import cache_dir
from tests.disks.tools import run

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv",
    "udev",
    "kmod",
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "openssh-server",
    "lvm2",
    "ifupdown",
    "isc-dhcp-client",
    "iproute2",
    "netbase",
)
_OPTIONS = (
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    '--aptopt=Acquire::Languages "none"',
)


def debian_root_tarball(suite: str = SUITE) -> Path:
    """A tarball of Debian with systemd, kernel, initramfs and an SSH server (325 MB).

    The first call takes a minute or two and needs a Debian mirror; later ones take none of both.
    """
    key = hashlib.sha256(repr((suite, PACKAGES, _OPTIONS)).encode()).hexdigest()[:12]
    directory = cache_dir() / "tests"
    directory.mkdir(parents=True, exist_ok=True)
    tarball = directory / f"debian-{suite}-{key}.tar"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tarball.exists():
            partial = tarball.with_suffix(f".{os.getpid()}.partial")
            try:
                run(
                    "mmdebstrap",
                    "--mode=root",
                    "--format=tar",
                    *_OPTIONS,
                    f"--include={','.join(PACKAGES)}",
                    suite,
                    partial,
                )
                partial.replace(tarball)
            finally:
                partial.unlink(missing_ok=True)
    return tarball
