"""The kernel shows an image's tree as it was, and an image grows as those of clouds do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.convert.ext4.contents import digest_tree
from pipeline.convert.ext4.tree import Entry, scan
from tests.unit.convert.ext4.images import EPOCH, MIB, fsck, make, parameters
from tests.unit.convert.ext4.test_writer import ACL, CAPABILITY, put

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes and mounts"),
]


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    """A tree with what only root can make."""
    top = tmp_path / "tree"
    for index in range(300):
        put(top, f"d{index % 7}/f{index}", index * 397, seed=index)
    put(top, "large", 9 * MIB)
    os.truncate(top / "large", 3 << 30)
    os.mknod(top / "console", 0o020600, os.makedev(5, 1))
    os.mknod(top / "wide", 0o060660, os.makedev(300, 70000))
    os.setxattr(top / "d1" / "f1", "security.capability", CAPABILITY)
    os.setxattr(top / "d2", "system.posix_acl_access", ACL)
    os.setxattr(top / "d2", "system.posix_acl_default", ACL)
    os.setxattr(top / "d3", "user.long", b"v" * 2000)
    (top / "hard").hardlink_to(top / "d4" / "f4")
    (top / "slow").symlink_to("t/" * 150)
    os.chown(top / "d5", 70_000, 1 << 31)
    (top / "d5").chmod(0o3771)
    # Times after the image's own would not be kept.
    for path in (*top.rglob("*"), top):
        os.utime(path, ns=(0, EPOCH * 10**9 - 1_000_000_001), follow_symlinks=False)
    return scan([top])


def test_a_mounted_image_is_the_tree(entries: list[Entry], tmp_path: Path) -> None:
    image, at = tmp_path / "image", tmp_path / "mounted"
    make(entries, image, parameters(64 * MIB))
    fsck(image)
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-o", "loop,ro", image, at], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this host mounts no images: {mounted.stderr}")
    try:
        found = [entry for entry in scan([at]) if entry.path != b"lost+found"]
        assert [plain(entry) for entry in found] == [plain(entry) for entry in entries]
        assert digest_tree(found) == digest_tree(entries)
        assert (at / "large").stat().st_blocks * 512 < 10 * MIB
    finally:
        subprocess.run(["umount", at], check=True)


def plain(entry: Entry) -> Entry:
    """What does not depend on where the tree lies."""
    return entry._replace(host=b"", sparse=False)


def test_a_guest_writes_to_it(entries: list[Entry], tmp_path: Path) -> None:
    image, at = tmp_path / "image", tmp_path / "mounted"
    make(entries, image, parameters(64 * MIB))
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-o", "loop", image, at], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this host mounts no images: {mounted.stderr}")
    try:
        for index in range(500):
            (at / "d1" / f"new{index}").write_bytes(b"n" * index * 7)
        subprocess.run(["rm", "-r", at / "d2", at / "large"], check=True)
    finally:
        subprocess.run(["umount", at], check=True)
    fsck(image)


def test_an_image_grows_to_three_times_its_size(entries: list[Entry], tmp_path: Path) -> None:
    image = tmp_path / "image"
    for size in (64, 200, 700):
        make(entries, image, parameters(size * MIB))
        os.truncate(image, 3 * size * MIB)
        subprocess.run(["resize2fs", image], capture_output=True, check=True)
        fsck(image)
        described = subprocess.run(
            ["dumpe2fs", "-h", image], capture_output=True, text=True, check=True
        ).stdout
        assert f"Block count:              {3 * size * MIB // 4096}\n" in described
