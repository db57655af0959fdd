"""The stand-in installer's pure parts: archives, ELF linkage, modules, treeinfo."""

from __future__ import annotations

import configparser
import lzma
import stat
import tarfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.builders.demo.archive import FileTree, write_cpio, write_tar
from pipeline.builders.demo.elf import libraries, linkage
from pipeline.builders.demo.kernel import (
    MODULES,
    closure,
    host_kernel,
    module_name,
    parse_dependencies,
    version_key,
)
from pipeline.builders.demo.tree import TEMPLATES, treeinfo
from pipeline.core.errors import HostError
from pipeline.core.resources import PROJECT

PATHS = st.lists(
    st.text("abcxyz0.-é", min_size=1, max_size=9).filter(lambda p: p not in (".", "..")),
    min_size=1,
    max_size=4,
).map("/".join)


class Member(NamedTuple):
    mode: int
    data: bytes
    device: tuple[int, int]


def read_cpio(archive: bytes) -> dict[str, Member]:
    """The members of a newc archive, by cpio(5) alone."""
    members: dict[str, Member] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + n : at + n + 8], 16) for n in range(6, 110, 8)]
        size, length = fields[6], fields[11]
        name = archive[at + 110 : at + 109 + length].decode()
        at += -(-(110 + length) // 4) * 4
        if name == "TRAILER!!!":
            assert not any(archive[at:])
            assert len(archive) % 512 == 0
            return members
        members[name] = Member(fields[1], archive[at : at + size], (fields[9], fields[10]))
        at += -(-size // 4) * 4


def sample(tmp_path: Path) -> FileTree:
    (tmp_path / "big").write_bytes(b"\x07" * 100_001)
    tree = FileTree()
    tree.put("usr/bin/tool", tmp_path / "big", 0o755)
    tree.put("etc/shadow", b"root:!:\n", 0o600)
    tree.link("bin", "usr/bin")
    tree.directory("tmp", 0o1777)
    tree.character_device("dev/console", 5, 1)
    return tree


def test_cpio_holds_types_modes_contents_and_parents(tmp_path: Path) -> None:
    stream = BytesIO()
    write_cpio(sample(tmp_path), stream)
    members = read_cpio(stream.getvalue())
    assert members["usr/bin/tool"] == (stat.S_IFREG | 0o755, b"\x07" * 100_001, (0, 0))
    assert members["etc/shadow"] == (stat.S_IFREG | 0o600, b"root:!:\n", (0, 0))
    assert members["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin", (0, 0))
    assert members["tmp"].mode == stat.S_IFDIR | 0o1777
    assert members["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert members["usr"].mode == stat.S_IFDIR | 0o755
    # The kernel makes no parents: each must come before what is in it.
    assert list(members) == sorted(members)


def test_tar_holds_the_same(tmp_path: Path) -> None:
    stream = BytesIO()
    write_tar(sample(tmp_path), stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        members = {m.name: m for m in archive.getmembers()}
        tool = archive.extractfile("usr/bin/tool")
        assert tool is not None
        assert tool.read() == b"\x07" * 100_001
    assert {m.uid for m in members.values()} == {0}
    assert members["etc/shadow"].mode == 0o600
    assert members["bin"].issym()
    assert members["bin"].linkname == "usr/bin"
    assert members["tmp"].mode == 0o1777
    assert (members["dev/console"].devmajor, members["dev/console"].devminor) == (5, 1)


@given(st.dictionaries(PATHS, st.binary(max_size=40), max_size=8))
def test_any_files_survive_the_cpio_archive(files: dict[str, bytes]) -> None:
    files = {n: d for n, d in files.items() if not any(o.startswith(n + "/") for o in files)}
    tree = FileTree()
    for name, data in files.items():
        tree.put(name, data)
    stream = BytesIO()
    write_cpio(tree, stream)
    members = read_cpio(stream.getvalue())
    assert {n: m.data for n, m in members.items() if stat.S_ISREG(m.mode)} == files


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../b", ""])
def test_a_name_outside_the_archive_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        FileTree().put(name, b"")


def test_copied_scripts_become_executable(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/script").write_text("#!/bin/sh\n")
    (tmp_path / "sub/text").write_text("words\n")
    (tmp_path / "sub/link").symlink_to("../elsewhere")
    tree = FileTree()
    tree.copy(tmp_path)
    entries = dict(tree)
    assert stat.S_IMODE(entries["sub/script"].mode) == 0o755
    assert stat.S_IMODE(entries["sub/text"].mode) == 0o644
    assert entries["sub/link"].target == "../elsewhere"


def test_every_script_of_the_templates_has_a_first_line_that_makes_it_executable() -> None:
    for place in ("installer/init", "installer/lib/installer/main", "ramdisk/init"):
        assert (TEMPLATES / place).read_bytes().startswith(b"#!/bin/sh\n")
    for script in (TEMPLATES / "root/etc/rc.d").rglob("*"):
        if script.is_file():
            assert script.read_bytes().startswith(b"#!/bin/sh\n"), script


CURL = Path("/usr/bin/curl")


def test_linkage_of_a_real_program() -> None:
    link = linkage(CURL.read_bytes())
    assert link.interpreter == "/lib64/ld-linux-x86-64.so.2"
    assert {"libcurl.so.4", "libc.so.6"} <= set(link.needed)


def test_a_static_program_needs_nothing() -> None:
    link = linkage(Path("/usr/bin/busybox").read_bytes())
    assert (link.interpreter, link.needed) == ("", ())


@given(st.integers(0, 200_000))
def test_a_cut_program_is_refused_or_understood(length: int) -> None:
    data = CURL.read_bytes()[:length]
    try:
        assert linkage(data).interpreter in ("", "/lib64/ld-linux-x86-64.so.2")
    except ValueError:
        assert length < CURL.stat().st_size


@given(st.data())
def test_a_damaged_program_never_raises_anything_else(data: st.DataObject) -> None:
    program = bytearray(CURL.read_bytes()[:20_000])
    for at in data.draw(st.lists(st.integers(0, 1023), max_size=6)):
        program[at] = data.draw(st.integers(0, 255))
    try:
        linkage(bytes(program))
    except ValueError as error:
        assert str(error)


def test_a_text_is_no_program(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(HostError, match="not a 64-bit little-endian ELF file"):
        libraries([script])


def test_a_missing_library_names_the_program_and_the_library(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"/usr/bin/curl: lib\S+ is in none of"):
        libraries([CURL], directories=[tmp_path])


def test_kernel_versions_are_ordered_as_numbers() -> None:
    names = ["vmlinuz-6.10.0-cloud", "vmlinuz-6.9.12-cloud", "vmlinuz-6.9.2", "vmlinuz-5.10.0"]
    assert sorted(names, key=version_key, reverse=True) == names


@given(st.text("0123456789.-abz~+", max_size=9), st.text("0123456789.-abz~+", max_size=9))
def test_any_two_names_can_be_ordered(one: str, other: str) -> None:
    first, second = version_key(one), version_key(other)
    assert (first < second) + (second < first) + (first == second) == 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/drivers/md/dm-mod.ko", "dm_mod"),
        ("kernel/fs/xfs/xfs.ko.xz", "xfs"),
        ("virtio-rng.ko.zst", "virtio_rng"),
    ],
)
def test_module_names(path: str, name: str) -> None:
    assert module_name(path) == name


def test_dependencies_come_before_what_needs_them() -> None:
    table = parse_dependencies("k/c.ko: k/b.ko k/a.ko\nk/b.ko: k/a.ko\nk/a.ko:\nk/other.ko:\n")
    assert closure(("c", "absent", "a"), table) == ("k/a.ko", "k/b.ko", "k/c.ko")


def test_dependencies_of_the_hosts_own_kernel_come_first() -> None:
    kernel = host_kernel()
    table = parse_dependencies((kernel.directory / "modules.dep").read_text())
    for position, module in enumerate(kernel.modules):
        assert set(table[module]) <= set(kernel.modules[:position])
    assert {"virtio_blk", "virtio_net"} <= {module_name(m) for m in kernel.modules}
    assert len(kernel.modules) < len(MODULES) * 3


def fake_kernel(tmp_path: Path, version: str, modules: str, builtin: str = "") -> None:
    (tmp_path / "boot").mkdir(exist_ok=True)
    (tmp_path / "boot" / f"vmlinuz-{version}").write_bytes(b"kernel")
    place = tmp_path / "modules" / version
    place.mkdir(parents=True)
    for line in modules.splitlines():
        file = place / line.partition(":")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(lzma.compress(b"module") if line.endswith(".xz:") else b"module")
    (place / "modules.dep").write_text(modules)
    (place / "modules.builtin").write_text(builtin)
    (place / "modules.alias").write_text("alias virtio:d2 virtio_blk\nalias pci:v9 other\n")


ENOUGH = "k/virtio_pci.ko:\nk/virtio_blk.ko.xz:\nk/virtio_net.ko:\nk/dm-mod.ko:\nk/other.ko:\n"


def test_the_newest_kernel_with_modules_is_taken(tmp_path: Path) -> None:
    fake_kernel(tmp_path, "6.9.1", ENOUGH, "kernel/fs/ext4/ext4.ko\n")
    fake_kernel(tmp_path, "6.10.1", ENOUGH, "kernel/fs/ext4/ext4.ko\n")
    (tmp_path / "boot/vmlinuz-7.0").write_bytes(b"no modules")
    assert host_kernel(tmp_path / "boot", tmp_path / "modules").version == "6.10.1"


def test_modules_are_unpacked_and_indexed(tmp_path: Path) -> None:
    fake_kernel(tmp_path, "6.9.1", ENOUGH, "kernel/fs/ext4/ext4.ko\n")
    tree = FileTree()
    host_kernel(tmp_path / "boot", tmp_path / "modules").add_modules(tree)
    entries = dict(tree)
    assert entries["lib/modules/6.9.1/k/virtio_blk.ko"].data == b"module"
    index = entries["lib/modules/6.9.1/modules.dep"].data
    assert index == b"k/virtio_pci.ko:\nk/virtio_blk.ko:\nk/virtio_net.ko:\nk/dm-mod.ko:\n"
    assert entries["lib/modules/6.9.1/modules.alias"].data == b"alias virtio:d2 virtio_blk\n"
    assert "lib/modules/6.9.1/k/other.ko" not in tree


def test_a_kernel_without_a_needed_module_is_refused(tmp_path: Path) -> None:
    fake_kernel(tmp_path, "6.9.1", "k/virtio_pci.ko:\n", "kernel/fs/ext4/ext4.ko\n")
    with pytest.raises(HostError, match="it has no module virtio_blk, virtio_net, dm_mod"):
        host_kernel(tmp_path / "boot", tmp_path / "modules")


def test_no_kernel_at_all_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="apt-get install linux-image-cloud-amd64"):
        host_kernel(tmp_path, tmp_path)


def test_treeinfo_is_an_ini_file_with_checksums() -> None:
    parser = configparser.ConfigParser()
    parser.read_string(treeinfo({"images/pxeboot/vmlinuz": "ab", "images/pxeboot/initrd.img": "c"}))
    assert parser["general"]["family"] == "Fedora"
    assert parser["images-x86_64"]["kernel"] == "images/pxeboot/vmlinuz"
    assert parser["checksums"]["images/pxeboot/initrd.img"] == "sha256:c"


def test_the_demo_asks_for_packages_that_there_are() -> None:
    packages = (TEMPLATES / "installer/lib/installer/packages").read_text().split()
    text = (PROJECT / "kickstart/demo.ks").read_text()
    wanted = text.partition("%packages")[2].partition("%end")[0].split()
    assert wanted
    assert set(wanted) <= set(packages)
