"""Images are what e2fsck calls clean and our reader finds equal, and the same bytes every time."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.convert.ext4.nodes import needed_bytes
from pipeline.convert.ext4.tree import Entry, scan
from pipeline.core.errors import HostError, InputError
from pipeline.core.image import PartitionImage
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.ext_inodes import Reader
from pipeline.disk.filesystems.ext_usage import check
from pipeline.guest.access.ext_support import unsafe_because
from tests.unit.convert.ext4.images import EPOCH, MIB, assert_equal, fsck, make, parameters

BLOCK = 4096
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (1, 7, 0xFFFFFFFF),
        (2, 6, 1000),
        (4, 5, 0xFFFFFFFF),
        (8, 4, 70000),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)


def put(top: Path, name: str, size: int, *, seed: int = 0) -> Path:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Something of every kind that an ordinary user can make."""
    top = tmp_path / "tree"
    top.mkdir()
    for index, size in enumerate((0, 1, 4095, 4096, 4097, 70_000, 300_000, 3_000_000)):
        put(top, f"files/{size}", size, seed=index)
    (top / "files" / "twice").hardlink_to(top / "files" / "4096")
    (top / "fast").symlink_to("x" * 59)
    (top / "slow").symlink_to("x" * 60)
    (top / "longest").symlink_to("x" * 4095)
    (top / ("n" * 255)).mkdir()
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe not UTF-8")).write_text("x")
    os.mkfifo(top / "fifo")
    (top / "files" / "1").chmod(0o6755)
    os.utime(top / "files" / "1", ns=(0, 1_600_000_000_123_456_789))
    os.utime(top / "files" / "4097", ns=(0, 2_500_000_000_000_000_000))
    os.setxattr(top / "files" / "1", "user.small", b"value")
    os.setxattr(top / "files" / "1", "user.empty", b"")
    os.setxattr(top / "files" / "1", "user.large", b"v" * 3000)
    return top


def all_kinds(tree: Path) -> list[Entry]:
    """What only root could make, as the entries say it."""
    extra = [
        Entry(b"console", "character", 0o600, rdev=(5, 1), mtime=5),
        Entry(b"wide", "block", 0o660, 3, 70000, rdev=(300, 70000)),
        Entry(b"zero", "character", 0o666, rdev=(0, 1)),
        Entry(b"socket", "socket", 0o777, 1 << 31, (1 << 32) - 2),
    ]
    added = {
        b"files/1": (("security.capability", CAPABILITY),),
        b"files/70000": (("system.posix_acl_access", ACL),),
        b"files": (("system.posix_acl_access", ACL), ("system.posix_acl_default", ACL)),
    }
    return [
        entry._replace(uid=1000, gid=4242, xattrs=entry.xattrs + added.get(entry.path, ()))
        for entry in scan([tree], extra)
    ]


@pytest.mark.parametrize("checksums", [True, False])
def test_everything_is_kept(tree: Path, tmp_path: Path, *, checksums: bool) -> None:
    entries, image = all_kinds(tree), tmp_path / "image"
    written = make(entries, image, parameters(32 * MIB, checksums=checksums))
    fsck(image)
    assert_equal(entries, image)
    assert image.stat().st_size == written.size == 32 * MIB
    with Reader(image) as reader:
        assert reader.superblock.label == "root"
        assert reader.superblock.used == written.used
        assert check(reader) == ""


def test_the_fast_editing_backend_takes_it(tree: Path, tmp_path: Path) -> None:
    make(scan([tree]), tmp_path / "image")
    with Reader(tmp_path / "image") as reader:
        uuid = reader.superblock.uuid
    image = PartitionImage(tmp_path / "image", 16 * MIB, "ext4", uuid, "root", "a test")
    assert unsafe_because(image) == ""


def test_debugfs_reads_the_same(tree: Path, tmp_path: Path) -> None:
    make(all_kinds(tree), tmp_path / "image")

    def ask(command: str) -> str:
        argv = ["debugfs", "-R", command, str(tmp_path / "image")]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    assert "Mode:  06755" in ask("stat /files/1")
    assert "mtime: 0x5f5e1000:1d6f3454" in ask("stat /files/1")
    assert "user.small" in ask("ea_list /files/1")
    assert f'"{"v" * 3000}"' in ask("ea_get /files/1 user.large")
    assert "05:01" in ask("stat /console")


def test_times_beyond_the_epoch_are_the_epoch(tree: Path, tmp_path: Path) -> None:
    make(scan([tree]), tmp_path / "image", parameters(epoch=1_000_000_000))
    assert_equal(scan([tree]), tmp_path / "image", 1_000_000_000)


