"""Getting a root filesystem out of a disk: this pipeline against what users would do instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.bars import bars
from benchmarks.disks import (
    BOOT_SIZE,
    BOOT_START,
    PV_START,
    ROOT_START,
    VERSION,
    Disk,
    floor,
    make_disk,
    reflinking,
    root_gib,
)
from benchmarks.document import Section
from benchmarks.measure import (
    GIB,
    MIB,
    Cost,
    Options,
    Work,
    alternate,
    circumstances,
    cost_table,
    host,
)
from pipeline.convert.extract import Extraction, extract, open_format
from pipeline.convert.survey import survey
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration, PartitionImage
from pipeline.disk.blocks.copy import copy, new_file
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.ext_usage import UsedRanges
from pipeline.guest.access.open import open_guest
from pipeline.guest.boot.select import collect
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks.tools import loop, run

FLOOR = "serial floor: read the used bytes, then write them"
OURS = "this pipeline: root and /boot, checked by e2fsck"
RECIPE = "2011 recipe: dd, losetup, dd, tune2fs, cp"
CP = "cp --sparse=always from a loop device"
QEMU_IMG = "qemu-img convert with offset and size"
GUESTFS = "guestfs appliance without acceleration: download of the volume"
TCG = Acceleration("tcg", "as the appliance is measured")
SPARSE_GIB = 200
_SECONDS = 3600  # a bound; a GB through a translated appliance takes minutes
APPLIANCE = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
"""For libguestfs's own programs, which choose KVM wherever there is a /dev/kvm."""
_Rival = Callable[[Disk, Path], None]


def extracted(disk: Disk, out: Path) -> Extraction:
    """Root and /boot of the disk in `out`, by the product."""
    with Runner() as runner:
        return extract(open_format(disk.path), "", Tools(runner, QuietProgress(), out))


def _ours(disk: Disk, out: Path) -> None:
    extracted(disk, out)


def _copy_alone(disk: Disk, out: Path) -> None:
    with RawFile(disk.path) as file:
        (root,) = (c for c in survey(file).candidates if c.is_root)
        target = out / "root.img"
        with new_file(target, root.volume.size) as descriptor:
            ranges = UsedRanges(Ext(root.volume))
            copy(root.volume, ranges, descriptor, target, lambda _: None)


def _recipe(disk: Disk, out: Path) -> None:
    """The recipe; device-mapper's part is played by the volume's known offset."""
    size = disk.path.stat().st_size - PV_START
    run("dd", f"if={disk.path}", f"of={out / 'pv.img'}", "bs=1M", f"skip={PV_START}B",
        f"count={size}B", "status=none")  # fmt: skip
    with loop(out / "pv.img", ROOT_START - PV_START, disk.root_size) as device:
        run("dd", f"if={device}", f"of={out / 'root.img'}", "bs=1M", "status=none")
    run("tune2fs", "-L", "uec-rootfs", out / "root.img")
    with loop(disk.path, BOOT_START, BOOT_SIZE) as device:
        top = out / "boot"
        top.mkdir()
        run("mount", "-o", "ro,noload", device, top)
        try:
            for file in top.glob(f"*{VERSION}*"):
                run("cp", file, out)
        finally:
            run("umount", top)
            top.rmdir()


def _cp(disk: Disk, out: Path) -> None:
    with loop(disk.path, ROOT_START, disk.root_size) as device:
        run("cp", "--sparse=always", device, out / "root.img")


def _qemu_img(disk: Disk, out: Path) -> None:
    run("qemu-img", "convert", "-O", "raw", "--image-opts",
        f"driver=raw,offset={ROOT_START},size={disk.root_size},"
        f"file.driver=file,file.filename={disk.path}", out / "root.img")  # fmt: skip


def _e2image(disk: Disk, out: Path) -> None:
    run("e2image", "-ra", "-o", str(ROOT_START), disk.path, out / "root.img")


def through_appliance(*argv: str | Path) -> None:
    """Run one of libguestfs's own programs."""
    subprocess.run(
        argv, env=os.environ | APPLIANCE, capture_output=True, timeout=_SECONDS, check=True
    )


def _guestfs(disk: Disk, out: Path) -> None:
    through_appliance("guestfish", "--ro", "-a", disk.path, "run", ":", "download",
                      "/dev/VolGroup/lv_root", out / "root.img")  # fmt: skip


RIVALS: dict[str, _Rival] = {
    FLOOR: floor,
    "this pipeline: root alone, kept in the page cache": _copy_alone,
    OURS: _ours,
    RECIPE: _recipe,
    CP: _cp,
    QEMU_IMG: _qemu_img,
    "e2image -ra": _e2image,
}
_REFLINKS = (FLOOR, OURS, QEMU_IMG)
DENSE = (RECIPE, CP)
"""Rivals that go through every zero of a volume: they have nothing to say about 200 GiB of them."""

KERNEL_OURS = "this pipeline: choose, pair and check them, from the extracted file systems"
KERNEL_RIVAL = "virt-get-kernel, appliance without acceleration"


def _our_kernel(root: PartitionImage, boot: PartitionImage | None, out: Path) -> None:
    with Runner() as runner:
        tools = Tools(runner, QuietProgress(), out)
        opened = open_guest(root, boot, backend="e2fsprogs", acceleration=TCG, tools=tools)
        with opened as files:
            collect(files, out / "kernel", out / "ramdisk", tools)


def _virt_get_kernel(disk: Disk, out: Path) -> None:
    through_appliance("virt-get-kernel", "-a", disk.path, "-o", out)


