"""What the installer, the installed root and its ramdisk consist of."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pipeline.builders.demo.archive import FileTree, write_cpio, write_tar
from pipeline.builders.demo.elf import libraries, linkage
from pipeline.builders.demo.kernel import HostKernel, host_kernel
from pipeline.core.errors import HostError
from pipeline.host.context import Tools
from pipeline.host.requirements import Requirement, declare, require

REQUIRES = declare(
    Requirement(
        "demo",
        "the embedded demo's install tree, made of this host's programs",
        programs={
            "busybox": "busybox-static",
            "dropbear": "dropbear-bin",
            "lvm": "lvm2",
            "sfdisk": "fdisk",
        },
        packages=("cpio", "curl", "xz-utils", "zstd"),
        needed=False,
        unchecked={"dropbearkey": "dropbear-bin", "curl": "curl", "zstd": "zstd"},
    )
)

_SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
_BUSYBOX = "busybox"
_INSTALLER_PROGRAMS = {
    "lvm": "sbin/lvm",
    "mke2fs": "sbin/mke2fs",
    "mkswap": "sbin/mkswap",
    "sfdisk": "sbin/sfdisk",
}
_RAMDISK_PROGRAMS = {"lvm": "sbin/lvm"}
_ROOT_PROGRAMS = {
    "dropbear": "usr/sbin/dropbear",
    "dropbearkey": "usr/bin/dropbearkey",
    "curl": "usr/bin/curl",
}
_MKE2FS_CONF = Path("/etc/mke2fs.conf")
_TIMEOUT = 60.0  # seconds for busybox to print its applets, on a very busy host
# Applets that would make an inspector take the root for a Debian or an RPM system.
_UNWANTED_APPLETS = frozenset({"dpkg", "dpkg-deb", "rpm", "rpm2cpio"})
_ROOT_DIRECTORIES = {
    "boot/grub": 0o755,
    "etc/ssh": 0o755,
    "home": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr/local/bin": 0o755,
    "var/lock/subsys": 0o755,
    "var/log/anaconda": 0o755,
    "var/tmp": 0o1777,
}


@dataclass(frozen=True)
class Host:
    """The host's files a tree is made from. programs: name to path."""

    kernel: HostKernel
    programs: dict[str, Path]
    libraries: dict[str, Path]
    loaders: frozenset[str]

    def inputs(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return (
            *self.kernel.inputs(),
            *self.programs.values(),
            *self.libraries.values(),
            *(Path(loader) for loader in sorted(self.loaders)),
            _MKE2FS_CONF,
        )


def host_files() -> Host:
    """Find everything; HostError names what the host lacks."""
    names = {_BUSYBOX, *_INSTALLER_PROGRAMS, *_RAMDISK_PROGRAMS, *_ROOT_PROGRAMS}
    programs = {}
    for name in sorted(names):
        require(name, _SEARCH)
        programs[name] = Path(shutil.which(name, path=_SEARCH) or name)
    if linkage(programs[_BUSYBOX].read_bytes()).interpreter:
        raise HostError(
            "make a demo install tree with",
            programs[_BUSYBOX],
            why="it is not linked statically",
            next_step="Install the one that is: apt-get install busybox-static",
        )
    found, loaders = libraries(programs.values())
    return Host(host_kernel(), programs, found, loaders)


def installer_files(host: Host, templates: Path, tools: Tools) -> FileTree:
    """The installer's initrd, which carries the payload as one tar archive."""
    applets = _applets(host, tools)
    tree = _base(host, applets, _INSTALLER_PROGRAMS)
    tree.copy(templates / "installer")
    script = "usr/share/udhcpc/default.script"
    tree.put(script, templates / "root" / script, 0o755)
    tree.put("etc/lvm/lvm.conf", templates / "lvm.conf")
    tree.put("etc/mke2fs.conf", _MKE2FS_CONF)
    host.kernel.add_modules(tree)
    payload = tools.scratch / "standin-payload.tar"
    with payload.open("wb") as stream:
        write_tar(_root_files(host, templates, applets), stream)
    tree.put("payload.tar", payload)
    tree.put("payload.kernel", f"{host.kernel.version}\n".encode())
    return tree


def _root_files(host: Host, templates: Path, applets: Iterable[str]) -> FileTree:
    """The installed system: busybox, dropbear and curl in Fedora's layout."""
    version = host.kernel.version
    wanted = [a for a in applets if Path(a).name not in _UNWANTED_APPLETS]
    tree = _base(host, wanted, _ROOT_PROGRAMS)
    for name, mode in _ROOT_DIRECTORIES.items():
        tree.directory(name, mode)
    tree.copy(templates / "root")
    tree.put("etc/shadow", (templates / "root/etc/shadow").read_bytes(), 0o600)
    tree.link("etc/rc.local", "rc.d/rc.local")
    tree.link("etc/rc.d/rc3.d/S99local", "../rc.local")
    tree.link("etc/mtab", "/proc/mounts")
    tree.link("var/run", "/run")
    host.kernel.add_modules(tree)
    tree.put(f"boot/vmlinuz-{version}", host.kernel.image, 0o755)
    tree.put(f"boot/initramfs-{version}.img", ramdisk(host, templates, applets), 0o600)
    return tree


def ramdisk(host: Host, templates: Path, applets: Iterable[str]) -> bytes:
    """The installed system's ramdisk: finds the root by label, UUID or volume and enters it."""
    tree = _base(host, applets, _RAMDISK_PROGRAMS)
    tree.copy(templates / "ramdisk")
    tree.put("etc/lvm/lvm.conf", templates / "lvm.conf")
    host.kernel.add_modules(tree)
    plain = BytesIO()
    write_cpio(tree, plain)
    # Level 6 is gzip's own default; a time of zero keeps the bytes the same.
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)


def _base(host: Host, applets: Iterable[str], programs: dict[str, str]) -> FileTree:
    """Busybox with its applets, programs with their libraries, and mount points."""
    tree = FileTree()
    for name in ("bin", "dev", "etc", "mnt", "proc", "run", "sbin", "sys", "tmp", "usr"):
        tree.directory(name)
    tree.character_device("dev/console", 5, 1)
    tree.character_device("dev/null", 1, 3, 0o666)
    for applet in applets:
        tree.link(applet, "/bin/busybox")
    tree.put("bin/busybox", host.programs[_BUSYBOX], 0o755)
    for name, place in programs.items():
        tree.put(place, host.programs[name], 0o755)
    found, loaders = libraries(host.programs[name] for name in programs)
    for library in found.values():
        tree.put(str(library).lstrip("/"), library, 0o755)
    for loader in loaders:
        tree.put(loader.lstrip("/"), Path(loader), 0o755)
    return tree


def _applets(host: Host, tools: Tools) -> list[str]:
    """Where busybox's applets belong, such as bin/sh."""
    listed = tools.run.run([host.programs[_BUSYBOX], "--list-full"], timeout=_TIMEOUT)
    return sorted(set(listed.text.split()) - {"bin/busybox"})
