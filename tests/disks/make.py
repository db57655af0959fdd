"""Puts Debian on a disk of a given layout."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.model import DiskImage
from tests.disks.debian import debian_root_tarball
from tests.disks.layouts import LAYOUTS, MIB, ROOT_MIB, Layout, Lvm
from tests.disks.listing import Entry, listing
from tests.disks.tools import loop, mounted, run

__all__ = ["DiskFacts", "make_disk", "mounted"]

_LVM_CONF = """
devices {{ dir="/dev" scan=["/dev"] obtain_device_list_from_udev=0 use_devicesfile=0
  external_device_info_source="none" filter=[{filter}] }}
backup {{ backup=0 archive=0 }}
global {{ event_activation=0 use_lvmlockd=0 }}
activation {{ udev_sync=0 udev_rules=0 monitoring=0 }}
"""
_STALE_BYTES = 100 * MIB  # deleted again: what a copy of used blocks must leave behind
_JOURNAL_ONLY_BYTES = 50 * MIB


@dataclass(frozen=True)
class DiskFacts:
    """What is on a disk, by those who put it there.

    choice: what `--root` would name it by. ranges: the root's stretches of the raw disk in order,
    as (offset, bytes). files, boot_files: what the file systems hold ("." is their top).
    has_boot: whether /boot is a file system of its own.
    """

    layout: str
    disk: DiskImage
    choice: str
    filesystem: str
    root_uuid: str
    boot_uuid: str
    root_size: int
    boot_size: int
    ranges: tuple[tuple[int, int], ...]
    kernel_version: str
    files: Mapping[str, Entry]
    boot_files: Mapping[str, Entry]

    @property
    def has_boot(self) -> bool:
        """Whether /boot is a file system of its own."""
        return bool(self.boot_uuid)


def make_disk(layout: str, out: Path) -> DiskFacts:
    """Write the disk of a layout (a key of LAYOUTS) to the new file `out`. About ten seconds."""
    plan = LAYOUTS[layout]
    tarball = debian_root_tarball()
    with tempfile.TemporaryDirectory(prefix="disk-", dir=out.parent) as name:
        work = Path(name)
        raw = work / "disk.raw"
        with raw.open("wb") as file:
            file.truncate(plan.size_mib * MIB)
        run("sfdisk", "--quiet", raw, text=plan.table)
        partitions = _partitions(raw)
        if plan.lvm:
            ranges, swap = _make_volumes(raw, plan.lvm, partitions, work)
        else:
            assert plan.root is not None
            ranges, swap = (partitions[plan.root],), None
        size = sum(length for _, length in ranges)
        assert size == ROOT_MIB * MIB
        image, boot = work / "root.img", work / "boot.img"
        root_uuid = _make_filesystem(image, plan.filesystem, size)
        boot_uuid = ""
        if plan.boot is not None:
            boot_uuid = _make_filesystem(boot, "ext4", partitions[plan.boot][1])
        cut = work / "cut.img"
        with mounted(image, work / "root") as root:
            run(
                "tar",
                "-x",
                "--numeric-owner",
                "--xattrs",
                "--xattrs-include=*",
                "-f",
                tarball,
                "-C",
                root,
            )
            kernel_version = _install(root, plan, root_uuid, boot_uuid)
            boot_files: Mapping[str, Entry] = {}
            if boot_uuid:
                with mounted(boot, work / "boot") as top:
                    for entry in (root / "boot").iterdir():
                        shutil.move(entry, top)
                    boot_files = listing(top)
            _fill(root, plan)
            run("sync", "-f", root)
            if plan.dirty:
                _write_journal_only(root)
                run("cp", "--sparse=always", image, cut)
            files = listing(root)
        _place(cut if plan.dirty else image, raw, ranges)
        if plan.boot is not None:
            _place(boot, raw, (partitions[plan.boot],))
        if swap is not None:
            _make_swap(raw, swap)
        if plan.convert:
            run("qemu-img", "convert", "-f", "raw", *plan.convert, raw, out)
        else:
            raw.replace(out)
    return DiskFacts(
        layout=layout,
        disk=DiskImage(out, "qcow2" if plan.convert else "raw"),
        choice=f"{plan.lvm.vg}/{plan.lvm.root}" if plan.lvm else str(plan.root),
        filesystem=plan.filesystem,
        root_uuid=root_uuid,
        boot_uuid=boot_uuid,
        root_size=size,
        boot_size=partitions[plan.boot][1] if plan.boot is not None else 0,
        ranges=ranges,
        kernel_version=kernel_version,
        files=files,
        boot_files=boot_files,
    )


def _partitions(raw: Path) -> dict[int, tuple[int, int]]:
    """Partition number -> (offset, bytes), by sfdisk."""
    table = json.loads(run("sfdisk", "--json", raw))["partitiontable"]
    sector = table.get("sectorsize", 512)
    return {
        int(re.sub(r".*raw", "", entry["node"])): (entry["start"] * sector, entry["size"] * sector)
        for entry in table["partitions"]
    }


def _make_volumes(
    raw: Path, lvm: Lvm, partitions: dict[int, tuple[int, int]], work: Path
) -> tuple[tuple[tuple[int, int], ...], tuple[int, int]]:
    """Have lvm2 make the group; the root's ranges and the swap volume's, by its own report."""
    with ExitStack() as stack:
        devices = {
            stack.enter_context(loop(raw, *partitions[number])): partitions[number][0]
            for number in lvm.partitions
        }
        accept = ",".join(f'"a|^{device}$|"' for device in devices)
        (work / "lvm").mkdir()
        (work / "lvm" / "lvm.conf").write_text(_LVM_CONF.format(filter=f'{accept},"r|.*|"'))

        def lvm2(command: str, *words: str) -> str:
            return run(
                command, "--driverloaded", "n", "--nolocking", *words,
                env={"LVM_SYSTEM_DIR": str(work / "lvm"), "LVM_SUPPRESS_FD_WARNINGS": "1"},
            )  # fmt: skip

        lvm2("pvcreate", "-ff", "-y", *devices)
        lvm2("vgcreate", "-s", "4m", lvm.vg, *devices)
        for line in lvm.commands:
            command, *words = line.format(*devices, vg=lvm.vg, root=lvm.root, swap=lvm.swap).split()
            if command == "lvcreate":
                words = ["-an", "-Zn", "-Wn", "-y", *words]
            lvm2(command, *words)
        starts = {}
        for row in _report(lvm2("pvs", *_REPORT, "-o", "pv_name,pe_start")):
            starts[row["pv_name"]] = devices[row["pv_name"]] + int(row["pe_start"])
        found: dict[str, list[tuple[int, int]]] = {lvm.root: [], lvm.swap: []}
        rows = _report(lvm2("lvs", *_REPORT, "-o", "lv_name,seg_start_pe,seg_pe_ranges"))
        for row in sorted(rows, key=lambda row: int(row["seg_start_pe"])):
            device, first, last = re.split("[:-]", row["seg_pe_ranges"])
            extents = int(last) - int(first) + 1
            found[row["lv_name"]].append((starts[device] + int(first) * 4 * MIB, extents * 4 * MIB))
        return tuple(found[lvm.root]), found[lvm.swap][0]


_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")


def _report(text: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = next(iter(json.loads(text)["report"][0].values()))
    return rows


def _make_filesystem(image: Path, kind: str, size: int) -> str:
    """An empty file system in a new file; its UUID."""
    with image.open("wb") as file:
        file.truncate(size)
    if kind == "xfs":
        run("mkfs.xfs", "-q", image)
    else:
        run("mke2fs", "-q", "-t", kind, image)
    return run("blkid", "-p", "-s", "UUID", "-o", "value", image).strip()


def _mapper(lvm: Lvm, volume: str) -> str:
    """/dev/mapper's name of a volume: hyphens within names are doubled (lvm(8))."""
    return f"/dev/mapper/{lvm.vg.replace('-', '--')}-{volume.replace('-', '--')}"