def test_holes_stay_holes(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    with (top / "sparse").open("wb") as file:
        for index in range(1200):  # more extents than one block of a tree has
            file.seek(index * 3 * BLOCK)
            file.write(b"%d" % index)
        file.truncate((3 << 30) + 5)
    with (top / "hole").open("wb") as file:
        file.truncate(1 << 20)
    entries, image = scan([top]), tmp_path / "image"
    written = make(entries, image, parameters(32 * MIB))
    fsck(image)
    assert written.used < 16 * MIB
    with Reader(image) as reader, (top / "sparse").open("rb") as source:
        inode = reader.find(b"/sparse")
        assert inode is not None
        assert inode.size == (3 << 30) + 5
        pieces = list(reader.chunks(inode))
        assert sum(len(data) for _, data in pieces) == 1200 * BLOCK
        for at, data in pieces:
            source.seek(at)
            assert source.read(BLOCK) == data


def test_a_file_larger_than_a_group(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    with (top / "large").open("wb") as file:
        for at in range(0, 300 * MIB, MIB):
            file.seek(at)
            file.write(at.to_bytes(8, "little"))
            file.write(bytes(MIB - 8))
    entries = scan([top])
    make(entries, tmp_path / "image", parameters(512 * MIB))
    fsck(tmp_path / "image")
    assert_equal(entries, tmp_path / "image")


def test_a_directory_of_many_names(tmp_path: Path) -> None:
    entries = [Entry(b"", "directory", 0o755), Entry(b"d", "directory", 0o755)]
    entries += [Entry(b"d/%05d-name" % n, "file", 0o644) for n in range(12_000)]
    make(entries, tmp_path / "image", parameters(64 * MIB))
    fsck(tmp_path / "image")
    assert_equal(entries, tmp_path / "image")


@pytest.mark.integration
def test_a_directory_of_too_many_directories_to_count(tmp_path: Path) -> None:
    entries = [Entry(b"", "directory", 0o755)]
    entries += [Entry(b"%05d" % n, "directory", 0o755) for n in range(65_010)]
    make(entries, tmp_path / "image", parameters(512 * MIB, inodes=70_000))
    fsck(tmp_path / "image")


def test_a_tree_with_its_own_lost_found(tmp_path: Path) -> None:
    entries = [
        Entry(b"", "directory", 0o755),
        Entry(b"lost+found", "directory", 0o700),
        Entry(b"lost+found/#12", "file", 0o600),
    ]
    make(entries, tmp_path / "image")
    fsck(tmp_path / "image")
    assert_equal(entries, tmp_path / "image")
    with pytest.raises(InputError, match="needs a directory there"):
        make([entries[0], entries[1]._replace(kind="file")], tmp_path / "other")


@pytest.mark.parametrize("size", [1, 7, 8, 127, 128, 129, 385, 1000, 2049, 5000, 70_000])
def test_sizes(tmp_path: Path, size: int) -> None:
    """MiB: without a journal, one group, a last group too small to be, many groups, a region."""
    entries = [Entry(b"", "directory", 0o755), Entry(b"etc", "directory", 0o755)]
    make(entries, tmp_path / "image", parameters(size * MIB))
    fsck(tmp_path / "image")
    assert_equal(entries, tmp_path / "image")


def test_the_same_bytes_whatever_the_surroundings(tree: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", "--sparse=never", tree, tmp_path / "elsewhere"], check=True)
    script = (
        "import os, sys; from pathlib import Path; from tests.unit.convert.ext4.images import make;"
        "from pipeline.convert.ext4.tree import scan;"
        "os.umask(int(sys.argv[3], 8)); make(scan([Path(sys.argv[1])]), Path(sys.argv[2]))"
    )
    images = []
    for index, (top, mask, env, wrapper) in enumerate(
        (
            (tree, "022", {"TZ": "UTC", "LC_ALL": "C"}, []),
            (tmp_path / "elsewhere", "077", {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}, []),
            (tree, "000", {"PYTHONHASHSEED": "7"}, ["taskset", "-c", "0"]),
        )
    ):
        image = tmp_path / f"image{index}"
        argv = [*wrapper, sys.executable, "-c", script, str(top), str(image), mask]
        subprocess.run(argv, env=os.environ | env, check=True, timeout=120)
        images.append(image.read_bytes())
    assert images[0] == images[1] == images[2]


def test_what_does_not_fit_says_how_much_is_needed(tree: Path, tmp_path: Path) -> None:
    entries = scan([tree])
    with pytest.raises(InputError, match=r"does not fit into 3145728 bytes: at least \d+ more"):
        make(entries, tmp_path / "image", parameters(3 * MIB))
    needed = needed_bytes(entries, parameters())
    make(entries, tmp_path / "image", parameters(needed))
    fsck(tmp_path / "image")
    assert_equal(entries, tmp_path / "image")


def test_a_file_system_filled_to_the_last_block(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    for index in range(600):
        put(top, f"{index % 7}/{index}", (index * 7919) % 60_000, seed=index)
    entries, image = scan([top]), tmp_path / "image"
    size = 64
    refused = 0
    while True:
        try:
            make(entries, image, parameters(size * BLOCK * 16))
            break
        except InputError as error:
            refused += 1
            lacking = int(error.why.rpartition("at least ")[2].split()[0]) if refused < 50 else 0
            size += max(1, lacking // (BLOCK * 16))
    assert refused
    fsck(image)
    assert_equal(entries, image)
    with Reader(image) as reader:
        assert reader.superblock.free_blocks < 400


def test_too_few_inodes(tmp_path: Path) -> None:
    entries = [Entry(b"", "directory", 0o755)]
    entries += [Entry(b"%d" % n, "file", 0o644) for n in range(100)]
    with pytest.raises(InputError, match=r"the tree has 102 inodes.*Ask for more inodes"):
        make(entries, tmp_path / "image", parameters(inodes=64))
    make(entries, tmp_path / "image", parameters(inodes=128))
    fsck(tmp_path / "image")
    assert_equal(entries, tmp_path / "image")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Entry(b"a" * 256, "file", 0o644), "255 are the most"),
        (Entry(b"a", "file", 0o644, xattrs=(("user.x", b"v" * 5000),)), "more than one block"),
        (Entry(b"a", "file", 0o644, xattrs=(("trusted.x", b"v"),)), "trusted.x is of a kind"),
        (Entry(b"a", "file", 0o644, xattrs=(("system.posix_acl_access", b"?"),)), "is not one"),
    ],
)
def test_what_ext4_cannot_keep_names_the_file(tmp_path: Path, entry: Entry, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make([Entry(b"", "directory", 0o755), entry], tmp_path / "image")
    assert caught.value.subject == "/" + entry.path.decode()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": 1000}, "too few"),
        ({"size": 1 << 50}, "too many"),
        ({"label": "longer than it may be"}, "longer than 16"),
        ({"epoch": -1}, "cannot be kept"),
    ],
)
def test_parameters_that_cannot_be(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parameters(**{"size": MIB} | fields)  # type: ignore[arg-type]


def test_a_file_that_shrinks_while_it_is_copied(tree: Path, tmp_path: Path) -> None:
    entries = scan([tree])
    os.truncate(tree / "files" / "300000", 1)
    with pytest.raises(HostError, match="it changed while"):
        make(entries, tmp_path / "image")


def test_random_trees(tmp_path: Path) -> None:
    """A hundred of them, all clean and equal."""
    for seed in range(100):
        chance = random.Random(seed)
        top = tmp_path / "tree"
        top.mkdir()
        entries = _random(chance, top)
        size = chance.choice((2, 8, 9, 40, 130, 300)) * MIB
        needed = needed_bytes(entries, parameters())
        chosen = parameters(max(size, needed), checksums=chance.random() < 0.8)
        make(entries, tmp_path / "image", chosen)
        fsck(tmp_path / "image")
        assert_equal(entries, tmp_path / "image")
        subprocess.run(["rm", "-r", top], check=True)


def _random(chance: random.Random, top: Path) -> list[Entry]:
    directories = [top]
    for number in range(chance.randrange(60)):
        parent = chance.choice(directories)
        path = parent / (chance.choice("abc-.é") * chance.choice((1, 1, 1, 8, 120)) + str(number))
        kind = chance.randrange(8)
        if kind == 0:
            path.mkdir()
            directories.append(path)
        elif kind == 1:
            path.symlink_to("t" * chance.choice((1, 59, 60, 1000)))
        elif kind == 2:
            os.mkfifo(path)
        elif kind == 3:
            with path.open("wb") as file:
                for _ in range(chance.randrange(9)):
                    file.seek(chance.randrange(500_000))
                    file.write(chance.randbytes(chance.randrange(9000)))
        else:
            path.write_bytes(chance.randbytes(int(2 ** (chance.random() * 18))))
        if kind == 4:
            parent = chance.choice(directories)
            (parent / f"link{number}").hardlink_to(path)
    entries = []
    owners: dict[bytes, Entry] = {}
    for entry in scan([top]):
        changed = entry._replace(
            mode=chance.randrange(0o10000),
            uid=chance.randrange(1 << 32),
            gid=chance.randrange(1 << 17),
            mtime=chance.randrange(-(2**31) * 10**9, EPOCH * 10**9),
            xattrs=_attributes(chance),
        )
        if entry.same_as:
            first = owners[entry.same_as]
            changed = changed._replace(
                mode=first.mode, uid=first.uid, gid=first.gid, mtime=first.mtime,
                xattrs=first.xattrs,
            )  # fmt: skip
        owners[entry.path] = changed
        entries.append(changed)
    return entries


def _attributes(chance: random.Random) -> tuple[tuple[str, bytes], ...]:
    found = {}
    for _ in range(chance.choice((0, 0, 0, 1, 2, 5))):
        name = chance.choice(("user.", "security.")) + "nähe"[: chance.randrange(1, 5)]
        found[name] = chance.randbytes(chance.choice((0, 1, 20, 60, 400)))
    if chance.random() < 0.2:
        found["system.posix_acl_access"] = ACL
    return tuple(sorted(found.items()))


def test_an_ext_reader_finds_no_fault_in_any_group(tmp_path: Path) -> None:
    make([Entry(b"", "directory", 0o755)], tmp_path / "image", parameters(2000 * MIB))
    with Reader(tmp_path / "image") as reader:
        assert isinstance(reader, Ext)
        assert check(reader) == ""
