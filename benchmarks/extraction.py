"""Getting a root filesystem out of a disk: this pipeline against what users would do instead.

    python -m benchmarks.extraction [--sizes 1,4] [--rounds 5] [--guestfs] [--directory DIR]

Needs root for the rivals that need it (loop devices). Prints a table for each size and writes
docs/benchmarks-extraction.md and .svg. Rounds alternate between the rivals, so that whatever else
the host does hits all alike; medians are shown. Every run begins with the disk out of the page
cache and ends when its results are on the storage (fsync). Compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bars import bars
from pipeline.disk.ext import Ext
from pipeline.disk.ext_blocks import UsedRanges
from pipeline.disk.source import RawFile
from pipeline.disk.survey import survey
from pipeline.settings import PROJECT
from tests.disks.tools import loop, run
from tests.disks.writers import Pv, group_text, write_mbr, write_pv
from tests.fuzz.seeds import FileDisk

MIB, GIB = 1 << 20, 1 << 30
BOOT_MIB = 500
_START = (1 + BOOT_MIB) * MIB  # of the physical volume
_VOLUME = _START + MIB  # of the root: pe_start is 2048 sectors
_BUFFER = 4 * MIB
_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


@dataclass(frozen=True)
class Fixture:
    """A disk as Fedora 15 leaves it. root_size and used in bytes."""

    disk: Path
    root_size: int
    used: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Cost:
    """One run. seconds: wall; cpu: user and system of all processes; memory: bytes that all
    processes together had to themselves at the worst moment seen; allocated: bytes of the root
    image; ratio: seconds over those of the floor in the same round.
    """

    seconds: float
    cpu: float
    memory: int
    allocated: int
    ratio: float = 1.0


class Sampler(threading.Thread):
    """Watches the private memory of a process and its descendants, twenty times a second."""

    def __init__(self, child: int) -> None:
        super().__init__(daemon=True)
        self._child, self._ended = child, threading.Event()
        # What the forked child shares with this process is not its own.
        self._base = _private(os.getpid())
        self._own = _read(f"/proc/{os.getpid()}/cmdline")
        self.peak = 0

    def run(self) -> None:
        """Sample until stopped."""
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, sum(self._each()))

    def stop(self) -> int:
        """End, and tell the peak in bytes."""
        self._ended.set()
        self.join()
        return self.peak

    def _each(self) -> Iterator[int]:
        yield max(0, _private(self._child) - self._base)
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = _read(f"{entry}/stat").rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1]) if fields else 0
        for pid, parent in parents.items():
            above = parent
            while above not in (0, self._child):
                above = parents.get(above, 0)
            # Between fork and exec a child still looks like its parent, whose memory it shares.
            if above == self._child and _read(f"/proc/{pid}/cmdline") != self._own:
                yield _private(pid)


def _private(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", _read(f"/proc/{pid}/status"))
    return int(found[1]) * 1024 if found else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # it ended
        return ""


def make_fixture(path: Path, root_gib: int, used_gib: float) -> Fixture:
    """Files of 64 KiB to 8 MiB that fill `used_gib`, and a quarter of that as stale data."""
    size = root_gib * GIB
    disk = FileDisk(path, _START + size + 64 * MIB)
    write_mbr(disk, [(0x83, 2048, BOOT_MIB * 2048), (0x8E, _START >> 9, (disk.size - _START) >> 9)])
    pv = Pv("pv0", "0123456789abcdef" * 2, _START, disk.size - _START)
    write_pv(disk, pv, group_text("VolGroup", [pv], [("lv_root", [(size // (4 * MIB), "pv0", 0)])]))
    boot, top = path.with_suffix(".boot"), path.with_suffix(".mount")
    with loop(path, MIB, BOOT_MIB * MIB) as device:
        run("mke2fs", "-q", "-t", "ext4", "-L", "boot", device)
        boot.mkdir()
        run("mount", device, boot)
        (boot / "vmlinuz-6.1.0").write_bytes(os.urandom(8 * MIB))
        (boot / "initrd.img-6.1.0").write_bytes(os.urandom(30 * MIB))
        run("umount", boot)
        boot.rmdir()
    with loop(path, _VOLUME, size) as device:
        run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", device)
        top.mkdir()
        run("mount", device, top)
        _fill(top, int(used_gib * GIB))
        run("umount", top)
        top.rmdir()
    with RawFile(path) as file:
        (root,) = (c for c in survey(file).candidates if c.is_root)
        ranges = tuple(UsedRanges(Ext(root.volume)))
        data = tuple(
            (part.at, part.length)
            for offset, length in ranges
            for part in root.volume.runs(offset, length)
            if part.at is not None
        )
    return Fixture(path, size, sum(length for _, length in data), data)


def _fill(top: Path, wanted: int) -> None:
    for name in ("etc", "usr", "bin", "boot"):
        (top / name).mkdir()
    (top / "etc/fstab").write_text("/dev/VolGroup/lv_root / ext4\nLABEL=boot /boot ext4\n")
    draw = random.Random(15)
    pattern = draw.randbytes(8 * MIB)
    (top / "stale").write_bytes(b"")
    with (top / "stale").open("wb") as file:
        for _ in range(wanted // 4 // (8 * MIB)):
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


def _ours(fixture: Fixture, out: Path) -> None:
    from pipeline.extract import extract, open_format
    from pipeline.progress import QuietProgress
    from pipeline.run import Runner
    from pipeline.stage import Tools

    with Runner() as runner:
        extract(open_format(fixture.disk), "", Tools(runner, QuietProgress(), out))


def _copy_alone(fixture: Fixture, out: Path) -> None:
    from pipeline.disk.copy import copy, new_file

    with RawFile(fixture.disk) as file:
        (root,) = (c for c in survey(file).candidates if c.is_root)
        target = out / "root.img"
        with new_file(target, root.volume.size) as descriptor:
            ranges = UsedRanges(Ext(root.volume))
            copy(root.volume, ranges, descriptor, target, lambda _: None)


def _floor(fixture: Fixture, out: Path) -> None:
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    source = os.open(fixture.disk, os.O_RDONLY)
    for offset, length in fixture.ranges:
        done = 0
        while done < length:
            done += os.preadv(source, [view[: min(_BUFFER, length - done)]], offset + done)
    os.close(source)
    with (out / "root.img").open("wb", buffering=0) as file:
        left = fixture.used
        while left > 0:
            left -= file.write(view[: min(_BUFFER, left)])


def _recipe(fixture: Fixture, out: Path) -> None:
    """The 2011 recipe; device-mapper's part is played by the volume's known offset."""
    size = fixture.disk.stat().st_size - _START
    run("dd", f"if={fixture.disk}", f"of={out / 'pv.img'}", "bs=1M", f"skip={_START}B",
        f"count={size}B", "status=none")  # fmt: skip
    with loop(out / "pv.img", MIB, fixture.root_size) as device:
        run("dd", f"if={device}", f"of={out / 'root.img'}", "bs=1M", "status=none")
    run("tune2fs", "-L", "uec-rootfs", out / "root.img")
    with loop(fixture.disk, MIB, BOOT_MIB * MIB) as device:
        top = out / "boot"
        top.mkdir()
        run("mount", "-o", "ro,noload", device, top)
        try:
            for file in top.glob("*-6.1.0"):
                run("cp", file, out)
        finally:
            run("umount", top)
            top.rmdir()


def _cp(fixture: Fixture, out: Path) -> None:
    with loop(fixture.disk, _VOLUME, fixture.root_size) as device:
        run("cp", "--sparse=always", device, out / "root.img")


def _qemu_img(fixture: Fixture, out: Path) -> None:
    run("qemu-img", "convert", "-O", "raw", "--image-opts",
        f"driver=raw,offset={_VOLUME},size={fixture.root_size},"
        f"file.driver=file,file.filename={fixture.disk}", out / "root.img")  # fmt: skip


def _e2image(fixture: Fixture, out: Path) -> None:
    run("e2image", "-ra", "-o", str(_VOLUME), fixture.disk, out / "root.img")


def _guestfs(fixture: Fixture, out: Path) -> None:
    os.environ |= {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    run("guestfish", "--ro", "-a", fixture.disk, "run", ":", "download",
        "/dev/VolGroup/lv_root", out / "root.img")  # fmt: skip


RIVALS: dict[str, Callable[[Fixture, Path], None]] = {
    "serial floor: read the used bytes, then write them": _floor,
    "this pipeline, copy of the root alone": _copy_alone,
    "this pipeline, root and /boot, checked by e2fsck": _ours,
    "2011 recipe: dd, losetup, dd, tune2fs, cp": _recipe,
    "cp --sparse=always from a loop device": _cp,
    "qemu-img convert with offset and size": _qemu_img,
    "e2image -ra": _e2image,
    "guestfs download, appliance without acceleration": _guestfs,
}
_FLOOR = next(iter(RIVALS))


def measure(name: str, fixture: Fixture, directory: Path) -> Cost:
    """Run one rival in a process of its own."""
    descriptor = os.open(fixture.disk, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    with tempfile.TemporaryDirectory(dir=directory) as out:
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                RIVALS[name](fixture, Path(out))
                for result in Path(out).iterdir():
                    with result.open("rb") as file:
                        os.fsync(file.fileno())
                usage = [resource.getrusage(who) for who in _WHO]
                figures = {"cpu": sum(u.ru_utime + u.ru_stime for u in usage)}
                (Path(out) / "figures.json").write_text(json.dumps(figures))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        sampler = Sampler(child)
        sampler.start()
        _, ended = os.waitpid(child, 0)
        seconds = time.monotonic() - begun
        memory = sampler.stop()
        if ended:
            raise SystemExit(f"{name} failed")
        figures = json.loads((Path(out) / "figures.json").read_text())
        image = Path(out) / "root.img"
        return Cost(seconds, figures["cpu"], memory, image.stat().st_blocks * 512)


def compare(
    fixture: Fixture, names: Sequence[str], rounds: int, directory: Path
) -> dict[str, Cost]:
    """Medians of alternating runs, and of the ratios within each round."""
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for number in range(rounds):
        # Each round in another order: what runs after a large writer suffers from its write-back.
        for name in random.Random(number).sample(list(names), len(names)):
            costs[name].append(measure(name, fixture, directory))
    return {
        name: Cost(
            statistics.median(c.seconds for c in runs),
            statistics.median(c.cpu for c in runs),
            max(c.memory for c in runs),
            runs[0].allocated,
            statistics.median(
                run.seconds / floor.seconds for run, floor in zip(runs, costs[_FLOOR], strict=True)
            ),
        )
        for name, runs in costs.items()
    }


def table(costs: dict[str, Cost]) -> str:
    """The costs as a Markdown table."""
    lines = ["| way | s | x floor | CPU s | memory, MB | image takes, MB |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name, cost in costs.items():
        lines.append(
            f"| {name} | {cost.seconds:.2f} | {cost.ratio:.2f} | {cost.cpu:.2f} "
            f"| {cost.memory >> 20} | {cost.allocated >> 20} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1,4", help="GiB used, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sparse", action="store_true", help="also the first size in 200 GiB")
    parser.add_argument("--guestfs", action="store_true", help="also the appliance (minutes)")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    names = [name for name in RIVALS if options.guestfs or RIVALS[name] is not _guestfs]
    plans = [(float(size), max(2, int(float(size) * 2))) for size in options.sizes.split(",")]
    plans += [(plans[0][0], 200)] if options.sparse else []
    parts = []
    first: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        work = Path(name)
        for used, root in plans:
            # dd writes every zero: 200 GiB of them say nothing more.
            here = [n for n in names if root < 200 or RIVALS[n] not in (_recipe, _cp, _guestfs)]
            fixture = make_fixture(work / "disk.img", root, used)
            costs = compare(fixture, here, options.rounds, work)
            first = first or costs
            parts.append(
                f"## {used:g} GiB of files, root volume of {root} GiB "
                f"({fixture.used >> 20} MiB in used blocks)\n\n{table(costs)}\n"
            )
            print(parts[-1])
            fixture.disk.unlink()
            _write_document(options.rounds, options.directory, parts, first)


def _write_document(rounds: int, directory: Path, parts: list[str], first: dict[str, Cost]) -> None:
    """After each size, so that a run that is cut short leaves what it measured."""
    document = PROJECT / "docs" / "benchmarks-extraction.md"
    preface = _PREFACE.format(rounds=rounds, host=_host(directory), load=os.getloadavg()[0])
    plot = "\n![plot](benchmarks-extraction.svg)\n"
    document.write_text(preface + "\n".join(parts) + plot)
    document.with_suffix(".svg").write_text(
        bars("Seconds, median", {name: cost.seconds for name, cost in first.items()})
    )


def _host(directory: Path) -> str:
    filesystem = subprocess.run(
        ["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=True
    ).stdout.strip()
    return f"{os.cpu_count()} cores, Linux {platform.release()}, results on {filesystem}"


_PREFACE = """# Extraction, measured

Written by `python -m benchmarks.extraction` (as root). {rounds} alternating rounds; seconds and the
ratios to the floor of the same round are medians. The disk is out of the page cache before each
run, the results are synced within it. The disk is laid out as Fedora 15 leaves it: MBR, /boot, one
LVM volume with ext4 and, besides its files, a quarter as much stale data in free blocks.

Host: {host}; load average {load:.0f} when this was written, so compare ratios, not seconds. The
rivals give a file system that nobody checked; the recipe, cp and qemu-img carry the stale data
along. Memory is the private memory of all processes of a way, sampled.

"""


if __name__ == "__main__":
    if os.geteuid() != 0 or not shutil.which("losetup"):
        sys.exit("the rivals need root and loop devices")
    main()
