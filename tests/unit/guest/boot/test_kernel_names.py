"""Which kernel: versions in order, rescue kernels left out, boot loaders understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.versions import version_key
from pipeline.guest.boot.kernel_names import choose_kernel, is_unfit, kernel_version, ramdisk_names
from pipeline.guest.boot.loader_config import (
    Entry,
    candidates,
    entries_default,
    extlinux_default,
    grub2_default,
    grub_environment,
    legacy_default,
)
from pipeline.guest.boot.loader_entries import entries_of, grub_order

ASCENDING = [
    "2.6.38.6-26.rc1.fc15.x86_64",
    "2.6.43.8-1.fc15.x86_64",
    "5.9.0-1-amd64",
    "5.14.0-0.rc3.29.fc36.x86_64",
    "5.14.0-60.fc36.x86_64",
    "5.14.0-427.13.1.el9_4.x86_64",
    "5.15.0-rc3-amd64",
    "5.15.0-rc12-amd64",
    "5.15.0-1-amd64",
    "5.15.1",
    "6.1.0-9-amd64",
    "6.1.0-13-amd64",
    "6.4.0-150600.21-default",
    "6.4.0-150600.23.7-default",
    "10.0.0",
]


def test_versions_in_order() -> None:
    assert sorted(sorted(ASCENDING), key=version_key) == ASCENDING


def test_a_release_candidate_comes_before_its_release() -> None:
    assert version_key("5.15.0-rc3") < version_key("5.15.0") < version_key("5.15.0-1")


_VERSIONS = st.lists(
    st.one_of(st.integers(0, 300).map(str), st.sampled_from(["rc1", "fc15", "el9", "amd64", "~"])),
    min_size=1,
    max_size=5,
).map(".".join)


@given(_VERSIONS, _VERSIONS, _VERSIONS)
def test_the_order_is_total(a: str, b: str, c: str) -> None:
    x, y, z = map(version_key, (a, b, c))
    assert (x < y) + (x == y) + (x > y) == 1
    if x <= y <= z:
        assert x <= z


@given(st.text(max_size=30))
def test_any_text_has_a_key(text: str) -> None:
    assert version_key(text) <= version_key(text)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("vmlinuz-2.6.38.6-26.rc1.fc15.x86_64", "2.6.38.6-26.rc1.fc15.x86_64"),
        ("vmlinuz-6.1.0-13-cloud-amd64", "6.1.0-13-cloud-amd64"),
        ("bzImage-5.4.1", "5.4.1"),
        ("vmlinuz", ""),
        ("vmlinuz-5.1.old", ""),
        ("vmlinuz-5.1.hmac", ""),
        (".vmlinuz-5.1.hmac", ""),
        ("vmlinux-6.4.0-default.gz", ""),
        ("config-5.1", ""),
        ("initrd-5.1", ""),
        ("vmlinuz-5.1\n-x", ""),
    ],
)
def test_versions_in_names(name: str, version: str) -> None:
    assert kernel_version(name) == version


def test_rescue_kernels_are_never_chosen() -> None:
    rescue = "vmlinuz-0-rescue-4f1c6f3a0b8e4e9db7c1d2e3f4a5b6c7"
    names = [rescue, "vmlinuz-5.9.1", "vmlinuz-5.14.0+debug", "vmlinuz-5.14.0kdump"]
    choice = choose_kernel(names, rescue)
    assert choice is not None
    assert choice.name == "vmlinuz-5.9.1"
    assert choose_kernel([rescue, "config-5"]) is None
    assert choose_kernel([]) is None
    assert is_unfit("linux-6.1-dbg")
    assert not is_unfit("vmlinuz-6.1.0-13-amd64")


def test_the_default_wins_over_the_newest() -> None:
    names = ["vmlinuz-5.14.0", "vmlinuz-5.9.1"]
    default, newest = choose_kernel(names, "vmlinuz-5.9.1"), choose_kernel(names, "vmlinuz-4")
    assert default is not None
    assert newest is not None
    assert (default.version, default.because) == ("5.9.1", "the boot loader's default")
    assert (newest.version, newest.because) == ("5.14.0", "the newest of 2")


@given(st.permutations([f"vmlinuz-{version}" for version in ASCENDING]))
def test_the_order_of_the_directory_does_not_matter(names: list[str]) -> None:
    choice = choose_kernel(names)
    assert choice is not None
    assert choice.version == ASCENDING[-1]


@given(st.lists(st.text(max_size=20), max_size=10), st.text(max_size=20))
def test_the_choice_is_among_the_names(names: list[str], default: str) -> None:
    choice = choose_kernel(names, default)
    assert choice is None or (choice.name in names and not is_unfit(choice.name))


def test_names_of_ramdisks() -> None:
    names = ramdisk_names("V")
    for name in ("initramfs-V.img", "initrd.img-V", "initrd-V"):  # Fedora, Debian, SUSE
        assert name in names


# What the boot loaders' own tools write, shortened.
DEBIAN = """
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="%s"
fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    save_env saved_entry
  fi
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {
	if [ x$feature_platform_search_hint = xy ]; then
		search --no-floppy --fs-uuid --set=root 1
	fi
	echo	'Loading Linux 6.1.0-13-amd64 ...'
	linux	/vmlinuz-6.1.0-13-amd64 root=/dev/mapper/VolGroup-lv_root ro  quiet
	initrd	/initrd.img-6.1.0-13-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-13-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-13-amd64-advanced-1' {
		linux	/vmlinuz-6.1.0-13-amd64 root=/dev/mapper/VolGroup-lv_root ro
		initrd	/initrd.img-6.1.0-13-amd64
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-9-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-9-amd64-advanced-1' {
		linux	/vmlinuz-6.1.0-9-amd64 root=/dev/mapper/VolGroup-lv_root ro
		initrd	/initrd.img-6.1.0-9-amd64
	}
}
menuentry "Memory test > all" {
	linux16	/memtest86+.bin
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("default", "saved", "kernel"),
    [
        ("0", "", "/vmlinuz-6.1.0-13-amd64"),
        ("1>1", "", "/vmlinuz-6.1.0-9-amd64"),
        ("1", "", "/vmlinuz-6.1.0-13-amd64"),
        ("gnulinux-advanced-1>gnulinux-6.1.0-9-amd64-advanced-1", "", "/vmlinuz-6.1.0-9-amd64"),
        ("Advanced options for Debian GNU/Linux>1", "", "/vmlinuz-6.1.0-9-amd64"),
        ("Memory test > all", "", "/memtest86+.bin"),
        ("${saved_entry}", "gnulinux-simple-1", "/vmlinuz-6.1.0-13-amd64"),
        ("${saved_entry}", "1>1", "/vmlinuz-6.1.0-9-amd64"),
        ("${saved_entry}", "", "/vmlinuz-6.1.0-13-amd64"),
        ("no such entry", "", "/vmlinuz-6.1.0-13-amd64"),
        ("77", "", "/vmlinuz-6.1.0-13-amd64"),
    ],
)
def test_grub_2(default: str, saved: str, kernel: str) -> None:
    environment = f"# GRUB Environment Block\nsaved_entry={saved}\n" if saved else ""
    entry = grub2_default(DEBIAN % default, environment)
    assert entry is not None
    assert entry.kernel == kernel


