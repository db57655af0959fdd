"""Guest paths: links stay inside the guest, everything is bounded, whatever the names."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import GuestError
from pipeline.guest.access.paths import MAX_LINKS, MAX_REMOVED, decoded, encoded, shown
from tests.fixtures.memory_guest import MemoryGuest


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("/", "/"),
        ("/etc/./rc.local", "/etc/rc.d/rc.local"),
        ("//etc//rc.local", "/etc/rc.d/rc.local"),
        ("/lib/x", "/usr/lib/x"),
        ("/lib/../etc", "/usr/etc"),
        ("/../../etc/up/etc/rc.local/", "/etc/rc.d/rc.local"),
        ("/etc/dangling", "/nowhere"),
        ("/etc/new", "/etc/new"),
    ],
)
def test_resolve(path: str, real: str) -> None:
    guest = MemoryGuest(
        {
            "/etc/rc.local": {"link": "rc.d/rc.local"},
            "/etc/rc.d/rc.local": "",
            "/lib": {"link": "usr/lib"},
            "/usr/lib": None,
            "/etc/up": {"link": "../../../.."},
            "/etc/dangling": {"link": "/nowhere"},
        }
    )
    assert guest.resolve(path) == real


def test_a_link_out_of_the_guest_leads_into_it() -> None:
    guest = MemoryGuest({"/etc/passwd": "guest", "/x": {"link": "../../../../etc/passwd"}})
    assert guest.read("/x", 10) == b"guest"


@pytest.mark.parametrize(
    "tree", [{"/a": {"link": "a"}}, {"/a": {"link": "b"}, "/b": {"link": "/a"}}]
)
def test_a_cycle_of_links_ends(tree: dict[str, dict[str, str]]) -> None:
    guest = MemoryGuest(tree)
    with pytest.raises(GuestError, match="too many links"):
        guest.read("/a", 10)


def test_links_that_multiply_end() -> None:
    """Each link doubles the path: the count of links bounds it, not patience."""
    tree = {f"/l{n}": {"link": f"l{n + 1}/../l{n + 1}"} for n in range(60)}
    guest = MemoryGuest({**tree, "/l60": "end"})
    with pytest.raises(GuestError, match="too many links"):
        guest.resolve("/l0")


def test_as_many_links_as_linux_follows() -> None:
    tree: dict[str, str | dict[str, str]] = {
        f"/l{n}": {"link": f"l{n + 1}"} for n in range(MAX_LINKS)
    }
    guest = MemoryGuest({**tree, f"/l{MAX_LINKS}": "end"})
    assert guest.read("/l0", 10) == b"end"


@pytest.mark.parametrize("path", ["", "etc", "/a\0b", "/" + "x" * 5000])
def test_paths_that_are_none(path: str) -> None:
    guest = MemoryGuest({})
    with pytest.raises(GuestError):
        guest.exists(path)


def test_a_long_name_is_refused() -> None:
    with pytest.raises(GuestError, match="too long"):
        MemoryGuest({}).stat("/" + "x" * 256)


def test_reading_is_bounded() -> None:
    guest = MemoryGuest({"/big": "x" * 100, "/dir": None})
    assert guest.read("/big", 100) == b"x" * 100
    with pytest.raises(GuestError, match="at most 99"):
        guest.read("/big", 99)
    with pytest.raises(GuestError, match="not a file"):
        guest.read("/dir", 10)


def test_what_is_missing_is_missing() -> None:
    guest = MemoryGuest({"/file": ""})
    assert guest.stat("/no/where") is None
    assert not guest.exists("/file/below")
    with pytest.raises(GuestError):
        guest.read("/no", 10)


def test_writing_replaces_a_link_but_not_what_it_leads_to() -> None:
    guest = MemoryGuest({"/a": {"link": "b"}, "/b": "kept"})
    guest.write("/a", b"new", 0o600, 7, 8)
    assert guest.read("/b", 10) == b"kept"
    status = guest.stat("/a")
    assert status is not None
    assert (status.kind, status.mode, status.uid, status.gid) == ("file", 0o600, 7, 8)


def test_a_directory_is_not_written_over() -> None:
    guest = MemoryGuest({"/d": None})
    with pytest.raises(GuestError):
        guest.write("/d", b"", 0o644)
    with pytest.raises(GuestError):
        guest.symlink("x", "/d")
    with pytest.raises(GuestError):
        guest.make_directory("/d", 0o755)


def test_removing_a_directory_follows_no_link() -> None:
    guest = MemoryGuest({"/keep/me": "1", "/d/e/f": "2", "/d/out": {"link": "/keep"}})
    guest.remove("/d")
    assert set(guest.nodes) == {"/", "/keep", "/keep/me"}
    guest.remove("/d")
    with pytest.raises(GuestError):
        guest.remove("/")


def test_removing_is_bounded() -> None:
    guest = MemoryGuest({f"/d/{n}": "" for n in range(MAX_REMOVED)})
    with pytest.raises(GuestError, match="more than"):
        guest.remove("/d")
    assert len(guest.nodes) == MAX_REMOVED + 2


def test_the_boot_partition_is_read_only() -> None:
    tree = {"/boot/x": "1", "/b": {"link": "boot"}, "/bootx": None}
    guest = MemoryGuest(tree, separate_boot=True)
    guest.write("/bootx/y", b"", 0o644)
    for path in ("/boot/x", "/b/x"):
        with pytest.raises(GuestError, match="boot partition"):
            guest.write(path, b"", 0o644)
        with pytest.raises(GuestError, match="boot partition"):
            guest.remove(path)
        with pytest.raises(GuestError, match="boot partition"):
            guest.chmod(path, 0o600)


def test_attributes_are_set_by_name() -> None:
    guest = MemoryGuest({"/f": ""})
    guest.set_xattr("/f", "security.selinux", b"a\0")
    assert guest.list_xattrs("/f") == ["security.selinux"]
    assert guest.get_xattr("/f", "user.none") is None
    for name in ("selinux", "user.a b", "user.\n"):
        with pytest.raises(GuestError):
            guest.set_xattr("/f", name, b"")


def test_a_download_is_whole_or_not_there(tmp_path: Path) -> None:
    guest = MemoryGuest({"/f": "content"})
    guest.download("/f", tmp_path / "f")
    assert (tmp_path / "f").read_text() == "content"
    guest.nodes["/f"].data = b"cut"
    with pytest.raises(GuestError, match="3 of its 7 bytes"):
        guest.download("/f", tmp_path / "g")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@given(st.binary(min_size=1, max_size=40))
def test_names_of_any_bytes_survive(name: bytes) -> None:
    assert encoded(decoded(name)) == name
    assert shown(decoded(name)).isprintable()


_NAMES = st.sampled_from(["a", "b", "c", "."])
_LINKS = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["a", "b", "c"])),
    st.lists(st.sampled_from(["a", "b", "../a", "../b/c", "."]), min_size=1, max_size=3),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(_LINKS, st.lists(_NAMES, min_size=1, max_size=5))
def test_the_kernel_resolves_alike(
    links: dict[tuple[str, str], list[str]], names: list[str]
) -> None:
    """Directories a, b, c with links that stay below them: realpath(3) is the judge."""
    tree: dict[str, str | dict[str, str] | None] = {f"/{name}": None for name in "abc"}
    tree |= {f"/{d}/{name}": {"link": "/".join(parts)} for (d, name), parts in links.items()}
    guest = MemoryGuest(tree)
    with tempfile.TemporaryDirectory() as directory:
        root = os.path.realpath(directory)
        for place, content in tree.items():
            if isinstance(content, dict):
                Path(root + place).symlink_to(content["link"])
            else:
                Path(root + place).mkdir()
        path = "/" + "/".join(names)
        try:
            real = os.path.realpath(root + path, strict=True)
        except OSError:
            with contextlib.suppress(GuestError):
                assert not guest.exists(path)
        else:
            inside = os.path.commonpath([real, root]) == root
            if inside:
                assert guest.exists(path)
                assert guest.resolve(path) == (real.removeprefix(root) or "/")
