"""The two editing backends on real file systems, judged by the kernel, e2fsck and xfs_repair."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import DiskError, GuestError, HostError, PipelineError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration, PartitionImage
from pipeline.core.request import Backend
from pipeline.disk.filesystems.ext_inodes import Reader
from pipeline.guest.access import libguestfs
from pipeline.guest.access.ext_support import unsafe_because
from pipeline.guest.access.open import open_guest
from pipeline.guest.access.protocol import Guest
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks import Entry, listing, mounted

pytestmark = pytest.mark.integration

MIB = 1 << 20
EMULATED = Acceleration("tcg", "the tests run anywhere")
LABEL = b"system_u:object_r:etc_t:s0\0"
UNUSUAL = 'we"ird <12> nämé'


def run(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    scratch = tmp_path / 'scratch "x"'
    scratch.mkdir()
    with Runner(tmp_path / "log") as runner:
        yield Tools(runner, QuietProgress(), scratch)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with what makes editing hard: names, links, attributes, owners, large directories."""
    top = tmp_path_factory.mktemp("tree") / "top"
    for directory in ("etc/rc.d", "boot", "root", "etc/acl", "etc/<12>", "many", "var/log/old"):
        (top / directory).mkdir(parents=True)
    (top / "etc/fstab").write_text("/dev/sda1 / ext4 defaults 0 1\n")
    os.setxattr(top / "etc/fstab", "security.selinux", LABEL)
    (top / "etc/rc.local").symlink_to("rc.d/rc.local")
    (top / "etc/rc.d/rc.local").write_text("#!/bin/sh\n")
    (top / "etc/long").symlink_to("/" + "x" * 200)
    (top / "etc" / UNUSUAL).write_text("1")
    (top / "etc/-dash").write_text("2")
    (top / "etc/hard").hardlink_to(top / "etc/fstab")
    (top / "etc/sparse").write_bytes(b"")
    with (top / "etc/sparse").open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    (top / "etc/large").write_bytes(random.Random(1).randbytes(5 * MIB))
    for number in range(700):
        (top / f"many/a-file-of-a-large-directory-{number}").write_text(str(number))
    for name in "abc":
        # More than fits an inode of 256 bytes: these have an attribute block.
        os.setxattr(top / "etc/acl", f"user.{name}", name.encode() * 300)
        (top / "etc/acl" / name).write_text(name)
        os.setxattr(top / "etc/acl" / name, "user.large", name.encode() * 500)
    (top / "var/log/old/log").write_text("log")
    os.chown(top / "etc/rc.d/rc.local", 70000, 80000)
    return top


def ext_image(tree: Path, path: Path, kind: str = "ext4", *options: str) -> PartitionImage:
    run("mke2fs", "-q", "-t", kind, "-d", tree, *options, path, "96M")
    return described(path, kind)


def described(path: Path, kind: str) -> PartitionImage:
    uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", path).strip()
    return PartitionImage(path, path.stat().st_size, kind, uuid, "", "test")


def edit(guest: Guest) -> None:
    """One of everything, on what is hard."""
    guest.write("/etc/fstab", b"LABEL=uec-rootfs / ext4 defaults 0 0\n", 0o640, 70000, 5)
    guest.set_xattr("/etc/fstab", "security.selinux", LABEL)
    guest.write(guest.resolve("/etc/rc.local"), b"#!/bin/sh\nexit 0\n", 0o755)
    guest.make_directory("/root/.ssh", 0o700, 12, 34)
    guest.write("/root/.ssh/a b", bytes(range(256)) * 900, 0o4711)
    guest.write("/root/.ssh/empty", b"", 0o600)
    guest.symlink("../../etc/x y", "/root/.ssh/link")
    guest.symlink("x" * 300, "/etc/long")
    guest.remove(f"/etc/{UNUSUAL}")
    guest.remove("/etc/<12>")
    guest.remove("/etc/-dash")
    guest.remove("/etc/acl")
    guest.remove("/var/log/old")
    for number in range(0, 700, 3):
        guest.remove(f"/many/a-file-of-a-large-directory-{number}")
    for number in range(60):
        guest.write(f"/many/new-{number}", b"new", 0o644)
    guest.chmod("/many/new-1", 0o600)
    guest.chown("/many/a-file-of-a-large-directory-1", 1000, 1001)
    guest.set_label("uec-rootfs")


