"""Signatures, tables and volume groups as other programs see them: blkid, sfdisk, pvck, qemu-img.

What tests/fixtures/disks/writers.py writes is shown to be what it claims here, too.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pipeline.convert.extract import open_format
from pipeline.core.errors import DiskError, InputError
from pipeline.core.image import DiskImage
from pipeline.disk.blocks.lvm.label import read_label
from pipeline.disk.blocks.partition_table import read_table
from pipeline.disk.blocks.qcow2 import Qcow2
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.blocks.superblock import recognise
from pipeline.disk.blocks.volume import Stretch
from tests.fixtures.disks.tools import run
from tests.fixtures.disks.writers import (
    Pv,
    group_text,
    write_gpt,
    write_logical,
    write_mbr,
    write_pv,
)
from tests.robustness.fuzz.seeds import FileDisk

pytestmark = pytest.mark.integration

MIB = 1 << 20


def empty(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize(
    "command",
    [
        "mke2fs -q -F -t ext2 -L two",
        "mke2fs -q -F -t ext3 -L three",
        "mke2fs -q -F -t ext4 -L uec-rootfs-sixte",
        "mke2fs -q -F -t ext4 -O ^has_journal",
        "mke2fs -q -F -t ext4 -b 1024 -O ^64bit,^metadata_csum",
        "mke2fs -q -F -t ext4 -O bigalloc",
        "mkfs.xfs -q -L twelve-bytes",
        "mkfs.xfs -q -m crc=0",
        "mkswap -L memory",
        "mkfs.vfat -F 16 -n EFI",
        "mkfs.vfat -F 32 -n SYSTEM",
    ],
)
def test_signatures_as_blkid_prints_them(command: str, tmp_path: Path) -> None:
    image = empty(tmp_path / "image", 320 * MIB)
    run(*command.split(), image)
    export = run("blkid", "-p", "-o", "export", image)
    told = dict(line.split("=", 1) for line in export.splitlines() if line)
    with RawFile(image) as file:
        found = recognise(file)
    assert found is not None
    assert found.type == told["TYPE"]
    assert found.uuid == told["UUID"]
    assert found.label == told.get("LABEL", "")
    if found.type.startswith("ext") or found.type == "xfs":
        assert found.size == image.stat().st_size


SCRIPTS = {
    "mbr": "label: dos\nsize=10MiB\nsize=20MiB,type=8e\n",
    "logical": "label: dos\nsize=10MiB\ntype=5\nsize=7MiB\nsize=8MiB,type=8e\nsize=9MiB\n",
    "logical gap": "label: dos\nstart=20MiB,type=f\nstart=30MiB,size=7MiB\nstart=60MiB,size=8MiB\n",
    "gpt": 'label: gpt\nsize=10MiB,name="first one"\nsize=20MiB\n',
    "gpt far": "label: gpt\nfirst-lba: 34\n5: start=40,size=9\n17: start=2048\n",
}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_tables_as_sfdisk_wrote_them(name: str, tmp_path: Path) -> None:
    image = empty(tmp_path / "disk", 128 * MIB)
    run("sfdisk", "--quiet", image, text=SCRIPTS[name])
    told = json.loads(run("sfdisk", "--json", image))["partitiontable"]
    expected = {}
    for entry in told["partitions"]:
        if entry["type"] not in ("5", "f"):
            number = int(entry["node"].removeprefix(str(image)))
            expected[number] = (
                Stretch(entry["start"] * 512, entry["size"] * 512),
                entry.get("name", ""),
            )
    with RawFile(image) as file:
        table = read_table(file)
    assert {p.number: (p.stretch, p.label) for p in table.partitions} == expected
    for partition in table.partitions:
        entry = next(e for e in told["partitions"] if e["start"] * 512 == partition.stretch.start)
        if table.kind == "gpt":
            assert partition.uuid == entry["uuid"].lower()
        else:
            assert partition.uuid == f"{told['id'].removeprefix('0x')}-{partition.number:02x}"


def test_our_writers_write_what_sfdisk_reads(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "disk", 64 * MIB)
    logical = [(0x83, 4096, 8000), (0x8E, 20480, 9000), (0x83, 40960, 100)]
    write_mbr(disk, [(0x83, 2048, 1000), write_logical(disk, 3072, 120000, logical)])
    told = json.loads(run("sfdisk", "--json", disk.path))["partitiontable"]["partitions"]
    assert [(e["start"], e["size"]) for e in told if e["type"] != "5"] == [
        (2048, 1000), (4096, 8000), (20480, 9000), (40960, 100)
    ]  # fmt: skip
    write_gpt(disk, [(2048, 4095, "a"), (8192, 9000, "b")])
    assert "No errors detected" in run("sfdisk", "--verify", disk.path)
    told = json.loads(run("sfdisk", "--json", disk.path))["partitiontable"]["partitions"]
    assert [(e["start"], e["size"], e["name"]) for e in told] == [
        (2048, 2048, "a"),
        (8192, 809, "b"),
    ]


def test_our_writers_write_what_pvck_reads(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "disk", 64 * MIB)
    area = 65536
    pv = Pv("pv0", "0123456789" * 3 + "ab", 0, 64 * MIB, areas=((4096, area),))
    text = group_text("vg", [pv], [("root", [(3, "pv0", 0)])], seqno=17)
    write_pv(disk, pv, text, ring_offset=area - 512)
    headers = run("pvck", "--dump", "headers", disk.path)
    assert "CHECK" not in headers and "incorrect" not in headers
    assert "vgname vg seqno 17" in headers
    with RawFile(disk.path) as file:
        found = read_label(file)
    assert found is not None and found.damage == ()
    assert [(copy.group, copy.seqno) for copy in found.copies] == [("vg", 17)]


def patterned(path: Path) -> Path:
    """8 MiB and a bit: holes, text that compresses, noise that does not, an odd end."""
    draw = random.Random(1)
    empty(path, 8 * MIB + 3 * 512)
    with path.open("r+b") as file:
        for offset in range(0, 8 * MIB, 256 << 10):
            file.seek(offset + draw.randrange(64) * 512)
            kind = draw.randrange(3)
            if kind:
                size = draw.randrange(1, 180) << 10
                file.write(draw.randbytes(size) if kind == 1 else (b"compress me " * size)[:size])
        file.seek(8 * MIB + 1024)
        file.write(b"the end")
    return path


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-c",
        "-o compat=0.10",
        "-c -o compat=0.10",
        "-o cluster_size=512",
        "-c -o cluster_size=4096",
        "-o cluster_size=2M",
        "-c -o cluster_size=2M",
        "-o preallocation=metadata",
        "-o preallocation=falloc",
        "-o lazy_refcounts=on",
        "-S 0",
    ],
)
def test_qcow2_as_qemu_img_wrote_it(options: str, tmp_path: Path) -> None:
    raw, image = patterned(tmp_path / "raw"), tmp_path / "qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options.split(), raw, image)
    assert open_format(image) == DiskImage(image, "qcow2")
    whole = raw.read_bytes()
    with RawFile(image) as file:
        disk = Qcow2(file)
        assert disk.size == len(whole)
        assert disk.read(0, disk.size) == whole
        assert disk.read(disk.size - 511, 511) == whole[-511:]
        seen = bytearray(disk.size)
        position = 0
        for run_ in disk.runs(0, disk.size):
            assert run_.offset >= position
            position = run_.offset + run_.length
            there = file.read(run_.at, run_.length) if run_.at is not None else None
            seen[run_.offset : position] = there or disk.read(run_.offset, run_.length)
        assert bytes(seen) == whole


def test_qcow2_with_zeroed_and_discarded_clusters_and_a_snapshot(tmp_path: Path) -> None:
    raw, image = patterned(tmp_path / "raw"), tmp_path / "qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
    run("qemu-img", "snapshot", "-c", "before", image)
    run("qemu-io", "-c", "write -z 1M 1M", "-c", "discard 3M 1M", "-c", "write -P 7 5M 70k", image)
    flat = tmp_path / "flat"
    run("qemu-img", "convert", "-O", "raw", image, flat)
    with RawFile(image) as file:
        disk = Qcow2(file)
        assert disk.read(0, disk.size) == flat.read_bytes()
        assert not any(MIB <= r.offset < 2 * MIB for r in disk.runs(MIB, MIB))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-b", "secret", "-F", "raw"], "layer over another file"),
        (["-o", "data_file=secret,data_file_raw=on"], "data lie in another file"),
        (["-o", "extended_l2=on,cluster_size=64k"], "subclusters"),
        (["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"],
         "encrypted"),
    ],
)  # fmt: skip
def test_qcow2_that_is_not_opened(options: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"the host's secret".ljust(MIB))
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, "disk", "1M", cwd=tmp_path)
    with pytest.raises(InputError, match=words):
        open_format(tmp_path / "disk")


def test_qcow2_marked_as_corrupt_is_an_error(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    with image.open("r+b") as file:
        file.seek(79)
        file.write(b"\2")
    with pytest.raises(DiskError, match="corrupt"):
        open_format(image)


@pytest.mark.parametrize("form", ["qed"])
def test_other_formats_are_named(form: str, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    run("qemu-img", "create", "-q", "-f", form, image, "4M")
    with pytest.raises(InputError, match=form.upper()):
        open_format(image)


def test_version_1_of_qcow_is_named_with_the_conversion(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    run("qemu-img", "create", "-q", "-f", "qcow", image, "4M")
    with pytest.raises(InputError, match="version 1") as caught:
        open_format(image)
    command = caught.value.next_step.partition(": ")[2].replace("NEW", str(tmp_path / "new"))
    run(*command.split())
    assert open_format(tmp_path / "new.qcow2").format == "qcow2"
