"""Partition tables, logical volumes and image formats with a root in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.compatibility.attempt import Case, Made
from tests.compatibility.roots import (
    EXT_MIB,
    MIB,
    START,
    ext,
    on_partition,
    patch,
    place,
    sized,
    tree,
)
from tests.fixtures.disks import LAYOUTS, make_disk
from tests.fixtures.disks.tools import run
from tests.fixtures.disks.writers import Pv, group_text, write_gpt, write_pv
from tests.robustness.fuzz.seeds import FileDisk

_EXT4 = "mke2fs -q -F -t ext4"
_EXTENT = 4 * MIB
_EXTENTS = EXT_MIB * MIB // _EXTENT  # of a volume that holds the root
_DISK_MIB = EXT_MIB + 64
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # root-x86-64
# A script for sfdisk, and the number of sectors before the root; None: sfdisk does not tell.
TABLES: dict[str, tuple[str, int]] = {
    "MBR, primary partition": ("label: dos\nstart=2048, type=83, bootable\n", 2048),
    "MBR, logical partition": (
        "label: dos\nstart=2048, size=2048, type=83\nstart=4096, type=5\nstart=6144, type=83\n",
        6144,
    ),
    "GPT": ("label: gpt\nstart=2048, type=L\n", 2048),
    "GPT, type of the discoverable partitions specification": (
        f"label: gpt\nstart=2048, type={_ROOT_TYPE}\n",
        2048,
    ),
    "GPT with BIOS boot and EFI system partition, not formatted": (
        "label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\n"
        "start=4096, size=32768, type=U\nstart=36864, type=L\n",
        36864,
    ),
}
FOREIGN_TABLES = {"SGI": "label: sgi\n", "Sun": "label: sun\n"}
_Segments = Sequence[tuple[int, str, int]]
# Segments of the root: (extents, physical volume, its first extent).
LVM: dict[str, _Segments] = {
    "LVM2, linear, one segment": [(_EXTENTS, "pv0", 0)],
    "LVM2, linear, three segments out of order": [
        (8, "pv0", 16),
        (10, "pv0", 2),
        (_EXTENTS - 18, "pv0", 24),
    ],
    "LVM2, linear, over two physical volumes": [(10, "pv1", 1), (_EXTENTS - 10, "pv0", 0)],
    "LVM2, linear, over three physical volumes": [
        (6, "pv2", 0),
        (8, "pv1", 4),
        (_EXTENTS - 14, "pv0", 3),
    ],
}
# The type of the root's one segment, and the word that the error must have.
LVM_REFUSED = {
    "LVM2, thin volume": ("thin", "LVM type thin"),
    "LVM2, raid1": ("raid1", "LVM type raid1"),
    "LVM2, mirror": ("mirror", "LVM type mirror"),
    "LVM2, cache": ("cache+CACHE_USES_CACHEVOL", "LVM type cache"),
    "LVM2, writecache": ("writecache", "LVM type writecache"),
    "LVM2, vdo": ("vdo", "LVM type vdo"),
    "LVM2, snapshot": ("snapshot", "LVM type snapshot"),
}
CONVERTED = {
    "qcow2, version 2": "-O qcow2 -o compat=0.10",
    "qcow2, version 3": "-O qcow2 -o compat=1.1",
    "qcow2, compressed": "-c -O qcow2",
    "qcow2, clusters of 4 KiB": "-O qcow2 -o cluster_size=4k",
    "qcow2, clusters of 2 MiB": "-O qcow2 -o cluster_size=2M",
    "qcow2, lazy refcounts": "-O qcow2 -o lazy_refcounts=on",
    "qcow2, refcounts of one bit": "-O qcow2 -o refcount_bits=1",
    "qcow2, preallocated": "-O qcow2 -o preallocation=metadata",
    "qcow2, compressed by zstd": "-c -O qcow2 -o compression_type=zstd",
    "VMDK": "-O vmdk",
    "VMDK, streamOptimized": "-O vmdk -o subformat=streamOptimized",
    "VDI": "-O vdi",
    "VHDX": "-O vhdx",
    "VHD": "-O vpc",
    "VHD, fixed": "-O vpc -o subformat=fixed,force_size=on",
}
# Options of qemu-img convert, and the word that the error must have.
FORMATS_REFUSED = {
    "qcow2, extended L2 entries": ("-O qcow2 -o extended_l2=on,cluster_size=64k", "subclusters"),
    "qcow2, external data file": ("-O qcow2 -o data_file=data", "another file"),
    "qcow, version 1": ("-O qcow", "version 1"),
    "QED": ("-O qed", "QED"),
}
_SECRET = (
    "--object secret,id=s,data=x -f qcow2 "
    "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
)
_INSTALLED = "sfdisk, lvm2, the kernel's drivers; a whole Debian 12 on it"


ABOUT = """\
The root is the small ext4 of the section above, but in the LAYOUTS of `tests/fixtures/disks`, which
have a whole Debian 12, stale blocks and files that are hard to copy, most of them /boot and swap.
"""


def cases() -> list[Case]:
    """Every row of the section, in its order."""
    found = [Case("no table", f"{_EXT4} -d TREE", _bare)]
    for name, (script, sector) in TABLES.items():
        found.append(Case(name, f"sfdisk: {script.strip()}", partial(_table, script, sector)))
    found += [
        Case("GPT, first copy overwritten", "sfdisk, then zeros over sector 1", _backup_gpt),
        Case("GPT, sectors of 4096 bytes", "tests/fixtures/disks/writers.py", _large_sectors),
    ]
    for name, script in FOREIGN_TABLES.items():
        found.append(
            Case(f"{name} table", f"sfdisk: {script.strip()}", partial(_label, script), name)
        )
    writers = "tests/fixtures/disks/writers.py, metadata by hand"
    found += [Case(name, writers, partial(_lvm, segments)) for name, segments in LVM.items()]
    found += [
        Case(name, writers, partial(_other_lvm, kind), named)
        for name, (kind, named) in LVM_REFUSED.items()
    ]
    found += [Case(f"LAYOUTS: {name}", _INSTALLED, partial(_layout, name)) for name in LAYOUTS]
    convert = "qemu-img convert"
    found += [
        Case(name, f"{convert} {words}", partial(_converted, words))
        for name, words in CONVERTED.items()
    ]
    found.append(Case("qcow2, with an internal snapshot", "qemu-img snapshot -c", _snapshot))
    found.append(
        Case("qcow2, backing file", "qemu-img create -b", _backed, "layer over another file")
    )
    found.append(
        Case("qcow2, encrypted (empty)", f"qemu-img create {_SECRET}", _encrypted, "encrypted")
    )
    found += [
        Case(name, f"{convert} {words}", partial(_converted, words), named)
        for name, (words, named) in FORMATS_REFUSED.items()
    ]
    return found


def _root(where: Path) -> Path:
    return ext(where / "root.fs", _EXT4)


def _bare(where: Path) -> Made:
    image = _root(where)
    return Made(image, tree()[1], image)


def _table(script: str, sector: int, where: Path) -> Made:
    disk = sized(where / "disk.raw", _DISK_MIB)
    run("sfdisk", "--quiet", disk, text=script)
    image = _root(where)
    place(image, disk, sector * 512)
    return Made(disk, tree()[1], image)


def _backup_gpt(where: Path) -> Made:
    made = _table(*TABLES["GPT"], where)
    patch(made.disk, [(512, bytes(512))])
    return made


def _large_sectors(where: Path) -> Made:
    image = _root(where)
    disk = FileDisk(where / "disk.raw", _DISK_MIB * MIB)
    write_gpt(disk, [(START // 4096, START // 4096 + EXT_MIB * MIB // 4096 - 1, "root")], 4096)
    place(image, disk.path, START)
    return Made(disk.path, tree()[1], image)


def _label(script: str, where: Path) -> Made:
    disk = sized(where / "disk.raw", _DISK_MIB)
    run("sfdisk", "--quiet", disk, text=script)
    return Made(disk)


def _group(where: Path, count: int) -> tuple[FileDisk, list[Pv]]:
    """A disk with an MBR whose partitions are the physical volumes, each of 128 MiB."""
    size = 128 * MIB
    starts = [START + number * size for number in range(count)]
    disk = FileDisk(where / "disk.raw", START + count * size + MIB)
    script = "".join(f"start={at // 512}, size={size // 512}, type=8e\n" for at in starts)
    run("sfdisk", "--quiet", disk.path, text="label: dos\n" + script)
    return disk, [
        Pv(f"pv{number}", "abc"[number] * 32, at, size) for number, at in enumerate(starts)
    ]


def _written(where: Path, segments: _Segments, change: Callable[[str], str]) -> Made:
    """A disk with a volume group; change: of its metadata's text."""
    disk, pvs = _group(where, 1 + max(int(name[2:]) for _, name, _ in segments))
    text = change(group_text("vg", pvs, [("root", segments)]))
    for pv in pvs:
        write_pv(disk, pv, text)
    image, done = _root(where), 0
    by_name: Mapping[str, Pv] = {pv.name: pv for pv in pvs}
    for extents, name, first in segments:
        pv, length = by_name[name], extents * _EXTENT
        offset = pv.start + pv.pe_start * 512 + first * _EXTENT
        place(image, disk.path, offset, skip=done, count=length)
        done += length
    return Made(disk.path, tree()[1], image)


