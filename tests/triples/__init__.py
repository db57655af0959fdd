"""Bootable triples made from the host's own programs, whole or with one chosen defect.

The small root holds static busybox and dropbear and boots in seconds without acceleration. It is
made by mke2fs from a directory: no mount, no loop device.
"""

from __future__ import annotations

import fcntl
import gzip
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.settings import PROJECT, cache_dir

_RESOURCES = Path(__file__).parent
CLOUD_INIT_CLIENT = _RESOURCES / "cloud_init_client.py"
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "button", "evdev", "ext4")
_DIRECTORIES = (
    *("bin", "dev", "etc", "lib", "lib64", "mnt", "proc", "root", "run", "sbin", "sys", "tmp"),
    *("usr/bin", "usr/sbin", "var"),
)


@dataclass(frozen=True)
class Files:
    """The three files of a triple."""

    machine: Path
    kernel: Path
    ramdisk: Path


def host_kernel() -> tuple[Path, str]:
    """The newest cloud kernel in /boot and its version."""
    kernels = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"))
    return kernels[-1], kernels[-1].name.removeprefix("vmlinuz-")


def modules(version: str, names: Iterable[str] = _MODULES) -> list[Path]:
    """The modules' files with what they depend on, in the order insmod needs."""
    files: dict[Path, None] = {}
    for name in names:
        said = subprocess.run(
            ["/sbin/modprobe", "-S", version, "--show-depends", name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for line in said.splitlines():
            if line.startswith("insmod "):
                files[Path(line.split()[1])] = None
    return list(files)


def busybox_root(directory: Path) -> Path:
    """A root directory that mounts by fstab, gets a lease, a key, and answers SSH and ACPI."""
    for name in _DIRECTORIES:
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "root").chmod(0o700)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    for applet in _said("/bin/busybox", "--list").split():
        if applet != "busybox":
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "sbin/init").symlink_to("../bin/busybox")
    for program in ("/usr/sbin/dropbear", "/usr/bin/dropbearkey"):
        _with_libraries(Path(program), directory)
    shutil.copytree(_RESOURCES / "root", directory, dirs_exist_ok=True)
    for script in ("etc/init.d/rcS", "etc/udhcpc.script", "etc/acpi/PWRF/00000080"):
        (directory / script).chmod(0o755)
    shutil.copy(PROJECT / "templates/rc.local", directory / "etc/rc.local")
    (directory / "etc/rc.local").chmod(0o755)
    (directory / "etc/dropbear").mkdir()
    version = host_kernel()[1]
    for module in modules(version, ("button", "evdev", "virtio_net")):
        target = directory / module.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    subprocess.run(["/sbin/depmod", "-b", directory, version], check=True, capture_output=True)
    return directory


def root_image(directory: Path, image: Path, label: str = "uec-rootfs", mib: int = 48) -> Path:
    """An ext4 image of `directory`, `mib` MiB large."""
    subprocess.run(
        ["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-d", directory, image, f"{mib}M"],
        check=True,
        capture_output=True,
    )
    return image


def ramdisk(directory: Path, image: Path, leave_out: Sequence[str] = ()) -> Path:
    """A gzip-compressed initramfs of busybox and the disk and network modules."""
    for name in ("bin", "dev", "proc", "root", "sys", "lib"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    shutil.copy(_RESOURCES / "initramfs-init", directory / "init")
    (directory / "init").chmod(0o755)
    names = [m for m in ("virtio_pci", "virtio_blk", "ext4") if m not in leave_out]
    order = []
    for module in modules(host_kernel()[1], names):
        shutil.copy(module, directory / "lib" / module.name)
        order.append(module.name)
    (directory / "lib/order").write_text("".join(f"{name}\n" for name in order))
    image.write_bytes(gzip.compress(_newc(directory), 1))
    return image


def other_kernel() -> Path:
    """A kernel of another version than the host's, from Debian's archive."""
    pattern = r"^linux-image-6\.[0-9.]+(-[0-9]+|[+]deb[0-9]+)-cloud-amd64$"
    names = _said("apt-cache", "search", "--names-only", pattern).splitlines()
    packages = sorted(n.split()[0] for n in names if host_kernel()[1] not in n)
    return next(debian_files(packages[0]).glob("boot/vmlinuz-*"))


def debian_files(*packages: str) -> Path:
    """The files of Debian packages in a directory of the cache; nothing is installed."""
    cache = cache_dir() / "tests"
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / "+".join(packages)
    with (cache / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.exists():
            return directory
        with tempfile.TemporaryDirectory(dir=cache) as work:
            # As root apt would fetch as _apt, who may not write here.
            fetch = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages]
            subprocess.run(fetch, cwd=work, check=True, timeout=600)
            for package in Path(work).glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, "tree"], cwd=work, check=True)
            (Path(work) / "tree").rename(directory)
    return directory


def _said(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def busybox_triple(directory: Path) -> Files:
    """A whole triple in `directory`."""
    kernel, _ = host_kernel()
    return Files(
        root_image(busybox_root(directory / "root"), directory / "root.img"),
        kernel,
        ramdisk(directory / "initramfs", directory / "initrd"),
    )


def _with_libraries(program: Path, directory: Path) -> None:
    said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for path in [str(program), *re.findall(r"(/\S+) \(0x", said)]:
        target = directory / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _newc(directory: Path) -> bytes:
    names = [str(p.relative_to(directory)) for p in sorted(directory.rglob("*"))]
    return subprocess.run(
        ["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"],
        input="".join(f"{name}\n" for name in names).encode(),
        cwd=directory,
        check=True,
        capture_output=True,
    ).stdout
