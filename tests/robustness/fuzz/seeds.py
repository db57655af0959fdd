"""Small whole disks to mutate: real file systems behind tables by tests/fixtures/disks/writers.py.

Nothing here needs root: mke2fs -d, mkfs.xfs -p and debugfs fill the file systems.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.disks.tools import run
from tests.fixtures.disks.writers import (
    Pv,
    group_text,
    write_gpt,
    write_logical,
    write_mbr,
    write_pv,
)

MIB = 1 << 20
EXTENT = 64 << 10
AREA = 16 << 10
Region = tuple[int, int]
# The same bytes each time, so that a kept case means the same disk.
_TIME = {"E2FSPROGS_FAKE_TIME": "1305315590", "SOURCE_DATE_EPOCH": "1305315590"}
_UUID = "0f15f15f-0f15-4f15-8f15-0f15f15f0f15"
_BOOT_UUID = "11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True)
class Seed:
    """A disk and where its structures lie, as (offset, bytes).

    tables: those outside of file systems. inside: those of file systems. lvm: physical volumes.
    gpt: whether checksums of a GPT can be put right. ext: starts of ext file systems.
    """

    name: str
    path: Path
    tables: tuple[Region, ...]
    inside: tuple[Region, ...] = ()
    lvm: tuple[int, ...] = ()
    gpt: bool = False
    ext: tuple[int, ...] = ()


class FileDisk:
    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        with path.open("wb") as file:
            file.truncate(size)

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def place(self, image: Path, pieces: Sequence[Region]) -> None:
        """A flat image over pieces of the disk."""
        with image.open("rb") as file:
            for offset, length in pieces:
                self.write(offset, file.read(length))


def _tree(folder: Path) -> Path:
    for name in ("etc", "usr/bin", "boot", "srv"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/fstab").write_text(f"UUID={_BOOT_UUID} /boot ext4\n")
    (folder / "etc/os-release").write_text("ID=seed\n")
    (folder / "bin").symlink_to("usr/bin")
    for number in range(40):
        (folder / f"srv/file-{number}").write_bytes(bytes([number]) * (700 * number))
    _settle(folder)
    return folder


def _settle(folder: Path) -> None:
    """Fixed times and modes of all that a tree holds."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (1305315590, 1305315590), follow_symlinks=False)


def _ext(path: Path, size: int, tree: Path, *options: str, uuid: str = _UUID) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    run(
        "mke2fs",
        "-q",
        "-F",
        *options,
        "-U",
        uuid,
        "-E",
        f"hash_seed={_UUID}",
        "-d",
        tree,
        path,
        env=_TIME,
    )
    return path


LATE = b"only the journal knows this file" * 2048


def _with_journal(folder: Path, clean: Path) -> Path:
    """A copy of a file system with one more file, whose metadata is in its journal alone."""
    late, other = folder / "late", folder / "other.fs"
    late.write_bytes(LATE)
    os.utime(late, (1305315590, 1305315590))
    shutil.copyfile(clean, other)
    run("debugfs", "-w", "-R", f"write {late} late", other, env=_TIME)
    return journalled(clean, other, folder / "dirty.fs", LATE)


def journalled(before: Path, after: Path, out: Path, home: bytes = b"") -> Path:
    """The file system `before`, with what makes it `after` in its journal alone.

    Blocks that are part of `home` are written in place: ext4 writes a file's own data home before
    it commits.
    """
    shutil.copyfile(before, out)
    old, new = before.read_bytes(), after.read_bytes()
    changed = [n for n in range(0, len(new), 1024) if new[n : n + 1024] != old[n : n + 1024]]
    script = ["jo"]
    with tempfile.TemporaryDirectory() as name, out.open("r+b") as file:
        for offset in changed:
            block = new[offset : offset + 1024]
            if block in home:
                file.seek(offset)
                file.write(block)
                continue
            (Path(name) / str(offset)).write_bytes(block)
            script.append(f"jw -b {offset // 1024} {Path(name) / str(offset)}")
        file.flush()
        (Path(name) / "script").write_text("\n".join([*script, "jc", ""]))
        run("debugfs", "-w", "-f", Path(name) / "script", out, env=_TIME)
    return out


def _structures(start: int, block: int = 1024) -> tuple[Region, ...]:
    """Superblock, descriptors, and the blocks after them: bitmaps, inode table, first files."""
    return ((start + 1024, 1024), (start + 2048, 1024), (start + 4 * block, 60 * block))