def check_edits(found: dict[str, Entry], source: dict[str, Entry]) -> None:
    """Against the tree the image was made of: the edits, and nothing but the edits."""
    changed = {
        path
        for path in found.keys() | source.keys()
        if (found.get(path) and bare(found[path])) != (source.get(path) and bare(source[path]))
    }
    assert changed == {
        "etc/fstab",
        "etc/hard",  # alone now: the other name has a new inode
        "etc/rc.d/rc.local",
        "etc/long",
        f"etc/{UNUSUAL}",
        "etc/<12>",
        "etc/-dash",
        *(f"etc/acl{name}" for name in ("", "/a", "/b", "/c")),
        *(f"root/.ssh{name}" for name in ("", "/a b", "/empty", "/link")),
        *("var/log/old", "var/log/old/log"),
        *(f"many/a-file-of-a-large-directory-{number}" for number in range(0, 700, 3)),
        *(f"many/new-{number}" for number in range(60)),
        "many/a-file-of-a-large-directory-1",
    }
    fstab = found["etc/fstab"]
    assert (fstab.mode & 0o7777, fstab.owner) == (0o640, (70000, 5))
    assert fstab.attributes == (("security.selinux", LABEL),)
    assert found["etc/hard"].content == source["etc/hard"].content
    assert found["etc/hard"].attributes == source["etc/hard"].attributes
    assert found["etc/rc.local"].content == "rc.d/rc.local"
    assert found["etc/rc.d/rc.local"].owner == (0, 0)
    assert found["root/.ssh"].owner == (12, 34)
    assert found["root/.ssh/a b"].mode & 0o7777 == 0o4711
    assert found["root/.ssh/link"].content == "../../etc/x y"
    assert found["etc/long"].content == "x" * 300
    assert found["many/new-1"].mode & 0o7777 == 0o600
    assert found["many/a-file-of-a-large-directory-1"].owner == (1000, 1001)


def bare(entry: Entry) -> Entry:
    return replace(entry, modified=0)


def kernel_listing(image: PartitionImage, at: Path) -> dict[str, Entry]:
    with mounted(image.path, at, "ro") as top:
        return {path: bare(entry) for path, entry in listing(top).items()}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ext4", ["-b", "4096"]),
        ("ext4", ["-b", "4096", "-O", "^metadata_csum,^64bit,^dir_index"]),
        ("ext4", ["-b", "4096", "-O", "metadata_csum,metadata_csum_seed,orphan_file"]),
        ("ext3", ["-b", "4096"]),
        ("ext2", ["-b", "4096", "-I", "256"]),
    ],
)
def test_e2fsprogs(tools: Tools, tree: Path, tmp_path: Path, kind: str, options: list[str]) -> None:
    image = ext_image(tree, tmp_path / 'im "age', kind, *options)
    before = kernel_listing(image, tmp_path / "mount")
    with open_guest(image, None, backend="auto", acceleration=EMULATED, tools=tools) as guest:
        assert guest.backend == "e2fsprogs"
        assert guest.facts == replace(guest.facts, filesystem=kind, uuid=image.uuid, label="")
        edit(guest)
        assert guest.facts.label == "uec-rootfs"
        assert guest.read("/root/.ssh/a b", MIB) == bytes(range(256)) * 900
        assert guest.names("/root/.ssh") == ["a b", "empty", "link"]
        assert guest.get_xattr("/etc/fstab", "security.selinux") == LABEL
    check_edits(kernel_listing(image, tmp_path / "mount"), before)
    run("e2fsck", "-fn", image.path)
    assert run("blkid", "-p", "-o", "value", "-s", "LABEL", image.path) == "uec-rootfs\n"
    assert list(tools.scratch.iterdir()) == []


