"""A triple from a real Debian root: systemd, initramfs-tools, OpenSSH, the shipped key script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pipeline.settings import PROJECT
from tests.disks import debian_root_tarball
from tests.disks.debian import SUITE
from tests.triples import Files, debian_files, root_image

_MIB = 1024
_TEMPLATES = PROJECT / "templates"


def debian_triple(directory: Path, suite: str = SUITE) -> Files:
    """Unpack the root, do what customising does to it, and make the three files."""
    root = debian_root(directory / "root", suite)
    kernel = next((root / "boot").glob("vmlinuz-*"))
    ramdisk = next((root / "boot").glob("initrd.img-*"))
    files = Files(
        root_image(root, directory / "root.img", mib=_MIB),
        Path(shutil.copy(kernel, directory / "vmlinuz")),
        Path(shutil.copy(ramdisk, directory / "initrd")),
    )
    shutil.rmtree(root)
    return files


def debian_root(root: Path, suite: str = SUITE) -> Path:
    """The root directory, made cloud-ready by hand: this is not customize.py's test."""
    root.mkdir(parents=True)
    subprocess.run(
        ["tar", "-C", root, "--numeric-owner", "--xattrs", "-xpf", debian_root_tarball(suite)],
        check=True,
        capture_output=True,
    )
    (root / "etc/fstab").write_text("LABEL=uec-rootfs / ext4 defaults 0 0\n")
    (root / "etc/hostname").write_text("debian\n")
    (root / "etc/machine-id").write_text("")
    shutil.copy(_TEMPLATES / "network/interfaces", root / "etc/network/interfaces")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    # Debian's sshd makes no keys by itself, unlike Fedora's.
    add_unit(root, "ssh-host-keys.service", (_TEMPLATES / "ssh-host-keys.service").read_text())
    _answer_the_power_button(root)
    shutil.copy(_TEMPLATES / "rc.local", root / "etc/rc.local")
    (root / "etc/rc.local").chmod(0o755)
    return root


def _answer_the_power_button(root: Path) -> None:
    # This minimal root has no dbus, so systemd-logind, which would do it, does not run.
    shutil.copytree(debian_files("acpid"), root, symlinks=True, dirs_exist_ok=True)
    (root / "etc/acpi/events").mkdir(parents=True, exist_ok=True)
    (root / "etc/acpi/events/power").write_text("event=button/power.*\naction=/sbin/poweroff\n")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    (wants / "acpid.service").symlink_to("/lib/systemd/system/acpid.service")


def add_unit(root: Path, name: str, text: str) -> None:
    """Install and enable a systemd unit."""
    (root / "etc/systemd/system" / name).write_text(text)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / name).symlink_to(f"/etc/systemd/system/{name}")
