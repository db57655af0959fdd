"""Shrinking, by e2fsprogs itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.convert.extract import extract, open_format
from pipeline.convert.shrink import geometry, kept_in_size, left_out, minimum, shrink
from pipeline.core.errors import DiskError
from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.programs import Runner

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("size", "shrinks"), [("1G", True), ("40M", False)])
def test_the_content_stays_and_room_is_left(tmp_path: Path, size: str, shrinks: bool) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    content = bytes(range(256)) * 4096
    (tree / "file").write_bytes(content)
    image = tmp_path / "root.img"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-L", "uec-rootfs", "-d", tree, image, size], check=True
    )
    before = image.stat().st_size
    with Runner() as runner:
        after = shrink(image, Tools(runner, QuietProgress(), tmp_path))
    assert image.stat().st_size == after
    assert (after < before) is shrinks
    header = subprocess.run(
        ["dumpe2fs", "-h", image], check=True, capture_output=True, text=True
    ).stdout
    count, block = geometry(header, image)
    assert count * block == after
    assert "uec-rootfs" in header
    free = int(header.partition("Free blocks:")[2].split()[0]) * block
    assert free >= (60 << 20 if shrinks else 0)
    subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)
    shown = subprocess.run(["debugfs", "-R", "cat /file", image], check=True, capture_output=True)
    assert shown.stdout == content


def test_an_xfs_is_left_as_it_is_and_told_before_the_copy(tmp_path: Path) -> None:
    tree = tmp_path / "proto"
    fstab = tmp_path / "fstab"
    fstab.write_text("LABEL=root / xfs\n")
    tree.write_text(
        f"/\n0 0\nd--755 0 0\netc d--755 0 0\nfstab ---644 0 0 {fstab}\n$\n"
        "usr d--755 0 0\nbin d--755 0 0\n$\n$\nbin l--777 0 0 usr/bin\n$\n"
    )
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-p", tree, image], check=True)
    told: list[str] = []
    with Runner() as runner:
        tools = Tools(runner, QuietProgress(), tmp_path)

        def chosen(filesystem: str) -> None:
            assert not (tmp_path / "root.img").exists()
            told.extend(left_out(filesystem))

        extract(open_format(image), "", tools, chosen)
    assert told and "xfs cannot be made smaller" in told[0]
    assert left_out("ext4") == ()


def test_what_is_no_ext_file_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="does not tell the size"):
        geometry("nothing", tmp_path)
    with pytest.raises(DiskError, match="does not tell the size"):
        minimum("", tmp_path)


@pytest.mark.parametrize(("features", "words"), [("", 0), ("stable_inodes", 1)])
def test_a_file_system_whose_inodes_must_stay_keeps_its_size(
    features: str, words: int, tmp_path: Path
) -> None:
    image = tmp_path / "root.img"
    options = ["-O", features] if features else []
    words_of = ["mke2fs", "-q", "-F", "-t", "ext4", *options, str(image), "64M"]
    subprocess.run(words_of, check=True)
    told = kept_in_size(image)
    assert len(told) == words
    assert all(features in each for each in told)