def test_both_backends_make_the_same_tree(tools: Tools, tree: Path, tmp_path: Path) -> None:
    image = ext_image(tree, tmp_path / "e2fsprogs.img", "ext4", "-b", "4096")
    other = replace(image, path=tmp_path / "guestfs.img")
    shutil.copy(image.path, other.path)
    before = kernel_listing(image, tmp_path / "mount")
    backends: list[tuple[Backend, PartitionImage]] = [("e2fsprogs", image), ("guestfs", other)]
    for backend, each in backends:
        with open_guest(each, None, backend=backend, acceleration=EMULATED, tools=tools) as guest:
            assert guest.backend == backend
            assert read_all(guest) == read_all_expected(tree)
            edit(guest)
            guest.download("/etc/large", tmp_path / f"large-{backend}")
            guest.download("/etc/sparse", tmp_path / f"sparse-{backend}")
            facts = guest.facts
            assert (facts.uuid, facts.label, facts.size) == (each.uuid, "uec-rootfs", each.size)
    first = kernel_listing(image, tmp_path / "mount")
    check_edits(first, before)
    assert first == kernel_listing(other, tmp_path / "mount")
    for backend, _ in backends:
        for name in ("large", "sparse"):
            copy, source = tmp_path / f"{name}-{backend}", tree / "etc" / name
            assert copy.read_bytes() == source.read_bytes()
    assert list(tools.scratch.glob("libguestfs*")) == []


def read_all(guest: Guest) -> list[object]:
    """The reading half of the protocol, on what is hard."""
    return [
        guest.names("/etc"),
        len(guest.names("/many")),
        guest.read("/etc/rc.local", 100),
        guest.read_link("/etc/long"),
        guest.resolve("/etc/../etc/rc.local"),
        guest.exists("/etc/long"),
        guest.stat("/etc/rc.d/rc.local"),
        guest.stat("/etc/none"),
        guest.get_xattr("/etc/fstab", "security.selinux"),
        guest.list_xattrs("/etc/acl"),
        guest.get_xattr("/etc/acl", "user.b"),
        guest.read(f"/etc/{UNUSUAL}", 10),
        guest.read("/etc/large", 8 * MIB),
        guest.read("/etc/sparse", 8 * MIB),
    ]


def read_all_expected(tree: Path) -> list[object]:
    from pipeline.disk.filesystems.status import Status

    return [
        sorted(path.name for path in (tree / "etc").iterdir()),
        700,
        b"#!/bin/sh\n",
        "/" + "x" * 200,
        "/etc/rc.d/rc.local",
        False,
        Status("file", 0o644, 70000, 80000, 10),
        None,
        LABEL,
        ["user.a", "user.b", "user.c"],
        b"b" * 300,
        b"1",
        (tree / "etc/large").read_bytes(),
        (tree / "etc/sparse").read_bytes(),
    ]


def test_xfs_with_a_log_to_replay_and_a_boot_partition(
    tools: Tools, tree: Path, tmp_path: Path
) -> None:
    path = tmp_path / "xfs.img"
    with path.open("wb") as file:
        file.truncate(320 * MIB)
    run("mkfs.xfs", "-q", path)
    with mounted(path, tmp_path / "mount") as top:
        run("cp", "-a", f"{tree}/.", top)
        run("sync", "-f", top)
        (top / "late").write_text("in the log only")
        # Stop the file system as a crash would, its log flushed: the next mount has to replay it.
        run("xfs_io", "-x", "-c", "shutdown -f", top)
    image = described(path, "xfs")
    boot = ext_image(tree, tmp_path / "boot.img", "ext2", "-b", "4096")
    digest = run("sha256sum", boot.path)
    with open_guest(image, boot, backend="auto", acceleration=EMULATED, tools=tools) as guest:
        assert guest.backend == "guestfs"
        assert guest.read("/boot/etc/rc.local", 100) == b"#!/bin/sh\n"
        assert guest.exists("/late")
        with pytest.raises(GuestError, match="boot partition"):
            guest.write("/boot/x", b"", 0o644)
        edit(guest)
    with mounted(path, tmp_path / "mount", "ro") as top:
        found = {p: bare(entry) for p, entry in listing(top).items()}
    assert found.pop("late")
    check_edits(found, {p: bare(entry) for p, entry in listing(tree).items()})
    run("xfs_repair", "-n", "-f", path)
    assert run("blkid", "-p", "-o", "value", "-s", "LABEL", path) == "uec-rootfs\n"
    assert run("sha256sum", boot.path) == digest


LOCKED = {"etc/fstab": "i", "etc/rc.d/rc.local": "a", "etc/hard": "d", "var/log/old": "i",
          "var/log/old/log": "i", "root": "a", "boot": "i"}  # fmt: skip
