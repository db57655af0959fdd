"""The inventory of real file systems, judged by the kernel's own view and by rpm."""

from __future__ import annotations

import os
import random
import subprocess
import time
import zlib
from pathlib import Path

import pytest

from pipeline.core.errors import DiskError
from pipeline.disk.filesystems.open import open_tree
from pipeline.guest import inventory
from pipeline.guest.inventory import rpmdb

pytestmark = pytest.mark.integration

SPEC = """Name: hello
Epoch: 3
Version: 1.2
Release: 4%{?dist}
Summary: a test
License: GPL-2.0-or-later AND (MIT OR Apache-2.0)
Vendor: Example Project
BuildArch: noarch
Provides: greeter = 3:1.2-4
Requires: greeter = 3:1.2-4, /bin/sh, nowhere
%description
a test
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/usr/share/hello
echo one > %{buildroot}/usr/bin/hello
echo two > %{buildroot}/usr/share/hello/data
%files
/usr/bin/hello
/usr/share/hello/data
"""


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout


def make_image(root: Path, image: Path) -> None:
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", root, image, "64M")


def test_every_entry_is_what_the_kernel_shows(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/tool").write_bytes(b"x" * 70_000)
    (root / "usr/bin/tool").chmod(0o4755)
    os.link(root / "usr/bin/tool", root / "usr/bin/twin")
    (root / "empty").touch(mode=0o600)
    (root / os.fsdecode(b"odd\xff\nname")).write_bytes(b"1")
    with (root / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    os.mkfifo(root / "pipe")
    make_image(root, tmp_path / "image")

    listing = inventory.take(tmp_path / "image", "ext4")
    found = listing.by_path()
    assert set(found) - {"/lost+found"} == {
        "/usr", "/usr/bin", "/usr/bin/tool", "/usr/bin/twin", "/bin", "/empty",
        "/odd\\xff\nname", "/sparse", "/pipe",
    }  # fmt: skip
    tool, twin = found["/usr/bin/tool"], found["/usr/bin/twin"]
    assert (tool.kind, tool.mode, tool.size) == ("f", 0o4755, 70_000)
    assert tool.check == twin.check == zlib.crc32(b"x" * 70_000)
    assert sorted((tool.allocated, twin.allocated)) == [0, 72 << 10]
    assert (found["/bin"].kind, found["/bin"].check) == ("l", zlib.crc32(b"usr/bin"))
    assert found["/pipe"].kind == "o"
    assert found["/sparse"].size == (5 << 20) + 3
    assert found["/sparse"].allocated < 64 << 10
    assert listing.unknown == "neither a dpkg nor an rpm database was found"
    assert 0 < listing.used < listing.size == 64 << 20


def test_xfs_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(300_000))
    (tmp_path / "proto").write_text(
        f"""/stand/boot
0 0
d--755 0 0
tool -u-755 12 34 {tmp_path}/data
etc d--700 0 7
note ---640 0 0 {tmp_path}/proto
$
link l--777 0 0 etc/note
pipe p--600 0 0
$
"""
    )
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    run("mkfs.xfs", "-q", "-p", tmp_path / "proto", image)

    listing = inventory.take(image, "xfs")
    found = listing.by_path()
    assert set(found) == {"/tool", "/etc", "/etc/note", "/link", "/pipe"}
    tool = found["/tool"]
    assert (tool.mode, tool.uid, tool.gid, tool.size) == (0o4755, 12, 34, 300_000)
    assert tool.check == zlib.crc32((tmp_path / "data").read_bytes())
    assert tool.allocated == 74 * 4096
    assert (found["/etc"].kind, found["/etc"].mode, found["/etc"].gid) == ("d", 0o700, 7)
    assert (found["/link"].kind, found["/link"].check) == ("l", zlib.crc32(b"etc/note"))
    assert found["/pipe"].kind == "o"
    assert 300_000 < listing.used < listing.size == 320 << 20


def test_debian_packages_own_their_files_through_merged_directories(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/bash").write_bytes(b"b" * 5000)
    (root / "usr/bin/stray").write_bytes(b"s" * 5000)
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "bash:amd64.list").write_text("/.\n/bin\n/bin/bash\n/etc/gone\n")
    (root / "var/lib/dpkg/status").write_text(
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2\n"
    )
    make_image(root, tmp_path / "image")
    listing = inventory.take(tmp_path / "image", "ext4")
    owners = {entry.path: entry.owner for entry in listing.entries}
    assert listing.manager == "dpkg"
    assert [package[:3] for package in listing.packages] == [("bash", "5.2", "amd64")]
    assert owners["/usr/bin/bash"] == 0
    assert owners["/usr/bin/stray"] == owners["/usr/bin"] == -1


def test_links_lead_nowhere_but_into_the_guest(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "var/lib").mkdir(parents=True)
    (root / "var/lib/dpkg").symlink_to("/../../../../../../etc")
    (root / "loop").symlink_to("loop/loop")
    (root / "etc").mkdir()
    make_image(root, tmp_path / "image")
    with open_tree(tmp_path / "image", "ext4") as tree:
        assert tree.real("/var/lib/dpkg/passwd") == "/etc/passwd"
        assert tree.read("/var/lib/dpkg/passwd", 1 << 20) is None
        assert tree.read("/loop/x", 1 << 20) is None


def test_rpm_agrees_on_its_own_database(tmp_path: Path) -> None:
    (tmp_path / "hello.spec").write_text(SPEC)
    top = tmp_path / "top"
    run("rpmbuild", "-bb", "--define", f"_topdir {top}", tmp_path / "hello.spec")
    (package,) = top.rglob("hello*.rpm")
    root = tmp_path / "root"
    database = root / "usr/lib/sysimage/rpm"
    database.mkdir(parents=True)
    rpm = ("rpm", "--define", f"_dbpath {database}", "--define", "_db_backend sqlite")
    run(*rpm, "--initdb")
    run(*rpm, "-i", "--justdb", "--nodeps", "--ignorearch", package)
    # What the package owns; one of the files was since deleted in the guest.
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/hello").write_text("one\n")
    make_image(root, tmp_path / "image")

    listing = inventory.take(tmp_path / "image", "ext4")
    fields = "%{NAME}|%{EPOCH}:%{VERSION}-%{RELEASE}|%{ARCH}|%{SOURCERPM}|%{VENDOR}|%{LICENSE}\n"
    said = [line.split("|") for line in run(*rpm, "-qa", "--qf", fields).splitlines()]
    assert [
        [*p[:3], f"{p.source}-{p.source_version}.src.rpm", p.vendor, p.licence]
        for p in listing.packages
    ] == said
    # It needs what it provides itself, rpm's own features, and what nobody here has.
    assert listing.packages[0].depends == (0,)
    assert listing.manager == "rpm"
    assert listing.by_path()["/usr/bin/hello"].owner == 0
    with open_tree(tmp_path / "image", "ext4") as tree:
        (found,) = rpmdb.read(tree, tmp_path) or []
    assert sorted(found.files) == sorted(run(*rpm, "-qal").splitlines())
    capabilities = run(*rpm, "-qa", "--qf", "[%{PROVIDENAME}|%{PROVIDEVERSION}\n]").splitlines()
    assert sorted("|".join(each) for each in found.provides) == sorted(capabilities)
    assert set(found.requires) == {("greeter", "3:1.2-4"), ("/bin/sh", ""), ("nowhere", "")}


def test_damage_costs_an_error_never_time(tmp_path: Path) -> None:
    """Single bytes and whole fields of the metadata, changed at random but the same each time."""
    root = tmp_path / "root"
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "a.list").write_text("/a\n")
    (root / "var/lib/dpkg/status").write_text("Package: a\nStatus: install ok installed\n")
    (root / "a").write_bytes(b"x" * 20_000)
    (root / "link").symlink_to("var/lib")
    image = tmp_path / "image"
    run("mke2fs", "-q", "-t", "ext4", "-N", "64", "-d", root, image, "2M")
    whole = image.read_bytes()
    # Metadata: what is neither zero nor the content of the one large file.
    used = [n for n in range(1024, len(whole)) if whole[n] not in b"\0x"]
    choose = random.Random(15)
    outcomes = {"read": 0, "refused": 0}
    begun = time.monotonic()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(choose.randint(1, 8)):
            place = choose.choice(used)
            width = choose.choice((1, 2, 4))
            damaged[place : place + width] = choose.randbytes(width)
        image.write_bytes(damaged)
        try:
            inventory.take(image, "ext4")
        except DiskError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert min(outcomes.values()) > 10, outcomes
    assert time.monotonic() - begun < 300
