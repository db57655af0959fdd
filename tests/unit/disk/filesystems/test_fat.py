"""The reader of FAT: what dosfstools and mtools write, and what nobody should."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.filesystems.fat import Fat
from pipeline.disk.filesystems.lookup import Tree
from tests.fixtures.boot_files import fat
from tests.fixtures.disks.tools import run

FILES = {
    "EFI/Linux/debian-6.12.0+deb13-cloud-amd64+3-1.efi": random.Random(1).randbytes(300_001),
    "EFI/BOOT/BOOTX64.EFI": b"boot",
    "loader/entries/0f15f15f0f154f158f1515f15f0f15f1-6.1.0-13-amd64.conf": b"title x\n" * 9000,
    "loader/loader.conf": b"default x\n",
    "\u00e4rger.txt": b"umlaut",
    "empty": b"",
}


@pytest.mark.parametrize(("bits", "mib"), [(12, 4), (16, 32), (32, 64)])
def test_every_file_is_read_as_mtools_wrote_it(tmp_path: Path, bits: int, mib: int) -> None:
    with RawFile(fat(tmp_path / "fat", FILES, bits=bits, mib=mib)) as file:
        tree = Tree(Fat(file))
        assert tree.names("/") == sorted({name.partition("/")[0] for name in FILES})
        for name, content in FILES.items():
            assert tree.read(f"/{name}", 1 << 20) == content
        assert tree.read("/nothing", 10) is None


def test_a_file_in_pieces_all_over_the_disk(tmp_path: Path) -> None:
    path = fat(tmp_path / "fat", {f"{n:02}": bytes([n]) * 40_000 for n in range(20)}, mib=64)
    for n in range(0, 20, 2):
        run("mdel", "-i", path, f"::/{n:02}")
    content = random.Random(2).randbytes(350_000)
    (tmp_path / "long").write_bytes(content)
    run("mcopy", "-i", path, tmp_path / "long", "::/long")
    with RawFile(path) as file:
        tree = Tree(Fat(file))
        assert tree.read("/long", 1 << 20) == content
        assert tree.read("/07", 1 << 20) == bytes([7]) * 40_000
        assert "00" not in tree.names("/")
        with pytest.raises(DiskError, match="more than the 10 expected"):
            tree.read("/07", 10)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (11, b"\0\0"),  # bytes a sector
        (13, b"\0"),  # sectors a cluster
        (13, b"\x03"),
        (14, b"\0\0"),  # reserved sectors
        (16, b"\0"),  # tables
        (32, b"\xff\xff\xff\xff"),  # sectors
        (510, b"\0\0"),
    ],
)
def test_figures_that_do_not_fit_are_refused(tmp_path: Path, offset: int, data: bytes) -> None:
    path = fat(tmp_path / "fat", {})
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    with RawFile(path) as file_, pytest.raises(DiskError, match="FAT file system"):
        Fat(file_)


def test_a_chain_that_ends_early_or_runs_in_a_circle(tmp_path: Path) -> None:
    path = fat(tmp_path / "fat", {"file": bytes(100_000), "folder/a": b"x"})
    with RawFile(path) as source:
        found = Fat(source)
        tree = Tree(found)
        file, folder = tree.find("/file"), tree.find("/folder")
        table = found._table
        assert file is not None
        assert folder is not None
    first, directory = (int.from_bytes(inode.map, "little") for inode in (file, folder))
    with path.open("r+b") as raw:
        raw.seek(table + first * 4)
        raw.write(b"\xff\xff\xff\x0f")
        raw.seek(table + directory * 4)
        raw.write(directory.to_bytes(4, "little"))
        # No mark of the directory's end within the cluster.
        raw.seek(found._byte(directory))
        raw.write(b"\xe5" * found.cluster_size)
    with RawFile(path) as source:
        tree = Tree(Fat(source))
        with pytest.raises(DiskError, match="ends before the file"):
            tree.read("/file", 1 << 20)
        assert tree.names("/folder") == []


def test_random_damage_costs_an_error_at_most(tmp_path: Path) -> None:
    whole = fat(tmp_path / "fat", FILES, bits=16, mib=32)
    size, draw = 600 << 10, random.Random(3)
    for _ in range(60):
        path = tmp_path / "damaged"
        shutil.copyfile(whole, path)
        with path.open("r+b") as file:
            for _ in range(draw.choice((1, 3, 20))):
                file.seek(draw.choice((draw.randrange(64), draw.randrange(size))))
                file.write(draw.randbytes(draw.choice((1, 2, 8))))
        with RawFile(path) as source:
            try:
                tree = Tree(Fat(source))
                waiting = ["/"]
                while waiting and len(waiting) < 2000:
                    here = waiting.pop()
                    waiting += [f"{here}/{name}" for name in tree.names(here)][:50]
                    tree.read(here, 1 << 20)
            except DiskError as error:
                assert "FAT" in str(error) or "read" in str(error)
