"""The disks the benchmarks work on: laid out as Fedora 15 leaves them, of any size."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import GIB, MIB
from pipeline.convert.survey import survey
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.ext_usage import UsedRanges
from tests.fixtures.boot_files import cpio, kernel
from tests.fixtures.disks.tools import loop, mounted, run
from tests.fixtures.disks.writers import Pv, group_text, write_mbr, write_pv
from tests.robustness.fuzz.seeds import FileDisk

VERSION = "6.1.0"
"""Of the kernel in /boot: a header that says so with random bytes behind it."""
BOOT_START, BOOT_SIZE = MIB, 500 * MIB
PV_START = BOOT_START + BOOT_SIZE
ROOT_START = PV_START + MIB
"""The root volume's first byte: pe_start is 2048 sectors into the physical volume."""
EXTENT = 4 * MIB
_BUFFER = 4 * MIB
_MODULES = ("virtio_blk", "virtio_pci", "ext4")
_RELEASE = "Fedora release 15 (Lovelock)\n"


@dataclass(frozen=True)
class Disk:
    """A disk. root_size: bytes of its volume. ranges: (offset, bytes) of what root and /boot use
    and the disk holds as data; used: their sum.
    """

    path: Path
    root_size: int
    used: int
    ranges: Sequence[tuple[int, int]]


def make_disk(path: Path, root_gib: float, used_gib: float) -> Disk:
    """MBR, /boot, one LVM volume with ext4: `used_gib` of files of 64 KiB to 4 MiB, and a quarter
    of that as stale data in free blocks.
    """
    size = round(root_gib * GIB / EXTENT) * EXTENT
    disk = FileDisk(path, PV_START + size + 64 * MIB)
    lvm = (0x8E, PV_START >> 9, (disk.size - PV_START) >> 9)
    write_mbr(disk, [(0x83, BOOT_START >> 9, BOOT_SIZE >> 9), lvm])
    pv = Pv("pv0", "0123456789abcdef" * 2, PV_START, disk.size - PV_START)
    write_pv(disk, pv, _group(pv, size))
    place = path.with_suffix(".mount")
    place.mkdir()
    _fill(path, BOOT_START, BOOT_SIZE, place, "boot", _fill_boot)
    _fill(path, ROOT_START, size, place, "root", lambda top: _fill_root(top, int(used_gib * GIB)))
    place.rmdir()
    with RawFile(path) as file:
        volumes = [c.volume for c in survey(file).candidates if c.is_root or c.is_boot]
        data = sorted(
            (part.at, part.length)
            for volume in volumes
            for offset, length in UsedRanges(Ext(volume))
            for part in volume.runs(offset, length)
            if part.at is not None
        )
    return Disk(path, size, sum(length for _, length in data), data)


def _group(pv: Pv, size: int) -> str:
    """The group's metadata with what lvm2 itself, in a guestfs appliance, wants on top of ours."""
    text = group_text("VolGroup", [pv], [("lv_root", [(size // EXTENT, pv.name, 0)])])
    text = text.replace("extent_size", "max_lv = 0\nmax_pv = 0\nextent_size")
    return text.replace('id = "l"', 'id = "rrrrrr-rrrr-rrrr-rrrr-rrrr-rrrr-rrrrrr"')


def _fill(
    path: Path, start: int, size: int, place: Path, label: str, fill: Callable[[Path], None]
) -> None:
    with loop(path, start, size) as device:
        run("mke2fs", "-q", "-t", "ext4", "-L", label, "-E", "lazy_itable_init=1", device)
        run("mount", device, place)
        try:
            fill(place)
        finally:
            run("umount", place)


def _fill_boot(top: Path) -> None:
    draw = random.Random(2011)
    (top / f"vmlinuz-{VERSION}").write_bytes(kernel(VERSION, payload=0) + draw.randbytes(8 * MIB))
    modules = [f"lib/modules/{VERSION}/kernel/x/{name}.ko" for name in _MODULES]
    files = dict.fromkeys(modules, b"module") | {"rest": draw.randbytes(30 * MIB)}
    packed = gzip.compress(cpio(files), compresslevel=1, mtime=0)
    (top / f"initramfs-{VERSION}.img").write_bytes(packed)


def _fill_root(top: Path, wanted: int) -> None:
    for name in ("etc", "usr/bin", "usr/sbin", "boot", "var/log", f"usr/lib/modules/{VERSION}"):
        (top / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib"):
        (top / name).symlink_to(f"usr/{name}")
    (top / "etc/fstab").write_text("/dev/VolGroup/lv_root / ext4\nLABEL=boot /boot ext4\n")
    (top / "etc/fedora-release").write_text(_RELEASE)
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (top / "root").mkdir()
    (top / f"lib/modules/{VERSION}/modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    draw = random.Random(15)
    pattern = draw.randbytes(8 * MIB)
    with (top / "stale").open("wb") as file:
        for _ in range(wanted // 4 // len(pattern)):
            file.write(pattern)
    done = number = 0
    while done < wanted:
        folder = top / "usr" / str(number // 200)
        folder.mkdir(exist_ok=True)
        length = min(1 << draw.randrange(16, 23), wanted - done)
        (folder / str(number)).write_bytes(pattern[:length])
        done += length
        number += 1
    run("sync", "-f", top)
    (top / "stale").unlink()


def floor(disk: Disk, out: Path) -> None:
    """The serial limit: the used bytes read once, then written once, by 4 MiB."""
    view = memoryview(bytearray(_BUFFER))
    source = os.open(disk.path, os.O_RDONLY)
    for offset, length in disk.ranges:
        done = 0
        while done < length:
            done += os.preadv(source, [view[: min(_BUFFER, length - done)]], offset + done)
    os.close(source)
    with (out / "root.img").open("wb", buffering=0) as file:
        left = disk.used
        while left > 0:
            left -= file.write(view[: min(_BUFFER, left)])


@contextlib.contextmanager
def reflinking(work: Path, size: int) -> Iterator[Path]:
    """A directory on an XFS of its own, `size` bytes in a file under `work`."""
    file = work / "xfs.img"
    with file.open("wb") as image:
        image.truncate(size)
    run("mkfs.xfs", "-q", file)
    with mounted(file, work / "xfs") as place:
        yield place
    file.unlink()


def root_gib(used: float) -> float:
    """The size of a root volume that `used` GiB of files fill to a good half."""
    return round(used * 1.75 + 0.125, 3)