def _lvm(segments: _Segments, where: Path) -> Made:
    return _written(where, segments, lambda text: text)


def _other_lvm(kind: str, where: Path) -> Made:
    segment = [(_EXTENTS, "pv0", 0)]
    other = f'type = "{kind}"\norigin = "other"'
    return _written(where, segment, lambda text: text.replace('type = "striped"', other))


def _layout(name: str, where: Path) -> Made:
    facts = make_disk(name, where / "disk")
    return Made(facts.disk.path, facts.files)


def _convert(words: str, where: Path) -> Path:
    raw = on_partition(_root(where), where / "disk.raw")
    run("qemu-img", "convert", "-f", "raw", *words.split(), raw.name, "disk", cwd=where)
    return where / "disk"


def _converted(words: str, where: Path) -> Made:
    return Made(_convert(words, where), tree()[1], where / "root.fs")


def _snapshot(where: Path) -> Made:
    disk = _convert("-O qcow2", where)
    run("qemu-img", "snapshot", "-c", "before", disk)
    return Made(disk, tree()[1], where / "root.fs")


def _backed(where: Path) -> Made:
    _convert("-O qcow2", where)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk", "-F", "qcow2", "layer", cwd=where)
    return Made(where / "layer")


def _encrypted(where: Path) -> Made:
    run("qemu-img", "create", "-q", *_SECRET.split(), where / "disk", "64M")
    return Made(where / "disk")
