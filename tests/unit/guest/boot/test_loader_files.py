"""The boot loader that a guest brings for a whole disk of another architecture than the host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import GuestError
from pipeline.guest.boot.loader_files import GRUB, SYSTEMD_BOOT, take_loader
from tests.fixtures.memory_guest import MemoryGuest

MODULES = "/usr/lib/grub/arm64-efi"
LOADER = "/usr/lib/systemd/boot/efi/systemd-bootaa64.efi"
HAS_GRUB: dict[str, bytes | None] = {
    f"{MODULES}/kernel.img": b"core",
    f"{MODULES}/moddep.lst": b"linux: fdt boot\nfdt:\nboot:\nxfs: fshelp\nfshelp: boot\n",
    **{f"{MODULES}/{name}.mod": name.encode() for name in ("linux", "fdt", "boot", "xfs")},
}


def test_grubs_modules_come_with_what_they_need_and_nothing_else(tmp_path: Path) -> None:
    take_loader(MemoryGuest(HAS_GRUB), "aarch64", ("linux",), tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out" / GRUB).iterdir()}
    assert files.pop("moddep.lst") == HAS_GRUB[f"{MODULES}/moddep.lst"]
    assert files.pop("kernel.img") == b"core"
    assert files == {"linux.mod": b"linux", "fdt.mod": b"fdt", "boot.mod": b"boot"}


def test_without_grub_systemd_boot_is_taken(tmp_path: Path) -> None:
    take_loader(MemoryGuest({LOADER: b"MZ loader"}), "aarch64", ("linux",), tmp_path / "out")
    assert (tmp_path / "out" / SYSTEMD_BOOT).read_bytes() == b"MZ loader"


def test_a_guest_with_neither_is_told_what_to_install_and_where(tmp_path: Path) -> None:
    with pytest.raises(GuestError) as caught:
        take_loader(MemoryGuest({"/etc": None}), "aarch64", ("linux",), tmp_path / "out")
    for word in ("grub-efi-arm64-bin or systemd-boot in the guest", "dpkg --add-architecture"):
        assert word in caught.value.next_step
    assert MODULES in caught.value.why


def test_modules_that_lack_or_lead_away_are_refused_or_left(tmp_path: Path) -> None:
    evil = {**HAS_GRUB, f"{MODULES}/moddep.lst": b"linux: ../../etc/shadow fdt\nfdt: linux\n"}
    take_loader(MemoryGuest(evil), "aarch64", ("linux",), tmp_path / "one")
    names = {path.name for path in (tmp_path / "one" / GRUB).iterdir()}
    assert names == {"kernel.img", "moddep.lst", "linux.mod", "fdt.mod"}
    with pytest.raises(GuestError, match=r"gzio\.mod is not there"):
        take_loader(MemoryGuest(HAS_GRUB), "aarch64", ("gzio",), tmp_path / "two")


def test_a_loader_of_absurd_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.guest.boot.loader_files._MAX_FILE", 4)
    with pytest.raises(GuestError, match="MiB"):
        take_loader(MemoryGuest({LOADER: b"MZ loader"}), "aarch64", (), tmp_path / "out")
