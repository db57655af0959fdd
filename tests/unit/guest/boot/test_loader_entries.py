"""Boot loader entries: GRUB's order, systemd-boot's order and default, counters, versions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.guest.boot.loader_config import Entry, entries_default, grub2_default
from pipeline.guest.boot.loader_entries import (
    compare_versions,
    counted,
    entries_of,
    grub_order,
    loader_default,
    loader_order,
    parse_entry,
)


def entry(name: str, *lines: str) -> Entry:
    found = parse_entry(name, "\n".join(("linux /vmlinuz", *lines)), "/boot")
    assert found is not None
    return found


def ids(entries: list[Entry]) -> list[str]:
    return [e.id for e in entries]


# UAPI.10's own examples, and what they imply.
ASCENDING = [
    "122.1~rc1",
    "122.1",
    "122.1-1",
    "122.1-2",
    "122.1.1",
    "123a",
    "123a-1",
    "123b",
]


def test_versions_in_the_order_of_the_specification() -> None:
    for a, b in itertools.pairwise(ASCENDING):
        assert compare_versions(a, b) < 0 < compare_versions(b, a), (a, b)
    assert compare_versions("122.1^post1", "122.1") > 0 > compare_versions("122.1^p", "122.1.1")
    assert compare_versions("11_a", "11a") == 0
    assert compare_versions("011", "11") == 0
    assert compare_versions("6.9", "6.10") < 0
    assert compare_versions("A", "a") < 0


@given(st.text(max_size=8), st.text(max_size=8))
def test_any_two_versions_have_one_order(a: str, b: str) -> None:
    assert compare_versions(a, b) == -compare_versions(b, a)
    assert compare_versions(a, a) == 0


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("x.conf", ("x.conf", -1, -1)),
        ("x+3.conf", ("x.conf", 3, 0)),
        ("x+3-1.conf", ("x.conf", 3, 1)),
        ("x-6.1+deb13-amd64+0-3.efi", ("x-6.1+deb13-amd64.efi", 0, 3)),
        ("x-6.1+debug.conf", ("x-6.1+debug.conf", -1, -1)),
    ],
)
def test_boot_counters(name: str, parts: tuple[str, int, int]) -> None:
    assert counted(name) == parts


def test_systemd_boots_order() -> None:
    entries = [
        entry("old-a.conf", "version 9"),
        entry("old-b.conf", "version 1"),
        entry("debian-1.conf", "sort-key debian", "machine-id b", "version 6.1"),
        entry("debian-2.conf", "sort-key debian", "machine-id b", "version 6.12"),
        entry("debian-3.conf", "sort-key debian", "machine-id a", "version 5.0"),
        entry("arch.conf", "sort-key arch", "version 1"),
        entry("bad+0-3.conf", "sort-key aaa", "version 99"),
    ]
    order = ["arch", "debian-3", "debian-2", "debian-1", "old-b", "old-a", "bad"]
    for permutation in (entries, entries[::-1]):
        assert ids(loader_order(permutation)) == order


def test_of_two_counted_alike_the_less_tried_comes_first() -> None:
    entries = [entry("x+1-2.conf"), entry("x+2-1.conf"), entry("x+2.conf")]
    assert [e.tries_done for e in loader_order(entries)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        ("", "lts-5.4"),
        ("default lts.conf", "lts-5.4"),  # the counter is no part of the name
        ("default lts-5.4.conf\ntimeout 3", "lts-5.4"),
        ("default  arch-6.1*", "arch-6.12"),
        ("default ARCH-6.1.conf", "arch-6.1"),
        ("default arch-6.1", "arch-6.1"),  # as it was written before systemd 239
        ("default @saved", "lts-5.4"),
        ("default nothing-*", "lts-5.4"),
        ("# default arch-6.1.conf", "lts-5.4"),
        ("default bad.conf", "bad"),
        ("preferred bad.conf\ndefault arch-6.1.conf", "arch-6.1"),
        ("preferred arch-6.1.conf\ndefault lts-*", "arch-6.1"),
    ],
)
def test_systemd_boots_default(config: str, chosen: str) -> None:
    names = ("arch-6.1.conf", "arch-6.12.conf", "lts-5.4+2-1.conf", "bad+0-3.conf")
    entries = loader_order([entry(name) for name in names])
    found = loader_default(entries, config.replace("lts.conf", "lts-*.conf"))
    assert found is not None
    assert found.id == chosen


MACHINE = "104a42359fae41b687caac066397aec2"


def test_grubs_order_is_by_the_files_name_alone() -> None:
    """Neither version nor sort-key: what names sort last to first, as packages' names."""
    entries = [
        entry(f"{MACHINE}-4.18.0-80.el8.x86_64.conf", "version 9", "sort-key a"),
        entry(f"{MACHINE}-4.18.0-348.el8.x86_64.conf", "version 1"),
        entry(f"{MACHINE}-0-rescue.conf", "version 0-rescue"),
        entry(f"{MACHINE}-4.18.0-348.el8.x86_64+debug.conf", "version 1"),
    ]
    assert ids(grub_order(entries)) == [
        f"{MACHINE}-4.18.0-348.el8.x86_64+debug",
        f"{MACHINE}-4.18.0-348.el8.x86_64",
        f"{MACHINE}-4.18.0-80.el8.x86_64",
        f"{MACHINE}-0-rescue",
    ]
    # The machine's id is the package's name, so that it comes before any version.
    other = entry("9" + MACHINE[1:] + "-3.10.0-1.el7.conf", "version 3.10")
    assert grub_order([*entries, other])[0] is other


