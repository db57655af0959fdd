"""A small installed system as a tree, and file systems and disks of some MiB that hold it."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.fixtures.disks import Entry, listing
from tests.fixtures.disks.tools import run
from tests.fixtures.disks.writers import write_mbr
from tests.robustness.fuzz.fuzz_guest import SEEDS, put
from tests.robustness.fuzz.seeds import FileDisk

MIB = 1 << 20
START = MIB
EXT_MIB, XFS_MIB = 96, 320  # mkfs.xfs makes none below 300 MiB


@cache
def tree() -> tuple[Path, Mapping[str, Entry]]:
    """A directory with a small Debian's settings, two kernels, and files of several shapes."""
    top = Path(mkdtemp(prefix="compatibility-tree-"))
    for entry, content in SEEDS["debian"].items():
        put(top, entry, content)
    for modules in (top / "usr/lib/modules").glob("*/modules.builtin"):
        modules.write_text("kernel/fs/ext4/ext4.ko\nkernel/fs/xfs/xfs.ko\n")
    (top / "srv").mkdir()
    for size in (0, 1, 59, 60, 1023, 70_000, 3_000_000):
        (top / f"srv/file-{size}").write_bytes(bytes(number % 251 for number in range(size)))
    with (top / "srv/sparse").open("wb") as file:
        for number in range(40):  # more extents than an inode holds
            file.seek(number * 50_000)
            file.write(bytes([number + 1]) * 100)
    (top / "srv/crowd").mkdir()
    for number in range(300):
        (top / f"srv/crowd/file-with-a-name-{number:04}").touch()
    (top / "srv/long").symlink_to("./" * 100 + "file-60")
    return top, listing(top)


def forget_tree() -> None:
    """Remove the directory of `tree`."""
    if tree.cache_info().currsize:
        shutil.rmtree(tree()[0])
        tree.cache_clear()


def ext(image: Path, command: str, mib: int = EXT_MIB) -> Path:
    """An ext file system with the tree, by a command of mke2fs."""
    sized(image, mib)
    run(*command.split(), "-d", tree()[0], image)
    return image


def xfs(image: Path, command: str) -> Path:
    """An XFS with the tree, by a command of mkfs.xfs and a prototype file."""
    sized(image, XFS_MIB)
    prototype = image.with_suffix(".proto")
    prototype.write_text("/\n0 0\nd--755 0 0\n" + _prototype(tree()[0]) + "$\n")
    run(*command.split(), "-p", prototype, image)
    return image


def _prototype(directory: Path) -> str:
    """The lines of mkfs.xfs -p for what is in a directory."""
    text = ""
    for path in sorted(directory.iterdir()):
        status = path.lstat()
        mode = f"{stat.S_IMODE(status.st_mode):03o} 0 0"
        if stat.S_ISLNK(status.st_mode):
            text += f"{path.name} l--777 0 0 {path.readlink()}\n"
        elif stat.S_ISDIR(status.st_mode):
            text += f"{path.name} d--{mode}\n{_prototype(path)}$\n"
        else:
            text += f"{path.name} ---{mode} {path}\n"
    return text


def on_partition(image: Path, disk: Path) -> Path:
    """A disk whose one MBR partition holds an image."""
    size = image.stat().st_size
    made = FileDisk(disk, START + size + MIB)
    write_mbr(made, [(0x83, START // 512, size // 512)])
    place(image, disk, START)
    return disk


def place(image: Path, disk: Path, offset: int, skip: int = 0, count: int = 0) -> None:
    """Write `count` bytes of an image from `skip` on (all of it: 0) into a disk, holes as holes."""
    length = count or image.stat().st_size - skip
    run(
        "dd", f"if={image}", f"of={disk}", "bs=1M", f"skip={skip}B", f"seek={offset}B",
        f"count={length}B", "conv=sparse,notrunc", "status=none",
    )  # fmt: skip


def sized(path: Path, mib: int) -> Path:
    """A new file of zeros."""
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    return path


def patch(path: Path, changes: Sequence[tuple[int, bytes]]) -> Path:
    """Write bytes at offsets of a file."""
    with path.open("r+b") as file:
        for offset, data in changes:
            file.seek(offset)
            file.write(data)
    return path
