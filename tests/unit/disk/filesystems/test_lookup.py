"""Paths in a file system that nobody mounts: links stay inside, circles end."""

from __future__ import annotations

import pytest

from pipeline.convert.survey import has_kernel, looks_like_boot, looks_like_root
from tests.fixtures.disks.trees import Folder, tree

GUEST: Folder = {
    "etc": {
        "passwd": b"the guest's",
        "absolute": "/etc/passwd",
        "upwards": "../../../../etc/passwd",
        "circle": "circle",
        "a": "b",
        "b": "/etc/a",
        "to-folder": "/usr",
    },
    "usr": {"lib": {"os-release": b"ID=x"}},
    "bin": "usr/bin",
}


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "etc//./passwd", "/etc/absolute", "/etc/upwards", "/../../etc/passwd",
     "/etc/to-folder/../etc/passwd"],
)  # fmt: skip
def test_links_and_dots_lead_to_the_guests_own_files(path: str) -> None:
    assert tree(GUEST).read(path, 100) == b"the guest's"


@pytest.mark.parametrize("path", ["/etc/circle", "/etc/a", "/etc/missing", "/etc/passwd/x", "/etc"])
def test_what_leads_nowhere_is_no_file(path: str) -> None:
    assert tree(GUEST).read(path, 100) is None


def test_folders() -> None:
    guest = tree(GUEST)
    assert guest.is_directory("/etc/to-folder/lib") and not guest.is_directory("/etc/passwd")
    assert guest.names("/usr") == ["lib"] and guest.names("/nothing") == []


ROOTS: list[Folder] = [
    {"etc": {"fstab": b""}, "usr": {}, "bin": "usr/bin"},
    {"etc": {"os-release": b""}, "usr": {}, "sbin": {}},
]
OTHERS: list[Folder] = [
    {},
    {"etc": {}, "usr": {}, "bin": {}},
    {"usr": {}, "bin": {}},
    {"bin": {}, "lib": {}, "share": {}},
    {"lost+found": {}, "alice": {}},
    {"vmlinuz-5.10": b""},
]


def test_a_root_is_known_by_its_settings_and_programs() -> None:
    assert all(looks_like_root(tree(top)) for top in ROOTS)
    assert not any(looks_like_root(tree(top)) for top in OTHERS)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("vmlinuz-6.1.0-9-amd64", True), ("vmlinuz", True), ("bzImage", True), ("linux", True),
     ("vmlinuz.old.txt", False), ("initrd.img-6.1", False), ("linux.conf", False)],
)  # fmt: skip
def test_boot_is_known_by_its_kernel(name: str, kernel: bool) -> None:
    assert looks_like_boot(tree({name: b"", "grub": {}})) == kernel
    assert has_kernel(tree({"boot": {name: b""}}), "/boot") == kernel
    assert not looks_like_boot(tree({name: b"", "etc": {}})), "Debian's links at the top of a root"
