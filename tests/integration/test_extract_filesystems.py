"""File systems of every kind: the readers against the kernel, the used blocks against dumpe2fs."""

from __future__ import annotations

import os
import random
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.convert.extract import Extraction, extract, foresee
from pipeline.convert.survey import look_into
from pipeline.core.errors import DiskError
from pipeline.core.events import QuietProgress
from pipeline.core.image import DiskImage
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.ext_usage import UsedRanges, check
from pipeline.disk.filesystems.lookup import Tree
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks import listing, mounted
from tests.fixtures.disks.tools import run

pytestmark = pytest.mark.integration

MIB = 1 << 20


def fill(folder: Path) -> None:
    """Files, folders and links of the shapes that readers treat differently, in a root."""
    for name in ("etc", "usr/bin", "boot"):
        (folder / name).mkdir(parents=True)
    (folder / "bin").symlink_to("usr/bin")
    (folder / "etc/fstab").write_text("/dev/sda1 / ext4\n")
    (folder / "boot/vmlinuz-1").write_bytes(b"kernel")
    for count in (3, 40, 300, 6000):  # in the inode, one block, several blocks, an index
        crowd = folder / f"crowd-{count}"
        crowd.mkdir()
        for number in range(count):
            (crowd / f"{number:05}-{'long' * (number % 30)}").touch()
    draw = random.Random(3)
    for size in (0, 1, 59, 60, 1023, 70_000, 3_000_000):
        (folder / f"file-{size}").write_bytes(draw.randbytes(size))
    (folder / "short").symlink_to("file-60")
    (folder / "medium").symlink_to("./" * 200 + "file-60")
    (folder / "long").symlink_to("./" * 450 + "file-60")
    with (folder / "sparse").open("wb") as file:
        for number in range(300):  # more extents than fit in an inode
            file.seek(number * 20_000)
            file.write(bytes([number % 255 + 1]) * 100)
        os.posix_fallocate(file.fileno(), 7_000_000, 500_000)  # reads as zeros


def same(tree: Tree, top: Path) -> None:
    """The reader's view of every path is the kernel's."""
    for directory, folders, files in os.walk(top):
        inside = "/" + os.path.relpath(directory, top)
        assert tree.names(inside) == sorted(folders + files)
        for name in files:
            path = Path(directory) / name
            if stat.S_ISREG(path.stat().st_mode) and "crowd" not in directory:
                assert tree.read(f"{inside}/{name}", 16 * MIB) == path.read_bytes(), path


def made(path: Path, command: str, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    run(*command.split(), path)
    return path


EXT = [
    "mke2fs -q -F -t ext2",
    "mke2fs -q -F -t ext2 -b 1024",
    "mke2fs -q -F -t ext3",
    "mke2fs -q -F -t ext3 -b 1024 -O dir_index",
    "mke2fs -q -F -t ext4",
    "mke2fs -q -F -t ext4 -b 1024",
    "mke2fs -q -F -t ext4 -b 2048 -g 4096",
    "mke2fs -q -F -t ext4 -O ^64bit,^metadata_csum,uninit_bg",
    "mke2fs -q -F -t ext4 -O ^64bit,^metadata_csum,^uninit_bg,^flex_bg,^resize_inode",
    "mke2fs -q -F -t ext4 -O ^flex_bg",
    "mke2fs -q -F -t ext4 -G 2 -b 1024",
    "mke2fs -q -F -t ext4 -O sparse_super2,^resize_inode",
    "mke2fs -q -F -t ext4 -O ^sparse_super,^resize_inode",
    "mke2fs -q -F -t ext4 -O metadata_csum_seed",
    "mke2fs -q -F -t ext4 -O ^has_journal,large_dir",
    "mke2fs -q -F -t ext4 -I 128 -O ^extra_isize,^metadata_csum",
    "mke2fs -q -F -t ext4 -E lazy_itable_init=1 -b 1024",
    "mke2fs -q -F -t ext4 -O inline_data",
    "mke2fs -q -F -t ext4 -O inline_data -I 1024 -b 2048",
]
UNSAFE = [
    ("mke2fs -q -F -t ext4 -O bigalloc", "bigalloc"),
    ("mke2fs -q -F -t ext4 -O meta_bg,^resize_inode", "meta_bg"),
    ("mke2fs -q -F -t ext4 -O meta_bg,^resize_inode,^64bit -b 1024 -g 1024", "meta_bg"),
    ("mke2fs -q -F -t ext4 -O mmp", "multiple mount protection"),
]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def taken(image: Path, scratch: Path) -> Extraction:
    with Runner() as runner:
        return extract(DiskImage(image, "raw"), "0", Tools(runner, QuietProgress(), scratch))


def free_blocks(image: Path) -> Iterator[int]:
    """Free blocks by dumpe2fs."""
    for line in run("dumpe2fs", image).splitlines():
        found = re.match(r"\s+Free blocks: (\d.*)", line)
        for part in found[1].split(", ") if found else ():
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)