def _install(root: Path, plan: Layout, root_uuid: str, boot_uuid: str) -> str:
    """What an installer leaves besides the packages, and files that are hard to copy."""
    if plan.lvm:
        device, swap = _mapper(plan.lvm, plan.lvm.root), _mapper(plan.lvm, plan.lvm.swap)
    else:
        device, swap = f"UUID={root_uuid}", "/dev/vda2"
    lines = [f"{device} / {plan.filesystem} defaults 1 1"]
    if boot_uuid:
        lines.append(f"UUID={boot_uuid} /boot ext4 defaults 1 2")
    lines += [f"{swap} swap swap defaults 0 0", "tmpfs /dev/shm tmpfs defaults 0 0"]
    _write(root / "etc/fstab", "# made by the installer\n" + "\n".join(lines) + "\n")
    _write(root / "etc/hostname", "installed-host\n")
    _write(root / "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 installed-host\n")
    _write(root / "etc/resolv.conf", "nameserver 192.0.2.53\n")
    _write(root / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    _write(
        root / "etc/network/interfaces",
        "auto lo\niface lo inet loopback\nallow-hotplug enp1s0\niface enp1s0 inet dhcp\n",
    )
    _write(
        root / "etc/udev/rules.d/70-persistent-net.rules",
        'SUBSYSTEM=="net", ATTR{address}=="52:54:00:00:00:01", NAME="eth7"\n',
    )
    _write(root / "etc/initramfs-tools/conf.d/resume", f"RESUME={swap}\n")
    _write(root / "var/log/installer/syslog", "what the installer said\n")
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    version = kernel.name.removeprefix("vmlinuz-")
    below = "" if boot_uuid else "/boot"
    _write(
        root / "boot/grub/grub.cfg",
        f"set default=0\nmenuentry 'Debian GNU/Linux' {{\n"
        f"\tlinux {below}/vmlinuz-{version} root={device} ro quiet\n"
        f"\tinitrd {below}/initrd.img-{version}\n}}\n",
    )
    _write_samples(root / "srv/samples")
    return version


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a symlink out of the tree
    path.write_text(text)


def _write_samples(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "names with\nnewline, \u00fcml\u00e4ut").write_text("x")
    (folder / ("n" * 255)).write_text("the longest name")
    (folder / "setuid").write_bytes(b"\x7fELF")
    (folder / "setuid").chmod(0o4755)
    (folder / "owned").write_text("owned")
    os.chown(folder / "owned", 70000, 80000)
    (folder / "attributes").write_text("attributes")
    os.setxattr(folder / "attributes", "user.note", b"\x00binary\xff")
    os.setxattr(folder / "attributes", "security.selinux", b"system_u:object_r:etc_t:s0\x00")
    os.setxattr(folder / "attributes", "security.capability",
                bytes.fromhex("0100000200200000000000000000000000000000"))  # fmt: skip
    (folder / "link").symlink_to("/../../etc/passwd")
    (folder / "dangling").symlink_to("x" * 300)
    os.link(folder / "owned", folder / "second name")
    os.mkfifo(folder / "pipe")
    os.mknod(folder / "null", 0o020666, os.makedev(1, 3))
    with (folder / "sparse").open("wb") as file:
        file.truncate(40 * MIB)
        file.seek(20 * MIB)
        file.write(b"island")
    crowd = folder / "crowd"  # large enough for an indexed directory
    crowd.mkdir()
    for number in range(700):
        (crowd / f"a file with quite a long name, number {number:04}").write_bytes(b"")
    with (folder / "fragmented").open("wb") as file, (folder / "between").open("wb") as other:
        for number in range(200):
            for out in (file, other):
                out.write(number.to_bytes(4096, "little"))
                out.flush()
                os.fsync(out.fileno())


def _fill(root: Path, plan: Layout) -> None:
    """Fill the file system, and leave stale data in free blocks."""
    status = os.statvfs(root)
    total, free = status.f_blocks * status.f_frsize, status.f_bfree * status.f_frsize
    wanted = total * plan.fill // 100 - (total - free)
    pattern = hashed_megabyte()
    if wanted > 0:
        with (root / "srv/filling").open("wb") as file:
            for _ in range(wanted // MIB):
                file.write(pattern)
    else:
        with (root / "srv/stale").open("wb") as file:
            for _ in range(_STALE_BYTES // MIB):
                file.write(pattern)
            file.flush()
            os.fsync(file.fileno())
        (root / "srv/stale").unlink()


def hashed_megabyte() -> bytes:
    """A megabyte that neither compresses nor holds zeros, the same each time."""
    import random

    return random.Random(2011).randbytes(MIB)


def _write_journal_only(root: Path) -> None:
    """Files whose metadata only the journal knows.

    fsync of each, never a sync of the whole: that would write the metadata home as well.
    """
    folder = root / "srv" / "late"
    folder.mkdir()
    pattern = hashed_megabyte()
    with (folder / "big").open("wb") as file:
        for _ in range(_JOURNAL_ONLY_BYTES // MIB):
            file.write(pattern)
        file.flush()
        os.fsync(file.fileno())
    for number in range(50):
        with (folder / f"small-{number}").open("w") as small:
            small.write(str(number))
            small.flush()
            os.fsync(small.fileno())


def _place(image: Path, raw: Path, ranges: tuple[tuple[int, int], ...]) -> None:
    """Write a flat image over the ranges of the disk, one after the other."""
    done = 0
    for offset, length in ranges:
        run(
            "dd", f"if={image}", f"of={raw}", "bs=1M", f"skip={done}B", f"seek={offset}B",
            f"count={length}B", "conv=sparse,notrunc", "status=none",
        )  # fmt: skip
        done += length


def _make_swap(raw: Path, where: tuple[int, int]) -> None:
    with loop(raw, *where) as device:
        run("mkswap", device)