"""Attributes of chattr(1) by path; those of a directory forbid changes of its entries."""
LONG_AGO = 1_300_000_000


def edit_locked(guest: Guest) -> None:
    guest.write("/etc/fstab", b"new\n", 0o600)
    guest.set_xattr("/etc/fstab", "security.selinux", LABEL)
    guest.write("/etc/rc.d/rc.local", b"#!/bin/sh\nexit 0\n", 0o755)
    guest.write("/etc/hard", b"alone", 0o644)
    guest.remove("/var/log/old")
    guest.make_directory("/root/.ssh", 0o700)
    guest.symlink("target", "/root/link")
    guest.symlink("other", "/root/link")
    guest.write("/boot/new", b"1", 0o644)
    guest.write("/boot/new", b"2", 0o644)
    guest.chmod("/boot", 0o711)


@pytest.mark.parametrize(
    ("kind", "backend"), [("ext4", "e2fsprogs"), ("ext4", "guestfs"), ("xfs", "guestfs")]
)
def test_files_that_chattr_locks(
    kind: str, backend: Backend, tools: Tools, tree: Path, tmp_path: Path
) -> None:
    """Edited all the same, their attributes kept; directories keep their times: by each backend."""
    path = tmp_path / "root.img"
    with path.open("wb") as file:
        file.truncate(320 * MIB)
    run(*{"xfs": ["mkfs.xfs", "-q"], "ext4": ["mke2fs", "-q", "-t", "ext4"]}[kind], path)
    with mounted(path, tmp_path / "mount") as top:
        run("cp", "-a", f"{tree}/.", top)
        (top / "etc/hard").unlink()
        (top / "etc/hard").write_text("of its own")
        for name in ("etc", "etc/rc.d", "var/log", "root", "boot"):
            os.utime(top / name, (LONG_AGO, LONG_AGO))
        for name, letter in LOCKED.items():
            run("chattr", f"+{letter}", top / name)
    image = described(path, kind)
    with open_guest(image, None, backend=backend, acceleration=EMULATED, tools=tools) as guest:
        edit_locked(guest)
        guest.set_label("uec-rootfs")
    with mounted(path, tmp_path / "mount", "ro") as top:
        for name, letter in LOCKED.items():
            if (top / name).exists():
                assert letter in run("lsattr", "-d", top / name).split()[0], name
        assert not (top / "var/log/old").exists()
        assert (top / "etc/fstab").read_text() == "new\n"
        assert os.getxattr(top / "etc/fstab", "security.selinux") == LABEL
        assert (top / "etc/rc.d/rc.local").read_text().endswith("exit 0\n")
        assert (top / "etc/hard").read_text() == "alone"
        assert (top / "root/.ssh").is_dir() and (top / "root/link").readlink() == Path("other")
        assert (top / "boot/new").read_text() == "2"
        assert stat.S_IMODE((top / "boot").stat().st_mode) == 0o711
        for name in ("etc", "etc/rc.d", "var/log", "root", "boot"):
            assert (top / name).stat().st_mtime == LONG_AGO, name


def test_a_mount_that_the_appliance_refuses_is_told_in_the_kernels_words(
    tools: Tools, tmp_path: Path
) -> None:
    """A feature bit that no kernel has yet: the superblock, its checksum right, says so."""
    path = tmp_path / "xfs.img"
    with path.open("wb") as file:
        file.truncate(320 * MIB)
    run("mkfs.xfs", "-q", path)
    run("xfs_db", "-x", "-c", "sb 0", "-c", "write -d features_incompat 0x80000001", path)
    image = described(path, "xfs")
    with (
        pytest.raises(
            DiskError, match=r"Linux \S+ of the editing appliance refuses its xfs"
        ) as said,
        open_guest(image, None, backend="guestfs", acceleration=EMULATED, tools=tools),
    ):
        pass
    assert "unknown incompatible features (0x80000000)" in str(said.value)
    assert "SUPERMIN_KERNEL" in str(said.value)