@pytest.mark.parametrize("command", EXT)
def test_ext_by_used_blocks(command: str, tmp_path: Path, scratch: Path) -> None:
    image = made(tmp_path / "image", command, 160 * MIB)
    with mounted(image, tmp_path / "top") as top:
        fill(top)
        (top / "gone").write_bytes(b"stale" * MIB)
        run("sync", "-f", top)
        (top / "gone").unlink()
    with RawFile(image) as file, mounted(image, tmp_path / "top", "ro") as top:
        same(look_into(file, "ext4"), top)
        filesystem = Ext(file)
        assert check(filesystem) == ""
        size = filesystem.layout.block_size
        used = {
            block
            for offset, length in UsedRanges(filesystem)
            for block in range(offset // size, (offset + length) // size)
        }
        files = listing(top)
    free = set(free_blocks(image))
    every = set(range(filesystem.layout.blocks))
    # A block bitmap that was never written makes no promise; nothing else may be missing.
    assert used | free == every
    done = taken(image, scratch)
    assert "used blocks" in done.method and done.notes == ()
    run("e2fsck", "-f", "-n", done.root.path)
    with mounted(done.root.path, tmp_path / "copy", "ro") as copy:
        assert listing(copy) == files


@pytest.mark.parametrize(("command", "why"), UNSAFE)
def test_ext_that_is_copied_whole(command: str, why: str, tmp_path: Path, scratch: Path) -> None:
    image = made(tmp_path / "image", command, 160 * MIB)
    with mounted(image, tmp_path / "top") as top:
        fill(top)
        files = listing(top)
    with RawFile(image) as file, mounted(image, tmp_path / "top", "ro") as top:
        same(look_into(file, "ext4"), top)
    done = taken(image, scratch)
    assert why in done.method
    with mounted(done.root.path, tmp_path / "copy", "ro") as copy:
        assert listing(copy) == files


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("ssv free_blocks_count 1", "miscounted"),
        ("sif <8> block[0] 0", "extent tree"),
        ("set_bg 0 free_blocks_count 3", "miscounted"),
        ("set_bg 0 block_bitmap 9999999", "outside"),
        ("ssv state 2", "cleanly"),
        ("freeb 2000", "miscounted"),
    ],
)
def test_bitmaps_that_do_not_add_up_are_not_relied_on(
    damage: str, why: str, tmp_path: Path
) -> None:
    image = made(tmp_path / "image", "mke2fs -q -F -t ext4 -O ^metadata_csum,^uninit_bg", 64 * MIB)
    run("debugfs", "-w", "-R", damage, image)
    with RawFile(image) as file:
        assert why in check(Ext(file))


def test_damage_is_an_error_with_e2fscks_words(tmp_path: Path, scratch: Path) -> None:
    image = made(tmp_path / "image", "mke2fs -q -F -t ext4", 64 * MIB)
    with mounted(image, tmp_path / "top") as top:
        fill(top)
    run("debugfs", "-w", "-R", "clri /usr", image)
    with pytest.raises(DiskError, match="UNEXPECTED INCONSISTENCY"):
        taken(image, scratch)


XFS = [
    "mkfs.xfs -q",
    "mkfs.xfs -q -b size=1024 -n size=8192",
    "mkfs.xfs -q -i size=2048",
    "mkfs.xfs -q -i nrext64=1",
]


@pytest.mark.parametrize("command", XFS)
def test_xfs(command: str, tmp_path: Path, scratch: Path) -> None:
    image = made(tmp_path / "image", command, 320 * MIB)
    with mounted(image, tmp_path / "top") as top:
        fill(top)
        files = listing(top)
        with (top / "crowd-300" / "many").open("wb") as file:
            for number in range(3000):  # enough extents for a tree of them
                file.seek(number * 8192)
                file.write(b"x")
    with RawFile(image) as file, mounted(image, tmp_path / "top", "ro") as top:
        same(look_into(file, "xfs"), top)
        files = listing(top)
    done = taken(image, scratch)
    run("xfs_repair", "-n", "-f", done.root.path)
    with mounted(done.root.path, tmp_path / "copy", "ro") as copy:
        assert listing(copy) == files


def test_an_xfs_newer_than_this_host_is_told_before_anything_is_copied(
    tmp_path: Path, scratch: Path
) -> None:
    """The feature word of mkfs.xfs 6.18 and later, and a bit that nobody has yet."""
    image = made(tmp_path / "image", "mkfs.xfs -q", 320 * MIB)
    with mounted(image, tmp_path / "top") as top:
        fill(top)
    run("xfs_db", "-x", "-c", "sb 0", "-c", "write -d features_incompat 0x800000eb", image)
    with pytest.raises(DiskError, match=r"does not know .*the incompat feature 0x80000000"):
        taken(image, scratch)
    with Runner() as runner, pytest.raises(DiskError, match=r"mkfs\.xfs -c options="):
        foresee(DiskImage(image, "raw"), "0", Tools(runner, QuietProgress(), scratch))
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("options", ["-m crc=0", "-m crc=0 -n ftype=0", "-m crc=0 -b size=1024"])
def test_xfs_of_the_old_format(options: str, tmp_path: Path, scratch: Path) -> None:
    """Kernels without support for version 4 remain able to build it by mkfs.xfs -p."""
    content = tmp_path / "content"
    content.write_bytes(random.Random(4).randbytes(70_000))
    file = f"---644 0 0 {content}"
    crowd = "".join(f"name-{number:05} {file}\n" for number in range(400))
    (tmp_path / "proto").write_text(
        f"/\n0 0\nd--755 0 0\netc d--755 0 0\nfstab {file}\n$\n"
        f"usr d--755 0 0\n$\nbin d--755 0 0\n$\nboot d--755 0 0\nvmlinuz-1 {file}\n$\n"
        f"link l--777 0 0 etc/fstab\n"
        f"crowd d--755 0 0\n{crowd}$\n$\n"
    )
    image = made(tmp_path / "image", f"mkfs.xfs -q {options} -p {tmp_path / 'proto'}", 320 * MIB)
    run("xfs_repair", "-n", "-f", image)
    done = taken(image, scratch)
    for path in (image, done.root.path):
        with RawFile(path) as source:
            tree = look_into(source, "xfs")
            assert tree.names("/crowd") == [f"name-{number:05}" for number in range(400)]
            for name in ("/link", "/crowd/name-00399", "/boot/vmlinuz-1"):
                assert tree.read(name, MIB) == content.read_bytes()