def test_the_two_loaders_disagree() -> None:
    entries = [
        entry("a-2.conf", "sort-key x", "version 6.1"),
        entry("b-1.conf", "sort-key x", "version 6.12"),
    ]
    assert ids(grub_order(entries)) == ["b-1", "a-2"]
    swapped = [
        entry("a-2.conf", "sort-key x", "version 6.12"),
        entry("b-1.conf", "sort-key x", "version 6.1"),
    ]
    assert ids(grub_order(swapped)) == ["b-1", "a-2"]
    assert ids(loader_order(swapped)) == ["a-2", "b-1"]


def test_entries_stand_where_blscfg_stands() -> None:
    """An index counts what other commands put before them."""
    entries = grub_order([entry("x-1-1.conf"), entry("x-2-1.conf")])
    config = (
        "set default=%s\nmenuentry 'memtest' --id m {\n linux16 /memtest\n}\nblscfg\n"
        "menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {\n fwsetup\n}\n"
    )
    for default, name in (("0", "memtest"), ("1", "x-2-1"), ("2", "x-1-1")):
        found = grub2_default(config % default, "", entries)
        assert found is not None
        assert name in (found.id, found.title)
    assert grub2_default(config % "3", "", entries) is None
    found = grub2_default(config % '"${saved_entry}"', "saved_entry=x-1-1\n", entries)
    assert found is not None
    assert found.id == "x-1-1"


def test_saved_entries_without_a_configuration() -> None:
    entries = grub_order([entry("x-1-1.conf", "title One"), entry("x-2-1.conf", "title Two")])
    for saved, chosen in (("1", "x-1-1"), ("x-1-1", "x-1-1"), ("One", "x-1-1"), ("", "x-2-1")):
        found = entries_default(entries, f"saved_entry={saved}\n")
        assert found is not None
        assert found.id == chosen


def test_a_chainloaded_image_is_an_entry() -> None:
    found = grub2_default("menuentry 'u' {\n chainloader ($root)/EFI/Linux/a.efi\n}\n")
    assert found is not None
    assert (found.kernel, found.uki) == ("/EFI/Linux/a.efi", True)


def test_fields_of_an_entry() -> None:
    text = (
        "title\tDebian\nversion 6.1\nlinux /T/6.1/linux\ninitrd /T/6.1/initrd /u.img\n"
        "initrd $tuned_initrd\nsort-key debian\nmachine-id m\n# linux /no\noptions a\n"
    )
    found = parse_entry("T-6.1+2.conf", text, "/efi")
    assert found == Entry(
        "/T/6.1/linux",
        ("/T/6.1/initrd", "/u.img"),
        "Debian",
        "T-6.1",
        "6.1",
        "debian",
        "m",
        2,
        0,
        False,
        "/efi",
    )
    assert parse_entry("x.conf", "linux /k\narchitecture aa64\n", "") is None
    assert parse_entry("x.conf", "linux /k\narchitecture x64\n", "") is not None
    assert parse_entry("x.conf", "title nothing\n", "") is None
    image = parse_entry("x.conf", "uki /EFI/x.efi\n", "")
    assert image is not None
    assert image.uki


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=60), max_size=4))
def test_any_entries_are_ordered(texts: dict[str, str]) -> None:
    entries = entries_of({name + ".conf": "linux /k\n" + t for name, t in texts.items()}, "")
    assert sorted(ids(loader_order(entries))) == sorted(ids(grub_order(entries)))
    assert loader_default(loader_order(entries), "default *") in [*entries, None]