def make_seeds(folder: Path) -> list[Seed]:
    """Write all seeds below `folder`."""
    root = _tree(folder / "tree")
    (folder / "boot-tree").mkdir()
    (folder / "boot-tree/vmlinuz-1.0").write_bytes(b"kernel" * 1000)
    _settle(folder / "boot-tree")
    boot = _ext(folder / "boot.fs", 2 * MIB, folder / "boot-tree", "-t", "ext4",
                uuid=_BOOT_UUID)  # fmt: skip
    plain = _ext(folder / "root.fs", 6 * MIB, root, "-t", "ext4", "-b", "1024")
    old = _ext(folder / "old.fs", 6 * MIB, root, "-t", "ext3", "-b", "1024", "-O", "uninit_bg")
    four = _ext(
        folder / "four.fs", 12 * MIB, root, "-t", "ext4", "-b", "4096", "-O", "^has_journal"
    )
    dirty = _with_journal(folder, plain)
    one = (Pv("pv0", "a" * 32, 3 * MIB, 10 * MIB, 64, ((4096, AREA),)),)
    two = (
        Pv("pv0", "a" * 32, 3 * MIB, 5 * MIB, 64, ((4096, AREA),)),
        Pv("pv1", "b" * 32, 9 * MIB, 5 * MIB, 64, ((4096, AREA), (4 * MIB + MIB // 2, AREA))),
    )
    return [
        _lvm(folder, "lvm", plain, boot, one),
        _lvm(folder, "two-pvs", plain, boot, two),
        _logical(folder, old, boot),
        _gpt(folder, four, boot),
        _whole(folder, "plain", plain),
        _whole(folder, "old", old),
        _whole(folder, "dirty", dirty),
        _xfs(folder),
        _qcow2(folder, plain),
        _qcow2(folder, plain, "-c"),
    ]


def _lvm(folder: Path, name: str, root: Path, boot: Path, pvs: tuple[Pv, ...]) -> Seed:
    disk = FileDisk(folder / f"{name}.img", 15 * MIB)
    entries = [(0x83, 2048, 4096), *((0x8E, pv.start // 512, pv.size // 512) for pv in pvs)]
    write_mbr(disk, entries)
    disk.place(boot, [(MIB, 2 * MIB)])
    half = 48  # extents of the root's two segments; the second half lies first
    segments = [(half, pvs[-1].name, half if len(pvs) == 1 else 0), (half, pvs[0].name, 0)]
    text = group_text("vg", pvs, [("root", segments)], extent_sectors=EXTENT // 512)
    for pv in pvs:
        write_pv(disk, pv, text, ring_offset=AREA - 700)
    starts = {pv.name: pv.start + pv.pe_start * 512 for pv in pvs}
    disk.place(root, [(starts[n] + first * EXTENT, count * EXTENT) for count, n, first in segments])
    first = starts[segments[0][1]] + segments[0][2] * EXTENT
    areas = tuple(
        region
        for pv in pvs
        for start, size in pv.areas
        for region in (
            (pv.start + start, 64),
            (pv.start + start + 512, 1600),
            (pv.start + start + size - 700, 700),
        )
    )
    labels = tuple((pv.start + 512, 200) for pv in pvs)
    return Seed(name, disk.path, ((440, 72), *labels, *areas), _structures(first),
                tuple(pv.start for pv in pvs), ext=(first,))  # fmt: skip


def _logical(folder: Path, root: Path, boot: Path) -> Seed:
    disk = FileDisk(folder / "logical.img", 12 * MIB)
    logical = [(0x83, 4096, 12288), (0x83, 18432, 4096)]
    write_mbr(disk, [(0x82, 2048, 512), write_logical(disk, 3072, 20480, logical)])
    disk.place(root, [(4096 * 512, 6 * MIB)])
    disk.place(boot, [(18432 * 512, 2 * MIB)])
    records = ((440, 72), (3072 * 512 + 440, 72), (18431 * 512 + 440, 72))
    return Seed("logical", disk.path, records, _structures(4096 * 512), ext=(4096 * 512,))


def _gpt(folder: Path, root: Path, boot: Path) -> Seed:
    disk = FileDisk(folder / "gpt.img", 18 * MIB)
    write_gpt(disk, [(2048, 6143, "boot"), (8192, 32767, "root")])
    disk.place(boot, [(MIB, 2 * MIB)])
    disk.place(root, [(4 * MIB, 12 * MIB)])
    tables = ((440, 72), (512, 92), (1024, 256), (disk.size - 512, 92))
    return Seed("gpt", disk.path, tables, _structures(4 * MIB, 4096), gpt=True, ext=(4 * MIB,))


def _whole(folder: Path, name: str, root: Path) -> Seed:
    disk = FileDisk(folder / f"{name}.img", 6 * MIB)
    disk.place(root, [(0, 6 * MIB)])
    return Seed(name, disk.path, ((440, 72),), _structures(0), ext=(0,))


def _xfs(folder: Path) -> Seed:
    path = folder / "xfs.img"
    with path.open("wb") as file:
        file.truncate(300 * MIB)
    (folder / "proto").write_text(
        f"/\n0 0\nd--755 0 0\netc d--755 0 0\nfstab ---644 0 0 {folder / 'tree/etc/fstab'}\n$\n"
        "usr d--755 0 0\nbin d--755 0 0\n$\n$\nbin l--777 0 0 usr/bin\n$\n"
    )
    run("mkfs.xfs", "-q", "-m", f"uuid={_UUID}", "-p", folder / "proto", path)
    return Seed("xfs", path, ((0, 272),), ((0, 512), (0x8000, 0x2000), (0xE000, 0x2000)))


def _qcow2(folder: Path, root: Path, *options: str) -> Seed:
    path = folder / f"disk{''.join(options)}.qcow2"
    run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        *options,
        "-o",
        "cluster_size=4096",
        root,
        path,
    )
    # The header, then the tables that qemu-img puts first.
    return Seed(path.stem + "-qcow2", path, ((0, 112), (4096, 4096 * 4)))
