"""Unified kernel images: sections as they are stored, profiles, what is damaged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.core.errors import GuestError
from pipeline.guest.boot.uki import read_uki
from tests.fixtures.boot_files import kernel, ramdisk, uki

SECTIONS = {
    ".text": b"stub",
    ".osrel": b"PRETTY_NAME=\"Debian GNU/Linux 13\"\nID=debian\nVERSION_ID='13'\n",
    ".uname": b"6.12.0\n",
    ".cmdline": b"root=LABEL=x\0",
    ".linux": kernel("6.12.0"),
    ".initrd": ramdisk("6.12.0"),
}


def test_sections_come_out_as_they_were_put_in(tmp_path: Path) -> None:
    path = tmp_path / "a.efi"
    path.write_bytes(uki(SECTIONS))
    found = read_uki(path, "/efi/a.efi")
    assert found is not None
    assert found.kernel_version == "6.12.0"
    assert found.release["PRETTY_NAME"] == "Debian GNU/Linux 13"
    assert (found.release["ID"], found.release["VERSION_ID"]) == ("debian", "13")
    for section in (".linux", ".initrd"):
        found.carve(section, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == SECTIONS[section]


def test_of_several_profiles_the_first_boots(tmp_path: Path) -> None:
    path = tmp_path / "a.efi"
    path.write_bytes(
        uki(
            {
                **SECTIONS,
                ".profile": b"ID=main",
                ".initrd#1": b"first",
                ".profile#2": b"ID=other",
                ".initrd#2": b"second",
            }
        )
    )
    found = read_uki(path, "a")
    assert found is not None
    found.carve(".initrd", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"first"


@pytest.mark.parametrize("data", [b"", b"MZ", b"no program at all" * 10, uki({".text": b"x"})])
def test_what_has_no_kernel_is_no_image(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.efi"
    path.write_bytes(data)
    assert read_uki(path, "a") is None


def test_an_image_for_aarch64_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "a.efi"
    path.write_bytes(uki(SECTIONS, machine=0xAA64))
    found = read_uki(path, "/efi/a.efi")
    assert found is not None
    assert found.kernel_version == "6.12.0"


def test_damaged_or_foreign_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.efi"
    path.write_bytes(uki(SECTIONS)[:-600])
    with pytest.raises(GuestError, match="ends beyond the file"):
        read_uki(path, "/efi/a.efi")
    path.write_bytes(uki(SECTIONS, machine=0x5064))
    with pytest.raises(GuestError, match="riscv64"):
        read_uki(path, "/efi/a.efi")


def test_any_damage_to_the_headers_costs_an_error_at_most(tmp_path: Path) -> None:
    whole, draw, path = uki(SECTIONS), random.Random(4), tmp_path / "a.efi"
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 2, 8))):
            data[draw.randrange(700)] = draw.randrange(256)
        path.write_bytes(data)
        try:
            found = read_uki(path, "/efi/a.efi")
        except GuestError as error:
            assert "/efi/a.efi" in str(error)
            continue
        if found is not None:
            found.carve(".linux", tmp_path / "out")
