"""Kernels of arm64 in each of their forms, made as the specifications say, and broken ones."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import GuestError
from pipeline.core.events import QuietProgress
from pipeline.guest.boot import kernel_payload
from pipeline.guest.boot.kernel_image import read_kernel, unpack
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.boot_files import arm64_image, kernel, uki, zboot

RELEASE = "6.12.117+deb13-cloud-arm64"
IMAGE = arm64_image(RELEASE)
PACKED = ("gzip", "xzkern", "lzma", "zstd", "lz4")


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path / "scratch")


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)
    return path


def test_the_plain_image_names_its_version_beyond_the_first_mib(
    tmp_path: Path, tools: Tools
) -> None:
    assert IMAGE.index(RELEASE.encode()) > 1 << 20
    found = read_kernel(written(tmp_path, IMAGE), tools)
    assert (found.release, found.architecture, found.form) == (RELEASE, "aarch64", "Image")


def test_a_version_across_the_seam_of_two_pieces_is_found(tmp_path: Path, tools: Tools) -> None:
    at = IMAGE.index(b"Linux version")
    for shift in range(-80, 8, 8):
        moved = bytearray(IMAGE)
        moved[at : at + 128] = bytes(128)
        place = (1 << 20) + shift
        moved[place : place + 128] = IMAGE[at : at + 128]
        assert read_kernel(written(tmp_path, bytes(moved)), tools).release == RELEASE, shift


def test_an_image_that_says_no_version_is_still_a_kernel(tmp_path: Path, tools: Tools) -> None:
    silent = IMAGE.replace(b"Linux version", b"Minix version")
    assert read_kernel(written(tmp_path, silent), tools).release == ""


def test_the_compressed_image(tmp_path: Path, tools: Tools) -> None:
    path = written(tmp_path, gzip.compress(IMAGE) + b"a signature behind it")
    found = read_kernel(path, tools)
    assert (found.release, found.architecture, found.form) == (RELEASE, "aarch64", "Image.gz")
    unpack(found, path, tmp_path / "out", tools)
    assert (tmp_path / "out").read_bytes() == IMAGE


@pytest.mark.parametrize("compression", PACKED)
def test_the_image_that_unpacks_itself(compression: str, tmp_path: Path, tools: Tools) -> None:
    path = written(tmp_path, zboot(IMAGE, compression))
    found = read_kernel(path, tools)
    assert (found.release, found.architecture, found.form) == (RELEASE, "aarch64", "EFI zboot")
    unpack(found, path, tmp_path / "out", tools)
    assert (tmp_path / "out").read_bytes() == IMAGE
    assert not list(tools.scratch.iterdir())


def test_without_programs_what_needs_one_has_no_version(tmp_path: Path) -> None:
    assert read_kernel(written(tmp_path, zboot(IMAGE, "zstd"))).release == ""
    assert read_kernel(written(tmp_path, zboot(IMAGE, "gzip"))).release == RELEASE


@pytest.mark.parametrize("compression", PACKED)
def test_a_packed_kernel_that_is_cut_or_damaged_is_refused(
    compression: str, tmp_path: Path, tools: Tools
) -> None:
    noise = random.Random(1).randbytes(1 << 16)
    whole = zboot(IMAGE[:-4096] + noise, compression)
    with pytest.raises(GuestError, match=r"of the .* bytes that its header counts"):
        read_kernel(written(tmp_path, whole[:-9000]), tools)
    cut = bytearray(whole[:-9000])
    cut[12:16] = (len(cut) - 0x1000).to_bytes(4, "little")
    with pytest.raises(GuestError, match=r"packed in it is (?:cut short|damaged)"):
        read_kernel(written(tmp_path, bytes(cut)), tools)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (IMAGE[:-600], "bytes that its header counts"),
        (arm64_image(flags=0xB), "big-endian"),
        (arm64_image(stub=False), "no EFI stub"),
        (gzip.compress(arm64_image(stub=False)), "no EFI stub"),
        (arm64_image(machine=0x8664), "PE header is for x86_64"),
        (zboot(IMAGE, machine=0x6264), "EFI zboot.* for loongarch64"),
        (zboot(IMAGE, "lzo"), "packed by 'lzo', which is not known"),
        (zboot(b"no kernel" * 100), "no arm64 Image"),
        (gzip.compress(b"no kernel" * 100), "no arm64 Image"),
        (gzip.compress(IMAGE)[:-20], "cut short"),
        (gzip.compress(IMAGE)[:-8] + bytes(8), "damaged"),
        (zboot(IMAGE)[:0x1000], "bytes that its header counts"),
        (uki({".text": b"x"}, machine=0x5064), "of the firmware for riscv64"),
        (b"\x7fELF" + bytes(5000), "no x86 boot header .* no header of arm64"),
        (b"", "no x86 boot header"),
    ],
)
def test_what_is_no_kernel_or_cannot_boot(
    data: bytes, words: str, tmp_path: Path, tools: Tools
) -> None:
    with pytest.raises(GuestError, match=words):
        read_kernel(written(tmp_path, data), tools, name="/boot/vmlinuz")


def test_a_bomb_is_given_up(tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.guest.boot.kernel_image._MAX_IMAGE", 1 << 20)
    monkeypatch.setattr(kernel_payload, "_PIECE", 1 << 16)
    with pytest.raises(GuestError, match="unpacks to more than 1 MiB"):
        read_kernel(written(tmp_path, gzip.compress(IMAGE)), tools)


def test_x86_is_told_as_before(tmp_path: Path, tools: Tools) -> None:
    found = read_kernel(written(tmp_path, kernel("6.1.0-13-cloud-amd64")), tools)
    assert (found.release, found.architecture) == ("6.1.0-13-cloud-amd64", "x86_64")
    assert found.form == "bzImage"


def test_any_damage_to_the_headers_costs_an_error_at_most(tmp_path: Path, tools: Tools) -> None:
    draw = random.Random(5)
    for whole in (IMAGE[: 1 << 12] + IMAGE[-8192:], zboot(IMAGE), gzip.compress(IMAGE)):
        for _ in range(60):
            data = bytearray(whole)
            at = draw.randrange(0x90)
            data[at : at + 4] = draw.randbytes(4)
            try:
                read_kernel(written(tmp_path, bytes(data)), tools, name="/boot/k")
            except GuestError as error:
                assert "/boot/k" in str(error)