# What e2fsprogs is not for


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-O", "inline_data"], "feature"),
        (["-O", "bigalloc"], "feature"),
        (["-O", "quota"], "feature"),
        (["-O", "ea_inode"], "feature"),
        (["-O", "casefold"], "feature"),
        (["-O", "encrypt"], "feature"),
        (["-O", "mmp"], "feature"),
        (["-O", "meta_bg,^resize_inode"], "feature"),
        (["-O", "project,quota"], "feature"),
    ],
)
def test_features_left_to_the_kernel(tmp_path: Path, options: list[str], words: str) -> None:
    path = tmp_path / "x.img"
    run("mke2fs", "-q", "-t", "ext4", *options, path, "64M")
    assert words in unsafe_because(described(path, "ext4"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("set_super_value state 0", "not clean"),
        ("set_super_value state 3", "not clean"),
        ("set_super_value error_count 1", "not clean"),
        ("set_super_value last_orphan 12", "not clean"),
        ("feature needs_recovery", "journal is not replayed"),
        ("set_super_value uuid clear", "is not the one"),
        ("set_super_value blocks_count 99999999", "says that it has"),
        ("set_super_value log_block_size 4", "impossible"),
        ("set_super_value inode_size 7", "impossible"),
    ],
)
def test_states_left_to_the_kernel(tmp_path: Path, command: str, words: str) -> None:
    path = tmp_path / "x.img"
    run("mke2fs", "-q", "-t", "ext4", path, "16M")
    image = described(path, "ext4")
    assert unsafe_because(image) == ""
    run("debugfs", "-w", "-R", command, path)
    assert words in unsafe_because(image)


def test_no_file_system_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    for size in (0, 1500, MIB):
        path.write_bytes(bytes(size))
        assert unsafe_because(PartitionImage(path, size, "ext4", "", "", ""))


def test_asking_for_e2fsprogs_where_it_is_not_safe(tools: Tools, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    run("mke2fs", "-q", "-t", "ext4", path, "16M")
    image = described(path, "ext4")
    run("debugfs", "-w", "-R", "feature needs_recovery", path)
    before = path.read_bytes()
    with (
        pytest.raises(DiskError, match="journal"),
        open_guest(image, None, backend="e2fsprogs", acceleration=EMULATED, tools=tools),
    ):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["btrfs", "vfat", ""])
