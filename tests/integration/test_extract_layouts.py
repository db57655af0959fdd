"""Extraction from disks with a real Debian on them, judged by the kernel and the file systems' own
tools: nothing that was written by the code under test is asked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.convert.extract import Extraction, extract, open_format
from pipeline.core.events import QuietProgress
from pipeline.core.image import PartitionImage
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.host.sparse import data_runs
from tests.fixtures.disks import LAYOUTS, DiskFacts, listing, make_disk, mounted
from tests.fixtures.disks.tools import run

pytestmark = pytest.mark.integration

SLACK = 8 << 20
"""Bytes of metadata that a file system's own count of used space leaves out."""


def digest(path: Path) -> str:
    """Of all that is not zero; where holes lie may change when the kernel writes a file back."""
    state = hashlib.blake2b()
    with path.open("rb") as file:
        wanted: set[int] = set()
        for offset, length in data_runs(file.fileno(), 0, path.stat().st_size):
            wanted.update(range(offset >> 20, (offset + length - 1 >> 20) + 1))
        for number in sorted(wanted):
            piece = os.pread(file.fileno(), 1 << 20, number << 20)
            if piece.strip(b"\0"):
                state.update(number.to_bytes(8, "little") + piece)
    return state.hexdigest()


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def facts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DiskFacts]:
    disk = tmp_path_factory.mktemp("disk") / "disk.img"
    yield make_disk(request.param, disk)
    disk.unlink()


@pytest.fixture(scope="module")
def unchanged(facts: DiskFacts) -> Iterator[str]:
    before, status = digest(facts.disk.path), facts.disk.path.stat()
    yield before
    after = facts.disk.path.stat()
    assert digest(facts.disk.path) == before
    assert (after.st_mtime_ns, after.st_size) == (status.st_mtime_ns, status.st_size)


@pytest.fixture(scope="module")
def extraction(
    facts: DiskFacts, unchanged: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Extraction]:
    scratch = tmp_path_factory.mktemp("scratch")
    assert open_format(facts.disk.path) == facts.disk
    with Runner() as runner:
        done = extract(facts.disk, "", Tools(runner, QuietProgress(), scratch))
    yield done
    for image in scratch.iterdir():
        image.unlink()


def images(facts: DiskFacts, done: Extraction) -> Iterator[tuple[PartitionImage, str, int]]:
    yield done.root, facts.root_uuid, facts.root_size
    if facts.has_boot:
        assert done.boot is not None
        yield done.boot, facts.boot_uuid, facts.boot_size


def test_the_images_are_the_volumes_the_disk_was_made_with(
    facts: DiskFacts, extraction: Extraction
) -> None:
    assert (extraction.boot is not None) == facts.has_boot
    for image, uuid, size in images(facts, extraction):
        assert (image.uuid, image.size, image.path.stat().st_size) == (uuid, size, size)
    assert extraction.root.filesystem == facts.filesystem
    assert facts.choice in extraction.root.source or facts.layout == "no-lvm"


def test_blkid_sees_the_same(facts: DiskFacts, extraction: Extraction) -> None:
    for image, _, _ in images(facts, extraction):
        export = dict(
            line.split("=", 1) for line in run("blkid", "-p", "-o", "export", image.path).split()
        )
        assert (export["TYPE"], export["UUID"]) == (image.filesystem, image.uuid)
        assert export.get("LABEL", "") == image.label


def test_the_file_systems_are_clean(facts: DiskFacts, extraction: Extraction) -> None:
    for image, _, _ in images(facts, extraction):
        if image.filesystem == "xfs":
            run("xfs_repair", "-n", "-f", image.path)
        else:
            run("e2fsck", "-f", "-n", image.path)


def test_every_file_is_what_it_was(
    facts: DiskFacts, extraction: Extraction, tmp_path: Path
) -> None:
    replay = "norecovery" if facts.filesystem == "xfs" else "noload"
    with mounted(extraction.root.path, tmp_path / "root", "ro", replay) as root:
        assert listing(root) == facts.files
    if extraction.boot:
        with mounted(extraction.boot.path, tmp_path / "boot", "ro", "noload") as boot:
            assert listing(boot) == facts.boot_files


def test_stale_blocks_and_holes_cost_nothing(
    facts: DiskFacts, extraction: Extraction, tmp_path: Path
) -> None:
    if facts.filesystem == "xfs":
        limit = facts.disk.path.stat().st_blocks * 512  # its free blocks are the guest layer's
    else:
        with mounted(extraction.root.path, tmp_path / "root", "ro", "noload") as root:
            status = os.statvfs(root)
            used = (status.f_blocks - status.f_bfree) * status.f_frsize
        # statvfs leaves out what mke2fs laid down: journal and inode tables, as far as written.
        limit = used + SLACK + (64 << 20)
    assert extraction.root.path.stat().st_blocks * 512 <= limit


def test_used_blocks_alone_were_copied_where_that_is_safe(
    facts: DiskFacts, extraction: Extraction
) -> None:
    if facts.layout == "dirty":
        assert "all data" in extraction.method
        assert any("journal" in note for note in extraction.notes)
        return
    assert extraction.notes == ()
    if facts.filesystem == "xfs":
        return
    assert "all data" not in extraction.method
    used = 0
    for image, _, _ in images(facts, extraction):
        words = dict(
            line.split(":", 1)
            for line in run("dumpe2fs", "-h", image.path).splitlines()
            if ":" in line
        )
        blocks = int(words["Block count"]) - int(words["Free blocks"])
        used += blocks * int(words["Block size"])
    assert 0 < extraction.copied <= used
