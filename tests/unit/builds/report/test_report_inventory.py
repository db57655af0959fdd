"""Package databases and kept inventories, on bytes made by the databases' own libraries."""

from __future__ import annotations

import dbm.ndbm
import gzip
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DiskError, InputError
from pipeline.disk.filesystems.status import Kind, Status
from pipeline.disk.filesystems.walk import Facts, Tree
from pipeline.guest import inventory
from pipeline.guest.inventory import Package, packages, rpmdb, system
from tests.fixtures.finished import small_inventory

STATUS = """Package: bash
Status: install ok installed
Architecture: amd64
Description: shell
 Package: not-a-field
Version: 5.2.15-2+b7
Source: bash (5.2.15-2)
Maintainer: Matthias <m@example.org>

Package: removed
Status: deinstall ok config-files
Version: 1

Package: half
Status: install reinstreq half-installed
Version: 2

Package: zlib1g
Status: hold ok installed
Architecture: amd64
Source: zlib
Version: 1:1.2.13
"""


def header(**tags: tuple[int, int, list[str] | list[int]]) -> bytes:
    """An rpm header; each tag is its number, type and values."""
    index, data = b"", b""
    for number, kind, values in tags.values():
        if kind == 4:
            data += bytes(-len(data) % 4)
        index += struct.pack(">IIII", number, kind, len(data), len(values))
        for value in values:
            data += struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack(">II", len(tags), len(data)) + index + data


BASH = header(
    name=(1000, 6, ["bash"]),
    version=(1001, 6, ["4.2.8"]),
    release=(1002, 6, ["1.fc15"]),
    epoch=(1003, 4, [2]),
    arch=(1022, 6, ["x86_64"]),
    indexes=(1116, 4, [0, 1, 0]),
    names=(1117, 8, ["bash", "README", "sh"]),
    directories=(1118, 8, ["/bin/", "/usr/share/doc/bash/"]),
)
LARGE = header(
    name=(1000, 6, ["kernel"]),
    version=(1001, 6, ["2.6.38"]),
    release=(1002, 6, ["1"]),
    indexes=(1116, 4, [0] * 3000),
    names=(1117, 8, [f"module-{number}.ko" for number in range(3000)]),
    directories=(1118, 8, ["/lib/modules/"]),
)
KEY = header(name=(1000, 6, ["gpg-pubkey"]), version=(1001, 6, ["1"]), release=(1002, 6, ["1"]))


def berkeley(directory: Path, *headers: bytes) -> bytes:
    """Written by Berkeley DB itself, as rpm kept them: keys are numbers, key 0 the last number."""
    assert dbm.ndbm.library == "Berkeley DB"
    with dbm.ndbm.open(str(directory / "Packages"), "n") as database:
        database[bytes(4)] = struct.pack("<I", len(headers))
        for number, each in enumerate(headers, 1):
            database[struct.pack("<I", number)] = each
    return (directory / "Packages.db").read_bytes()


class Files:
    """Guest files by path, for rpmdb.read."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files

    def copy(self, path: str, to: Path, limit: int) -> bool:
        if path in self.files and self.files[path].stat().st_size <= limit:
            shutil.copyfile(self.files[path], to)
            return True
        return False


def test_only_installed_packages_count() -> None:
    assert list(packages.dpkg_status(STATUS)) == [
        Package("bash", "5.2.15-2+b7", "amd64", "bash", "5.2.15-2", "Matthias <m@example.org>"),
        Package("zlib1g", "1:1.2.13", "amd64", "zlib", "1:1.2.13"),
    ]


def test_needs_are_met_by_name_by_alternative_and_by_what_is_provided() -> None:
    status = """Package: app
Status: install ok installed
Architecture: amd64
Pre-Depends: libc6 (>= 2.36)
Depends: gone | awk, perl:any, libc6, nowhere, mail-transport-agent [linux-any] <!nocheck>

Package: libc6
Status: install ok installed
Architecture: i386

Package: libc6
Status: install ok installed
Architecture: amd64

