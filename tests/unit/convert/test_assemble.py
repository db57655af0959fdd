"""The whole disk's layout, identifiers, boot code and menu."""

from __future__ import annotations

import itertools
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.convert import grub, layout, systemd_boot
from pipeline.convert.assemble import make_disk
from pipeline.core.errors import HostError, InputError
from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.programs import Runner


@given(st.integers(1, 1 << 45), st.integers(1, 1 << 32))
def test_partitions_are_aligned_apart_and_inside(root: int, boot: int) -> None:
    plan = layout.lay_out(root, boot)
    assert plan.bios is not None
    places = (plan.bios, plan.esp, plan.root)
    assert all(place.start % 2048 == 0 for place in places)
    assert plan.bios.start >= 34, "behind the primary GPT"
    for before, after in itertools.pairwise(places):
        assert before.start + before.sectors <= after.start
    assert plan.root.start + plan.root.sectors + 33 <= plan.sectors, "the backup GPT fits"
    assert root <= plan.root.sectors * 512 < root + 512
    assert plan.esp.sectors * 512 >= boot + (1 << 20)
    assert plan.sectors % 2048 == 0


def test_identifiers_depend_on_the_content_alone() -> None:
    one, same, other = (layout.identify(seed) for seed in (b"1", b"1", b"2"))
    assert one == same
    ids = {one.disk, one.bios, one.esp, one.root, other.disk, other.bios, other.esp, other.root}
    assert len(ids) == 8
    assert one.volume_serial != other.volume_serial
    assert len(one.volume_serial) == 9


def test_the_partition_table_says_types_and_places() -> None:
    text = layout.sfdisk_script(layout.lay_out(1 << 30, 1 << 20), layout.identify(b""))
    assert "label: gpt" in text
    rows = [line for line in text.splitlines() if line.startswith("start=")]
    assert ["21686148" in rows[0], "C12A7328" in rows[1], "4F68BCE3" in rows[2]] == [True] * 3


def test_a_disk_without_bios_has_no_partition_for_it() -> None:
    plan = layout.lay_out(1 << 30, 60 << 20, bios=False)
    assert plan.bios is None
    assert plan.esp.start == 2048
    assert plan.esp.start + plan.esp.sectors <= plan.root.start
    text = layout.sfdisk_script(plan, layout.identify(b""), "aarch64")
    rows = [line for line in text.splitlines() if line.startswith("start=")]
    assert len(rows) == 2
    assert "C12A7328" in rows[0]
    # The specification's root partition of arm64.
    assert "B921B045-1DF0-41C3-AF44-4C6F280D3FAE" in rows[1]


def test_menus_hold_the_command_line() -> None:
    line = "root=LABEL=x console=ttyAMA0 a='b c'"
    assert "serial --unit" not in grub.menu(line, "aarch64"), "UEFI's console is the serial port"
    assert "'console=ttyAMA0'" in grub.menu(line, "aarch64")
    files = systemd_boot.menu(line, "/EFI/image")
    assert f"options {line}\n" in files["/loader/entries/image.conf"]
    assert "linux /EFI/image/vmlinuz\n" in files["/loader/entries/image.conf"]
    for text in ("root=LABEL=\u00e4", "root=LABEL=x\ninitrd /other"):
        with pytest.raises(InputError, match="printable"):
            systemd_boot.menu(text, "/EFI/image")


def test_boot_code_points_at_the_core_image() -> None:
    image = bytes(510) + b"\x55\xaa"
    code = grub.boot_sector(image, 2048)
    assert len(code) == 440, "the disk signature and the protective MBR stay"
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    assert code[0x66:0x68] == b"\x90\x90"
    with pytest.raises(HostError, match="not a boot sector"):
        grub.boot_sector(bytes(512), 2048)


@given(st.binary(min_size=513, max_size=5000), st.integers(34, 1 << 40))
def test_the_core_images_block_list_is_one_run(core: bytes, sector: int) -> None:
    image = grub.placed_core(core, sector, 2048)
    assert len(image) % 512 == 0
    assert struct.unpack_from("<QH", image, 0x1F4) == (sector + 1, len(image) // 512 - 1)
    assert image[512 : len(core)] == core[512:]


def test_a_core_image_that_does_not_fit_is_refused() -> None:
    with pytest.raises(HostError, match="needs 3 sectors and there are 2"):
        grub.placed_core(bytes(1025), 2048, 2)


def test_the_menu_is_a_script_grub_accepts(tmp_path: Path) -> None:
    line = "root=LABEL=uec-rootfs ro quote=it's dollar=$x; {brace} a\\b"
    menu = tmp_path / "grub.cfg"
    menu.write_text(grub.menu(line))
    subprocess.run(["grub-script-check", menu], check=True)
    assert "@" not in menu.read_text()
    assert "'dollar=$x;'" in menu.read_text()


@pytest.mark.parametrize("line", ["root=LABEL=x\nevil", "root=LABEL=ü", "root=\x1b"])
def test_a_command_line_with_odd_characters_is_refused(line: str) -> None:
    with pytest.raises(InputError, match="printable ASCII"):
        grub.quoted(line)


@pytest.mark.parametrize("line", ["", "ro", "root=/dev/vda ro", "root=LABEL=x root=/dev/sda1"])
def test_a_command_line_that_cannot_find_the_root_is_refused(line: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 512)
    with Runner() as run, pytest.raises(InputError, match="does not name the root"):
        make_disk(file, file, file, line, tmp_path / "disk", Tools(run, QuietProgress(), tmp_path))
    assert list(tmp_path.iterdir()) == [file]