def test_grub_2_keeps_the_ramdisks_in_order() -> None:
    config = "menuentry a {\n linuxefi ($root)/vmlinuz-5 x\n initrdefi /ucode.img ($root)/i-5\n}\n"
    entry = grub2_default(config)
    assert entry == Entry("/vmlinuz-5", ("/ucode.img", "/i-5"), "a", "")


BLS = {
    "id-0-rescue.conf": "title Rescue\nversion 0-rescue-id\nlinux /vmlinuz-0-rescue-id\n",
    "id-5.9.1.conf": "title Nine\nversion 5.9.1\nlinux /vmlinuz-5.9.1\ninitrd /i-5.9.1 $tuned\n",
    "id-5.14.0.conf": "title Fourteen\nversion 5.14.0\nlinux /vmlinuz-5.14.0\n",
    "empty.conf": "# nothing\n",
}


@pytest.mark.parametrize(
    ("saved", "kernel"),
    [
        ("", "/vmlinuz-5.14.0"),
        ("id-5.9.1", "/vmlinuz-5.9.1"),
        ("1", "/vmlinuz-5.9.1"),
        ("id-gone", "/vmlinuz-5.14.0"),
    ],
)
def test_loader_entries(saved: str, kernel: str) -> None:
    environment = f"saved_entry={saved}\n"
    config = 'set default="${saved_entry}"\ninsmod blscfg\nblscfg\n'
    entries = grub_order(entries_of(BLS, "/boot"))
    for entry in (
        grub2_default(config, environment, entries),
        entries_default(entries, environment),
    ):
        assert entry is not None
        assert entry.kernel == kernel
    nine = entries_default(entries, "saved_entry=id-5.9.1")
    assert nine is not None
    assert nine.ramdisks == ("/i-5.9.1",)