def test_other_file_systems_are_refused_by_name(tools: Tools, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.img"
    path.write_bytes(bytes(MIB))
    image = PartitionImage(path, MIB, kind, "u", "", "LV vg/root")
    with (
        pytest.raises(DiskError, match=kind or "unknown"),
        open_guest(image, None, backend="auto", acceleration=EMULATED, tools=tools),
    ):
        pass


SECRET = b"what the machine had in memory; "


@pytest.mark.parametrize(
    ("backend", "kind"), [("e2fsprogs", "ext4"), ("guestfs", "ext4"), ("guestfs", "xfs")]
)
def test_what_is_removed_cannot_be_read_from_the_image(
    tools: Tools, tree: Path, tmp_path: Path, backend: Backend, kind: str
) -> None:
    top = tmp_path / "top"
    shutil.copytree(tree, top, symlinks=True)
    (top / "swapfile").write_bytes(SECRET * 100_000)
    (top / "etc/key").write_bytes(SECRET * 20)
    (top / "etc/replaced").write_bytes(SECRET * 200)
    path = tmp_path / "root.img"
    if kind == "xfs":
        path.write_bytes(b"")
        os.truncate(path, 320 * MIB)
        run("mkfs.xfs", "-q", path)
        image = described(path, "xfs")
        with open_guest(image, None, backend=backend, acceleration=EMULATED, tools=tools) as guest:
            guest.make_directory("/etc", 0o755)
            for name, times in (("/swapfile", 50_000), ("/etc/key", 20), ("/etc/replaced", 200)):
                guest.write(name, SECRET * times, 0o600)
    else:
        # The appliance's disk discards no less than 4096 bytes.
        image = ext_image(top, path, "ext4", *(["-b", "4096"] if backend == "guestfs" else []))
    assert SECRET in path.read_bytes()
    with open_guest(image, None, backend=backend, acceleration=EMULATED, tools=tools) as guest:
        guest.write("/etc/replaced", b"new", 0o644)
        guest.remove("/swapfile")
        guest.remove("/etc/key")
    assert SECRET not in path.read_bytes()
    assert path.stat().st_blocks * 512 < path.stat().st_size / 2


def test_entries_at_the_top_after_an_edit_elsewhere(
    tools: Tools, tree: Path, tmp_path: Path
) -> None:
    """debugfs takes the directory of "/fstab" for the one it was last sent to."""
    top = tmp_path / "top"
    shutil.copytree(tree, top, symlinks=True)
    for name in ("fstab", "rc.d", "file", "old"):
        (top / name).write_text("at the top")
    image = ext_image(top, tmp_path / "root.img")
    with open_guest(image, None, backend="e2fsprogs", acceleration=EMULATED, tools=tools) as guest:
        guest.write("/etc/new", b"new", 0o644)
        guest.remove("/fstab")
        guest.write("/etc/new2", b"new", 0o644)
        guest.symlink("etc", "/rc.d")
        guest.write("/etc/new3", b"new", 0o644)
        guest.make_directory("/acl", 0o755)
        guest.write("/etc/new4", b"new", 0o644)
        guest.remove("/file")
    with Reader(image.path) as reader:
        assert reader.find(b"/etc/fstab") is not None
        assert reader.find(b"/fstab") is reader.find(b"/file") is None
        kinds = {n: reader.find(n) for n in (b"/rc.d", b"/etc/rc.d", b"/acl", b"/etc/acl")}
    assert [inode and inode.status().kind for inode in kinds.values()] == [
        "symlink",
        *("directory",) * 3,
    ]


def test_a_name_debugfs_cannot_be_told(tools: Tools, tree: Path, tmp_path: Path) -> None:
    image = ext_image(tree, tmp_path / "x.img")
    with (
        pytest.raises(GuestError, match="control characters"),
        open_guest(image, None, backend="auto", acceleration=EMULATED, tools=tools) as guest,
    ):
        guest.write("/etc/two\nlines", b"", 0o644)
    assert run("debugfs", "-R", "stat /etc/fstab", image.path)


def test_an_edit_that_fails_is_noticed(tools: Tools, tmp_path: Path) -> None:
    """debugfs exits with 0 when the file system is full."""
    path = tmp_path / "full.img"
    run("mke2fs", "-q", "-t", "ext4", "-b", "1024", path, "4M")
    with (
        pytest.raises(GuestError, match="debugfs said"),
        open_guest(
            described(path, "ext4"), None, backend="auto", acceleration=EMULATED, tools=tools
        ) as guest,
    ):
        guest.write("/large", bytes(range(256)) * (32 << 10), 0o644)


def test_an_appliance_that_does_not_come_up_is_ended(
    tools: Tools, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libguestfs, "_LAUNCH_SECONDS", 2.0)
    image = ext_image(tree, tmp_path / "x.img")
    with (
        pytest.raises(HostError, match="did not answer in time"),
        open_guest(image, None, backend="guestfs", acceleration=EMULATED, tools=tools),
    ):
        pass
    deadline = time.monotonic() + 20
    while mentioned := processes_with(str(tools.scratch)):
        assert time.monotonic() < deadline, mentioned
        time.sleep(0.1)


def processes_with(text: str) -> list[str]:
    """Command lines of running processes that hold `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


# Damage


def test_damaged_file_systems_cost_an_error_at_most(tree: Path, tmp_path: Path) -> None:
    """Reading everything of some hundred damaged states: an answer or DiskError, soon."""
    image = ext_image(tree, tmp_path / "x.img", "ext4", "-b", "1024")
    original = image.path.read_bytes()
    with Reader(image.path) as reader:
        table = original.find(reader.inode(2).raw[:40])
        extents = reader.inode(2).map
    first_block = int.from_bytes(extents[20:24], "little") * 1024
    stretches = [(1024, 1024), (2048, 1024), (table, 8192), (first_block, 1024)]
    rng = random.Random(20)
    failures = 0
    with image.path.open("r+b") as file:
        for _ in range(400):
            places = []
            for _ in range(rng.randint(1, 4)):
                start, length = rng.choice(stretches)
                places.append(start + rng.randrange(length))
                file.seek(places[-1])
                file.write(rng.choice([b"\xff" * 4, bytes(4), rng.randbytes(4)]))
            file.flush()
            failures += reading_fails(image)
            for place in places:
                file.seek(place)
                file.write(original[place : place + 4])
        file.flush()
        assert image.path.read_bytes() == original
        for size in (900, 2000, table + 300, first_block + 10, 20 * MIB):
            file.truncate(size)
            assert reading_fails(image)
    assert failures > 50


def reading_fails(image: PartitionImage) -> bool:
    began = time.monotonic()
    try:
        unsafe_because(image)
        with Reader(image.path) as reader:
            walk(reader, 2, 0)
    except PipelineError as error:
        assert str(image.path) in str(error)
        return True
    finally:
        assert time.monotonic() - began < 30
    return False


def walk(reader: Reader, number: int, depth: int) -> None:
    inode = reader.inode(number)
    reader.xattrs(inode)
    kind = inode.status().kind
    if kind == "symlink":
        reader.link_target(inode)
    elif kind == "file":
        for _, data in zip(range(40), reader.chunks(inode), strict=False):
            assert data is not None
    elif kind == "directory" and depth < 6:
        for child in list(reader.directory(inode).values())[:60]:
            walk(reader, child, depth + 1)


# Inode flags (chattr(1))

FLAGGED = {
    "etc/fstab": "i",
    "etc/resolv.conf": "a",
    "etc/hosts": "Ai",
    "etc/gone": "i",
    "etc/kept": "Si",
    "root": "i",
}


def flagged(top: Path) -> None:
    """A tree with flags on files that are rewritten, removed, relabelled, and on a directory."""
    (top / "etc").mkdir()
    (top / "root/old").mkdir(parents=True)
    for name in ("etc/fstab", "etc/resolv.conf", "etc/hosts", "etc/gone", "etc/kept", "root/old/x"):
        (top / name).write_text(name)
    run("chattr", "+a", top / "root/old/x")
    for name, flags in FLAGGED.items():
        run("chattr", f"+{flags}", top / name)


def edit_flagged(guest: Guest) -> None:
    for name in ("/etc/fstab", "/etc/resolv.conf", "/etc/hosts"):
        guest.write(name, b"new", 0o600)
        guest.write(name, b"newer", 0o640)
        guest.set_xattr(name, "security.selinux", LABEL)
    assert guest.is_immutable("/etc/fstab")
    assert guest.is_immutable("/etc/kept")
    assert guest.is_immutable("/root")
    assert not guest.is_immutable("/etc/resolv.conf")
    guest.remove("/etc/gone")
    guest.remove("/root/old")
    guest.write("/root/new", b"new", 0o644)
    guest.chmod("/etc/kept", 0o600)


def flags_of(path: Path) -> str:
    return run("lsattr", "-d", path).split()[0].replace("-", "").replace("e", "")


def check_flagged(top: Path) -> None:
    for name in ("etc/fstab", "etc/resolv.conf", "etc/hosts"):
        assert (top / name).read_text() == "newer"
        assert (top / name).stat().st_mode & 0o7777 == 0o640
        assert os.getxattr(top / name, "security.selinux") == LABEL
    assert not (top / "etc/gone").exists()
    assert not (top / "root/old").exists()
    assert (top / "etc/kept").stat().st_mode & 0o7777 == 0o600
    found = {name: flags_of(top / name) for name in FLAGGED if name != "etc/gone"}
    wanted = {name: set(flags) for name, flags in FLAGGED.items() if name != "etc/gone"}
    assert {name: set(flags) for name, flags in found.items()} == wanted
    assert flags_of(top / "root/new") == ""


@pytest.mark.parametrize(
    ("backend", "kind"),
    [("e2fsprogs", "ext4"), ("e2fsprogs", "ext2"), ("guestfs", "ext4"), ("guestfs", "xfs")],
)
def test_inode_flags_hinder_nothing_and_stay(
    backend: Backend, kind: str, tools: Tools, tmp_path: Path
) -> None:
    path = tmp_path / "flags.img"
    with path.open("wb") as file:
        file.truncate(320 * MIB if kind == "xfs" else 32 * MIB)
    run(*(["mkfs.xfs", "-q"] if kind == "xfs" else ["mke2fs", "-q", "-t", kind]), path)
    with mounted(path, tmp_path / "mount") as top:
        flagged(top)
    image = described(path, kind)
    with open_guest(image, None, backend=backend, acceleration=EMULATED, tools=tools) as guest:
        assert guest.backend == backend
        edit_flagged(guest)
    with mounted(path, tmp_path / "mount", "ro") as top:
        check_flagged(top)