Package: mawk
Status: install ok installed
Provides: awk (= 2), other

Package: perl
Status: install ok installed

Package: postfix
Status: install ok installed
Provides: mail-transport-agent
"""
    assert needs(status) == {
        "app amd64": ["libc6 amd64", "mawk ", "perl ", "postfix "],
        "libc6 amd64": [], "libc6 i386": [], "mawk ": [], "perl ": [], "postfix ": [],
    }  # fmt: skip


def needs(status: str) -> dict[str, list[str]]:
    """Each package of a dpkg status file with what meets its needs."""
    files = {"/var/lib/dpkg/status": status.encode()}
    found = packages.find(Guest(files))  # type: ignore[arg-type] # all that dpkg's needs
    shown = [f"{p.name} {p.architecture}" for p in found.packages]
    return {shown[i]: [shown[n] for n in p.depends] for i, p in enumerate(found.packages)}


class Guest:
    """A tree of some files whose directories are no links."""

    entries = ()

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, path: str, limit: int) -> bytes | None:
        return self.files.get(path)


def test_a_system_names_itself_in_shell_words() -> None:
    text = """# comment
NAME="Debian GNU/Linux"
ID=debian
VERSION_ID='12'
PRETTY_NAME="broken
HOME_URL=https://www.debian.org/
"""
    place = "/usr/lib/os-release"
    found = system.read(Guest({place: text.encode()}))
    assert found == {"ID": "debian", "VERSION_ID": "12", "NAME": "Debian GNU/Linux"}
    assert system.read(Guest({place: b"ID=a", "/etc/os-release": b"ID=b"})) == {"ID": "b"}
    assert system.read(Guest({})) == {}


def test_berkeley_values_come_back_from_pages_and_overflow_pages(tmp_path: Path) -> None:
    found = sorted(rpmdb.berkeley_headers(berkeley(tmp_path, BASH, LARGE)), key=len)
    assert found == [BASH, LARGE]


def test_the_old_database_of_fedora_15_is_read(tmp_path: Path) -> None:
    berkeley(tmp_path, BASH, LARGE, KEY)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = rpmdb.read(Files({"/var/lib/rpm/Packages": tmp_path / "Packages.db"}), scratch)
    assert found is not None
    assert [(p.name, p.version, p.architecture) for p in found] == [
        ("bash", "2:4.2.8-1.fc15", "x86_64"),
        ("kernel", "2.6.38-1", ""),
    ]
    assert found[0].files == ("/bin/bash", "/usr/share/doc/bash/README", "/bin/sh")
    assert len(found[1].files) == 3000


def test_the_new_database_is_read_with_its_journal(tmp_path: Path) -> None:
    live = sqlite3.connect(tmp_path / "rpmdb.sqlite")
    live.execute("PRAGMA journal_mode=WAL")
    live.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
    live.execute("INSERT INTO Packages VALUES (1, ?)", (BASH,))
    live.commit()
    # The connection stays open: the rows are in the journal alone, as in a disk that was cut off.
    assert (tmp_path / "rpmdb.sqlite-wal").stat().st_size > 0
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    place = "/usr/lib/sysimage/rpm/rpmdb.sqlite"
    files = {place: tmp_path / "rpmdb.sqlite", f"{place}-wal": tmp_path / "rpmdb.sqlite-wal"}
    found = rpmdb.read(Files(files), scratch)
    live.close()
    assert found is not None
    assert [package.name for package in found] == ["bash"]


def test_a_view_in_place_of_the_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rpmdb.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE VIEW Packages AS SELECT 1 AS hnum, zeroblob(9) AS blob")
    with pytest.raises(DiskError, match="no table Packages"):
        list(rpmdb.sqlite_headers(path))


def test_without_a_database_nothing_is_found(tmp_path: Path) -> None:
    assert rpmdb.read(Files({}), tmp_path) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no Berkeley DB hash"),
        (bytes(12) + struct.pack("<I", 0x061561) + bytes(4) + struct.pack("<I", 4097), "4097"),
        (b"SQLite format 3\0" + bytes(4096), "no Berkeley DB hash"),
    ],
)
def test_what_is_no_database_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(DiskError, match=why):
        list(rpmdb.berkeley_headers(content))


def test_a_loop_of_overflow_pages_ends(tmp_path: Path) -> None:
    data = bytearray(berkeley(tmp_path, LARGE))
    size = struct.unpack_from("<I", data, 20)[0]
    for start in range(size, len(data), size):
        if data[start + 25] == 7:
            data[start + 16 : start + 20] = struct.pack("<I", start // size)
    with pytest.raises(DiskError, match="bytes"):
        list(rpmdb.berkeley_headers(bytes(data)))


@settings(max_examples=150)
@given(st.data())
def test_damage_costs_an_error_never_a_crash(data: st.DataObject) -> None:
    blob = bytearray(BASH)
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        package = rpmdb.parse_header(bytes(blob[: data.draw(st.integers(0, len(blob)))]))
    except DiskError as error:
        assert "rpm database" in str(error)
    else:
        assert len(package.files) <= len(BASH)


def test_a_kept_inventory_comes_back(tmp_path: Path) -> None:
    path = tmp_path / inventory.FILE
    listing = small_inventory()
    path.write_bytes(inventory.dump(listing))
    first = path.read_bytes()
    assert inventory.read(path) == listing
    path.write_bytes(inventory.dump(listing))
    assert path.read_bytes() == first
    assert inventory.read(tmp_path / "none.json.gz") is None
    assert listing.package_bytes() == {-1: 8192, 0: 1212416, 1: 1900544}


@pytest.mark.parametrize(
    "content", [b"", b"x", gzip.compress(b"{}", mtime=0), gzip.compress(b"[", mtime=0)]
)
def test_a_damaged_inventory_says_what_to_do(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / inventory.FILE
    path.write_bytes(content)
    with pytest.raises(InputError, match="Delete it"):
        inventory.read(path)


def test_other_file_systems_are_named(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="it is btrfs"):
        inventory.take(tmp_path / "x", "btrfs")


class Volume:
    """A file system in memory: directories by inode number, all other inodes are files."""

    root = 1
    size = 1 << 20
    used = 0

    def __init__(self, directories: dict[int, dict[bytes, int]], each: int = 10) -> None:
        self.directories, self.each, self.read = directories, each, 0

    def facts(self, number: int) -> Facts:
        kind: Kind = "directory" if number in self.directories else "file"
        return Facts(Status(kind, 0o755, 0, 0, self.each), self.each)

    def names(self, number: int) -> dict[bytes, int]:
        return self.directories[number]

    def pieces(self, number: int) -> Iterator[bytes]:
        self.read += self.each
        yield bytes(self.each)

    def content(self, number: int, limit: int) -> bytes:
        raise AssertionError("there are no links")


def test_a_file_of_many_names_is_read_once() -> None:
    volume = Volume({1: {b"%d" % n: 7 for n in range(5000)}}, each=1000)
    tree = Tree(volume, Path("x"))
    assert volume.read == 1000
    assert sum(entry.allocated for entry in tree.entries) == 1000
    assert len({entry.check for entry in tree.entries}) == 1


def test_circles_and_lies_end() -> None:
    circle = Tree(Volume({1: {b"a": 2}, 2: {b"b": 2, b"c": 3}, 3: {}}), Path("x"))
    assert [entry.path for entry in circle.entries] == ["/a", "/a/c"]
    with pytest.raises(DiskError, match="share blocks"):
        Tree(Volume({1: {b"%d" % n: n for n in range(2, 50)}}, each=100_000), Path("x"))
    many = {n: {b"x": n + 1} for n in range(1, 50)} | {50: {}}
    with pytest.raises(DiskError, match="larger than itself"):
        Tree(Volume(many, each=100_000), Path("x"))
    deep = {n: {b"x": n + 1} for n in range(1, 999)} | {999: {}}
    assert len(Tree(Volume(deep), Path("x")).entries) == 200
