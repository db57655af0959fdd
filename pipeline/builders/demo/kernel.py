"""The host's kernel and the modules a guest needs of it."""

from __future__ import annotations

import lzma
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.builders.demo.archive import FileTree
from pipeline.core.errors import HostError

MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "virtio_net",
    "virtio_console",
    "virtio_balloon",
    "virtio_rng",
    "dm_mod",
    "ext4",
    "xfs",
    "crc32c_generic",
    "button",
    "evdev",
    "pvpanic_pci",
)
"""Modules wanted in the installer, the ramdisk and the root; one that is built in is no module."""
_NEEDED = ("virtio_pci", "virtio_blk", "virtio_net", "dm_mod", "ext4")
_COPIED = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


@dataclass(frozen=True)
class HostKernel:
    """A kernel of the host. modules: paths below /lib/modules/VERSION, dependencies first."""

    version: str
    image: Path
    directory: Path
    modules: tuple[str, ...]

    def inputs(self) -> tuple[Path, ...]:
        """Every file of the host that goes into a tree."""
        index = [self.directory / name for name in (*_COPIED, "modules.dep", "modules.alias")]
        return (
            self.image,
            *(path for path in index if path.is_file()),
            *(self.directory / module for module in self.modules),
        )

    def add_modules(self, tree: FileTree) -> None:
        """Put the modules with their index, for busybox's modprobe, below lib/modules/VERSION.

        Modules are stored uncompressed, as a boot loader's ramdisk compresses the whole.
        """
        place = f"lib/modules/{self.version}"
        plain = {module: re.sub(r"\.xz$", "", module) for module in self.modules}
        for module, name in plain.items():
            file = self.directory / module
            tree.put(
                f"{place}/{name}", lzma.decompress(file.read_bytes()) if name != module else file
            )
        dependencies = parse_dependencies((self.directory / "modules.dep").read_text())
        lines = [
            f"{plain[module]}: {' '.join(plain[d] for d in dependencies[module])}".rstrip()
            for module in self.modules
        ]
        tree.put(f"{place}/modules.dep", ("\n".join(lines) + "\n").encode())
        names = {module_name(module) for module in self.modules}
        alias = (self.directory / "modules.alias").read_text().splitlines()
        kept = [line for line in alias if line.rpartition(" ")[2] in names]
        tree.put(f"{place}/modules.alias", ("\n".join(kept) + "\n").encode())
        for name in _COPIED:
            if (self.directory / name).is_file():
                tree.put(f"{place}/{name}", self.directory / name)


def host_kernel(boot: Path = Path("/boot"), modules: Path = Path("/lib/modules")) -> HostKernel:
    """The newest kernel that can be read and has its modules; HostError when there is none."""
    unreadable: list[Path] = []
    for image in sorted(boot.glob("vmlinuz-*"), key=lambda p: version_key(p.name), reverse=True):
        version = image.name.removeprefix("vmlinuz-")
        directory = modules / version
        if not (directory / "modules.dep").is_file():
            continue
        if not os.access(image, os.R_OK):
            unreadable.append(image)
            continue
        dependencies = parse_dependencies((directory / "modules.dep").read_text())
        builtin = {module_name(m) for m in (directory / "modules.builtin").read_text().split()}
        known = {module_name(module) for module in dependencies}
        if missing := [m for m in _NEEDED if m not in known | builtin]:
            raise HostError(
                "make a demo install tree from the kernel",
                image,
                why=f"it has no module {', '.join(missing)}",
                next_step="Install one that has: apt-get install linux-image-cloud-amd64",
            )
        return HostKernel(version, image, directory, closure(MODULES, dependencies))
    raise HostError(
        "make a demo install tree",
        why=f"{unreadable[0]} cannot be read by this user"
        if unreadable
        else f"there is no kernel with its modules in {boot} and {modules}",
        next_step=f"Make it readable: chmod a+r {unreadable[0]}"
        if unreadable
        else "Install one: apt-get install linux-image-cloud-amd64",
    )


def version_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Orders kernel file names by version: numbers as numbers, so that 6.10 follows 6.9."""
    return tuple(
        (1, int(part)) if part.isdigit() else (0, part) for part in re.findall(r"\d+|\D+", name)
    )


def module_name(path: str) -> str:
    """A module's name from its path: no directory, no suffix, dashes as underscores."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def parse_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """modules.dep(5): each module's path with the paths of all it needs, nearest first."""
    table = {}
    for line in text.splitlines():
        module, _, needed = line.partition(":")
        table[module.strip()] = tuple(needed.split())
    return table


def closure(names: Iterable[str], dependencies: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Paths of the named modules and of what they need, each after its own dependencies.

    Names without a module are left out: built in, or not made for this kernel.
    """
    paths = {module_name(module): module for module in dependencies}
    chosen: dict[str, None] = {}
    for name in names:
        if name in paths:
            # modules.dep lists every dependency, the deepest last.
            for module in (*reversed(dependencies[paths[name]]), paths[name]):
                chosen.setdefault(module)
    return tuple(chosen)