def _missing(program: str, options: Options) -> str:
    """Why a rival that needs `program` is left out; "" when it is not."""
    if options.quick:
        return f"{program} (minutes; left out by --quick)"
    return "" if shutil.which(program) else f"{program} (not installed; Debian: guestfs-tools)"


def sections(options: Options) -> Iterator[Section]:
    """Every size, the first in a sparse 200 GiB too, the kernel part, and reflinks."""
    parts = [
        f"{host(options.directory)}. The disk is laid out as Fedora 15 leaves it: MBR, /boot, one "
        "LVM volume with ext4 and, besides its files, a quarter as much stale data in free blocks. "
        "It is out of the page cache before each run, and the results are synced within it. The "
        "rivals give a file system that nobody checked; the recipe, cp and qemu-img carry the "
        "stale data along."
    ]
    first: dict[str, Cost] = {}
    plans = [(used, root_gib(used)) for used in options.sizes]
    plans.insert(1, (options.sizes[0], float(SPARSE_GIB)))
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        work = Path(name)
        for number, (used, root) in enumerate(plans):
            disk = make_disk(work / "disk.img", root, used)
            rivals: dict[str, Work] = {label: partial(each, disk) for label, each in RIVALS.items()}
            notes = []
            if root == SPARSE_GIB:
                for label in DENSE:
                    del rivals[label]
            elif shutil.disk_usage(work).free < 2 * disk.root_size + MIB:
                del rivals[RECIPE]
                notes.append("the recipe, for whose two dense copies the host has no room")
            once: dict[str, Work] = {}
            if number == 0 and not (why := _missing("guestfish", options)):
                once = {GUESTFS: partial(_guestfs, disk)}
            elif number == 0:
                notes.append(why)
            costs = alternate(rivals, options.rounds, work, base=FLOOR, cold=[disk.path], once=once)
            first = first or costs
            parts.append(
                f"### {used:g} GiB of files, root volume of {root:g} GiB, {disk.used >> 20} MiB in"
                f" use with /boot\n\n{circumstances(costs, options.rounds)}"
                + (f" Left out: {'; '.join(notes)}." if notes else "")
                + f"\n\n{cost_table(costs, 'floor')}\n{_verdict(costs)}"
            )
            seconds = {name: cost.seconds for name, cost in first.items()}
            plot = bars("Extraction, seconds (median)", seconds)
            yield Section("\n\n".join(parts), plot)
            if number == len(plans) - 1:
                parts.append(_kernel_part(disk, options, work))
                yield Section("\n\n".join(parts), plot)
            disk.path.unlink()
        parts.append(_reflink_part(options, work))
        yield Section("\n\n".join(parts), plot)


def _verdict(costs: dict[str, Cost]) -> str:
    """The targets, with what was measured."""
    ours = costs[OURS]
    best = ours.best / costs[FLOOR].best
    words = [f"{ours.ratio:.2f} x the floor, best by best {best:.2f} (target 0.9)"]
    for rival, target in ((RECIPE, 7), (GUESTFS, 40)):
        if rival in costs:
            times = costs[rival].ratio / ours.ratio
            words.append(f"{times:.1f} x as fast as {rival.split(':')[0]} (target {target})")
    words.append(f"{ours.memory / MIB:.0f} MiB (target 64)")
    return f"This pipeline: {'; '.join(words)}."


def _reflink_part(options: Options, work: Path) -> str:
    """The smallest and the largest disk on a file system that shares blocks between files."""
    head = "### With reflinks\n\n"
    if not shutil.which("mkfs.xfs"):
        return f"{head}Left out: mkfs.xfs (not installed; Debian: xfsprogs)."
    words = [
        "The disk and the results lie on one XFS, in a file of the host's. `Results take` counts"
        " the blocks that are shared with the disk."
    ]
    for used in sorted({min(options.sizes), max(options.sizes)}):
        root = root_gib(used)
        # The disk with its stale data, and what a rival writes.
        with reflinking(work, int((2.5 * used + 2) * GIB)) as place:
            disk = make_disk(place / "disk.img", root, used)
            rivals: dict[str, Work] = {name: partial(RIVALS[name], disk) for name in _REFLINKS}
            costs = alternate(rivals, options.rounds, place, base=FLOOR, cold=[disk.path])
        words.append(
            f"{used:g} GiB of files, root volume of {root:g} GiB, {disk.used >> 20} MiB in use with"
            f" /boot; {circumstances(costs, options.rounds)}\n\n{cost_table(costs, 'floor')}\n"
            f"This pipeline: {costs[OURS].seconds:.2f} s (target 1.5)."
        )
    return head + "\n\n".join(words)


def _kernel_part(disk: Disk, options: Options, work: Path) -> str:
    """Kernel and ramdisk alone."""
    place = work / "extracted"
    place.mkdir()
    done = extracted(disk, place)
    why = _missing("virt-get-kernel", options)
    once: dict[str, Work] = {} if why else {KERNEL_RIVAL: partial(_virt_get_kernel, disk)}
    contenders: dict[str, Work] = {KERNEL_OURS: partial(_our_kernel, done.root, done.boot)}
    costs = alternate(contenders, options.rounds, work, base=KERNEL_OURS, once=once)
    shutil.rmtree(place)
    return (
        f"### Kernel and ramdisk\n\n{circumstances(costs, options.rounds)}"
        + (f" Left out: {why}." if why else "")
        + f"\n\n{cost_table(costs, 'ours')}"
    )
