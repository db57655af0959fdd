"""File systems that are not whole: nothing of a file is lost, whatever the bitmaps say of it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.convert.extract import Extraction, extract, open_format
from pipeline.core.errors import DiskError
from pipeline.core.events import QuietProgress
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.ext_usage import check
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks.tools import run
from tests.fixtures.disks.writers import Pv, group_text, write_mbr, write_pv
from tests.robustness.fuzz.seeds import FileDisk

pytestmark = pytest.mark.integration

MIB = 1 << 20
SIZE = 32 * MIB
EXTENT = 64 << 10
GROUP = 1024  # blocks of 1024 bytes: many groups, some of files' blocks alone
CONTENT = random.Random(15).randbytes(3 * MIB)
FILES = 40
"""More than a group has inodes."""
LAYOUTS = ("partition", "one segment", "two segments", "qcow2")


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Runner(tmp_path / "commands.log") as runner:
        yield Tools(runner, QuietProgress(), scratch)


def root(folder: Path, *options: str) -> Path:
    """A root file system that holds CONTENT, which fills whole groups."""
    tree = folder / "tree"
    for name in ("etc", "usr/bin", "srv"):
        (tree / name).mkdir(parents=True)
    (tree / "bin").symlink_to("usr/bin")
    (tree / "etc/fstab").write_text("/dev/sda1 / ext4\n")
    (tree / "srv/content").write_bytes(CONTENT)
    for number in range(FILES):
        (tree / f"srv/{number}").write_text(f"file {number}")
    image = folder / "root.fs"
    with image.open("wb") as file:
        file.truncate(SIZE)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-g", str(GROUP), "-N", "512", *options,
        "-d", tree, image)  # fmt: skip
    run("e2fsck", "-f", "-n", image)
    return image


def disk_of(image: Path, layout: str, folder: Path) -> Path:
    """The file system on a disk."""
    disk = FileDisk(folder / "disk.img", 40 * MIB)
    if "segment" not in layout:
        write_mbr(disk, [(0x83, 2048, SIZE // 512)])
        disk.place(image, [(MIB, SIZE)])
    else:
        pv = Pv("pv0", "a" * 32, MIB, 36 * MIB, 2048)
        write_mbr(disk, [(0x8E, 2048, pv.size // 512)])
        count = SIZE // EXTENT
        cut = count // 3 if layout == "two segments" else 0
        # The second segment lies first.
        segments = [(count - cut, pv.name, cut), (cut, pv.name, 0)]
        segments = [segment for segment in segments if segment[0]]
        text = group_text("vg", [pv], [("root", segments)], extent_sectors=EXTENT // 512)
        write_pv(disk, pv, text)
        start = pv.start + pv.pe_start * 512
        disk.place(image, [(start + first * EXTENT, n * EXTENT) for n, _, first in segments])
    if layout != "qcow2":
        return disk.path
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk.path, folder / "disk.qcow2")
    return folder / "disk.qcow2"


def blocks_of_content(image: Path) -> list[int]:
    return [int(word) for word in run("debugfs", "-R", "blocks /srv/content", image).split()]


def told(image: Path, commands: list[str]) -> None:
    script = image.with_suffix(".debugfs")
    script.write_text("\n".join([*commands, ""]))
    run("debugfs", "-w", "-f", script, image)


def figure(image: Path, pattern: str) -> int:
    found = re.search(pattern, run("dumpe2fs", image), re.DOTALL)
    assert found
    return int(found[1])


def forgotten(image: Path) -> None:
    """The bitmap calls the file's blocks free, and all counts agree."""
    blocks = blocks_of_content(image)
    commands = [f"freeb {block}" for block in blocks]
    for group in sorted({(block - 1) // GROUP for block in blocks}):
        free = figure(image, rf"Group {group}: .*?\n  (\d+) free blocks")
        more = sum((block - 1) // GROUP == group for block in blocks)
        commands.append(f"set_bg {group} free_blocks_count {free + more}")
    free = figure(image, r"\nFree blocks: +(\d+)")
    told(image, [*commands, f"ssv free_blocks_count {free + len(blocks)}"])


def never_written(image: Path) -> None:
    """A group of the file's blocks is flagged as one whose bitmap was never written."""
    groups = [(block - 1) // GROUP for block in blocks_of_content(image)]
    full = max(groups, key=groups.count)
    told(image, [f"set_bg {full} flags 0x2", f"set_bg {full} checksum calc"])


def without_inodes(image: Path) -> None:
    """A group with inodes of files is flagged as one without any."""
    per_group = figure(image, r"\nInodes per group: +(\d+)")
    names = run("debugfs", "-R", "ls -p /srv", image)
    number = max(int(line.split("/")[1]) for line in names.splitlines() if line.startswith("/"))
    group = (number - 1) // per_group
    assert group > 0
    told(image, [f"set_bg {group} flags 0x1", f"set_bg {group} checksum calc"])


OLD = ("-O", "^metadata_csum,^uninit_bg,^64bit")
LAZY = ("-O", "^metadata_csum,uninit_bg,^64bit,^flex_bg,^resize_inode,sparse_super2")
DAMAGE = {
    "bitmap and counts": (OLD, forgotten),
    "BLOCK_UNINIT": (LAZY, never_written),
    "INODE_UNINIT": (LAZY, without_inodes),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_no_content_is_lost_by_a_wrong_bitmap(
    damage: str, layout: str, tools: Tools, tmp_path: Path
) -> None:
    options, wrong = DAMAGE[damage]
    image = root(tmp_path, *options)
    (tmp_path / "gone").write_bytes(b"deleted" * MIB)
    told(image, [f"write {tmp_path / 'gone'} gone", "rm gone"])
    wrong(image)
    with RawFile(image) as file:
        # What makes the fault silent: by themselves the bitmaps look right.
        assert check(Ext(file)) == ""
    done = extract(open_format(disk_of(image, layout, tmp_path)), "", tools)
    assert content_of(done) == CONTENT
    run("e2fsck", "-f", "-n", done.root.path)
    # What no file has any more did not come along.
    assert b"deleted" not in done.root.path.read_bytes()
    assert "all data" in done.method and "e2fsck did not find it whole" in done.method
    assert any("e2fsck corrected" in note for note in done.notes)


def content_of(done: Extraction) -> bytes:
    """The large file; the small ones are as they were."""
    folder = done.root.path.with_name("srv")
    folder.mkdir()
    run("debugfs", "-R", f"rdump /srv {folder}", done.root.path)
    for number in range(FILES):
        assert (folder / f"srv/{number}").read_text() == f"file {number}"
    return (folder / "srv/content").read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [OLD, LAZY, ()])
def test_a_whole_one_is_copied_by_its_used_blocks_and_checked_once(
    options: tuple[str, ...], layout: str, tools: Tools, tmp_path: Path
) -> None:
    image = root(tmp_path, *options)
    done = extract(open_format(disk_of(image, layout, tmp_path)), "", tools)
    assert "used blocks" in done.method and done.notes == ()
    assert done.copied < SIZE // 2
    assert content_of(done) == CONTENT
    log = (tmp_path / "commands.log").read_text()
    (checked,) = [line for line in log.splitlines() if line.startswith("e2fsck")]
    # Where e2fsck can open the original it looks at that one, beside the copy.
    original = layout in ("partition", "one segment")
    assert ("?offset=" in checked) is original and " -n " in checked


@pytest.mark.parametrize("layout", LAYOUTS)
def test_real_damage_is_refused_not_repaired(layout: str, tools: Tools, tmp_path: Path) -> None:
    image = root(tmp_path, *OLD)
    told(image, ["clri /usr"])
    with pytest.raises(DiskError, match="more damage than a power cut leaves"):
        extract(open_format(disk_of(image, layout, tmp_path)), "", tools)


def test_a_file_system_without_uuid_gets_one(tools: Tools, tmp_path: Path) -> None:
    """Old mke2fs and genext2fs make none; e2fsck gives the copy one."""
    image = root(tmp_path, *OLD)
    run("tune2fs", "-U", "clear", image)
    done = extract(open_format(disk_of(image, "partition", tmp_path)), "", tools)
    assert content_of(done) == CONTENT
    assert done.root.uuid.count("-") == 4 and set(done.root.uuid) - set("0-")


def test_features_newer_than_e2fsck_are_no_damage(tools: Tools, tmp_path: Path) -> None:
    image = root(tmp_path, *OLD)
    told(image, ["ssv feature_ro_compat 0x40000001"])
    with pytest.raises(DiskError) as caught:
        extract(open_format(disk_of(image, "partition", tmp_path)), "", tools)
    assert "features that this host's e2fsck does not know" in str(caught.value)
    assert "newer e2fsck" in str(caught.value) and "power cut" not in str(caught.value)
