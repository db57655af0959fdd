"""An archive unpacks to the tree it was made of, and is the same bytes every time."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline.convert.ext4 import tarball
from pipeline.convert.ext4.contents import digest_tree
from pipeline.convert.ext4.tarball import write_archive
from pipeline.convert.ext4.tree import Entry, scan
from pipeline.core.errors import HostError
from tests.unit.convert.ext4.images import EPOCH, MIB


def packed(entries: list[Entry], epoch: int = EPOCH) -> bytes:
    target = io.BytesIO()
    size = write_archive(entries, target, epoch)
    assert size == len(target.getvalue())
    return target.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "d" / "file").write_bytes(b"content" * 1000)
    (top / "d" / "file").chmod(0o4750)
    os.utime(top / "d" / "file", ns=(0, 1_600_000_000_123_456_700))
    (top / "hard").hardlink_to(top / "d" / "file")
    (top / "link").symlink_to("t" * 150)
    (top / ("n" * 200)).write_bytes(os.urandom(5 * MIB))
    os.setxattr(top / "d" / "file", "user.a=b%", b"\0\n=value")
    os.setxattr(top / "d", "user.empty", b"")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe")).write_text("x")
    Path(os.fsdecode(os.fsencode(top) + b"/" + b"\xff" * 120)).write_text("x")
    os.mkfifo(top / "fifo")
    return top


def test_tar_unpacks_the_tree(tree: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "a.tar.gz", tmp_path / "out"
    archive.write_bytes(packed(scan([tree]), 1 << 33))
    out.mkdir()
    words = [
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "-xpf",
        str(archive),
        "-C",
        str(out),
    ]
    done = subprocess.run(["tar", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert digest_tree(scan([out])) == digest_tree(scan([tree]))


def test_what_only_root_could_unpack_is_told(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    console = Entry(b"console", "character", 0o600, rdev=(5, 1), mtime=7 * 10**9)
    late = Entry(b"late", "file", 0o644, (1 << 32) - 2, 3_000_000, mtime=(EPOCH + 5) * 10**9)
    early = Entry(b"early", "file", 0o644, mtime=-1_500_000_000)
    socket = Entry(b"socket", "socket", 0o777)
    content = packed(scan([tmp_path / "t"], [console, late, early, socket]))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = {member.name: member for member in archive.getmembers()}
    assert sorted(found) == [".", "./console", "./early", "./late"]
    device = found["./console"]
    assert (device.type, device.devmajor, device.devminor, device.mtime) == (b"3", 5, 1, 7)
    assert (found["./late"].uid, found["./late"].gid) == ((1 << 32) - 2, 3_000_000)
    assert found["./late"].mtime == EPOCH
    assert found["./early"].mtime == -1.5
    assert {member.uname + member.gname for member in found.values()} == {""}


def test_the_same_bytes_with_any_number_of_workers(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = scan([tree])
    first = packed(entries)
    monkeypatch.setattr(tarball, "_THREADS", 1)
    assert packed(entries) == first
    assert first[4:8] == bytes(4)  # gzip's time
    assert first[3] == 0  # no name
    assert len(gzip.decompress(first)) % 10240 == 0


def test_a_file_that_shrinks_while_it_is_packed(tree: Path) -> None:
    entries = scan([tree])
    os.truncate(tree / "hard", 10)
    with pytest.raises(HostError, match="it changed while"):
        packed(entries)