LEGACY = """
default=%d
timeout=0
splashimage=(hd0,0)/grub/splash.xpm.gz
title Fedora (2.6.43.8-1.fc15.x86_64)
	root (hd0,0)
	kernel /vmlinuz-2.6.43.8-1.fc15.x86_64 ro root=/dev/mapper/VolGroup-lv_root rhgb
	initrd /initramfs-2.6.43.8-1.fc15.x86_64.img
title Fedora (2.6.38.6-26.rc1.fc15.x86_64)
	root (hd0,0)
	kernel (hd0,0)/vmlinuz-2.6.38.6-26.rc1.fc15.x86_64 ro
	initrd /initramfs-2.6.38.6-26.rc1.fc15.x86_64.img
title Windows
	chainloader +1
"""


@pytest.mark.parametrize(
    ("number", "version"), [(0, "2.6.43.8-1.fc15.x86_64"), (1, "2.6.38.6-26.rc1.fc15.x86_64")]
)
def test_grub_legacy(number: int, version: str) -> None:
    entry = legacy_default(LEGACY % number)
    assert entry is not None
    assert entry.kernel == f"/vmlinuz-{version}"
    assert entry.ramdisks == (f"/initramfs-{version}.img",)


@pytest.mark.parametrize("number", [2, 3])
def test_grub_legacy_without_an_answer(number: int) -> None:
    assert legacy_default(LEGACY % number) is None


def test_extlinux() -> None:
    config = (
        "DEFAULT two\nLABEL one\n KERNEL /vmlinuz-1\nLABEL two\n MENU LABEL Two\n"
        " LINUX ../vmlinuz-2\n APPEND initrd=/initrd-2,extra ro\n"
    )
    assert extlinux_default(config, "/boot/extlinux") == Entry(
        "/boot/extlinux/../vmlinuz-2", ("/initrd-2", "/boot/extlinux/extra"), "two"
    )
    assert extlinux_default("", "/boot") is None


def test_the_linux_that_xen_starts() -> None:
    config = (
        "menuentry x --id i {\n multiboot2 /xen.gz\n module2 /vmlinuz-1 ro\n"
        " module2 --nounzip /initrd-1\n}\nmenuentry y {\n linux /vmlinuz-2\n}\n"
    )
    assert grub2_default(config) == Entry("/vmlinuz-1", ("/initrd-1",), "x", "i")
    legacy = (
        "default 0\ntitle x\n root (hd0,0)\n kernel /xen.gz dom0_mem=1\n"
        " module /vmlinuz-1 ro\n module /initrd-1\ntitle y\n kernel /vmlinuz-2\n"
    )
    assert legacy_default(legacy) == Entry("/vmlinuz-1", ("/initrd-1",), "x")
    assert legacy_default(legacy.replace("default 0", "default 1")) == Entry("/vmlinuz-2", (), "y")


def test_extlinuxs_default_is_of_the_whole_file() -> None:
    config = "LABEL one\n LINUX /vmlinuz-1\nLABEL two\n LINUX /vmlinuz-2\nDEFAULT two\n"
    assert extlinux_default(config, "/boot") == Entry("/vmlinuz-2", (), "two")


def test_the_environment_block() -> None:
    block = "# GRUB Environment Block\nsaved_entry=a=b\nboot_success=0\n" + "#" * 900
    assert grub_environment(block) == {"saved_entry": "a=b", "boot_success": "0"}


def test_where_a_path_may_lead() -> None:
    assert list(candidates("/vmlinuz-5")) == ["/boot/vmlinuz-5", "/vmlinuz-5"]
    assert list(candidates("/boot/vmlinuz-5")) == ["/boot/vmlinuz-5"]


_CONFIG = st.lists(
    st.sampled_from(
        [
            "menuentry 'a' {",
            'submenu "b" {',
            "}",
            "linux /k",
            "initrd /i",
            'set default="1>0"',
            "function f {",
            "default=1",
            "title t",
            "kernel /k2",
            "label l",
            "blscfg",
            "\0\x1b",
        ]
    ),
    max_size=14,
).map("\n".join)


@given(_CONFIG)
def test_any_configuration_has_an_answer_or_none(text: str) -> None:
    for entry in (
        grub2_default(text, text, entries_of({"a.conf": text}, "")),
        legacy_default(text),
    ):
        assert entry is None or entry.kernel
    extlinux_default(text, "/boot")
