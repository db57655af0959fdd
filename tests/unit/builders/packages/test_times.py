"""When package files were built: a .deb by dpkg-deb, an .rpm by its format, and files cut off."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.builders.packages.times import built, newest
from pipeline.core.errors import InputError

MOMENT = 1_600_000_000


def deb(place: Path, moment: int = MOMENT) -> Path:
    control = place / "tree" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    out = place / "x.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", place / "tree", out],
        check=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": str(moment)},
    )
    return out


def header(entries: list[tuple[int, int, int, int]], data: bytes) -> bytes:
    index = b"".join(struct.pack(">IIII", *entry) for entry in entries)
    return (
        b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(entries), len(data)) + index + data
    )


def rpm(moment: int) -> bytes:
    """An RPM's beginning as its format has it: lead, signature of an odd length, header."""
    lead = b"\xed\xab\xee\xdb" + bytes(92)
    signature = header([(1000, 4, 0, 1)], b"\x00\x00\x00\x07" + b"abc")
    padding = bytes(-len(signature) % 8)
    named = header([(1000, 6, 0, 1), (1006, 4, 4, 1)], b"abc\0" + moment.to_bytes(4, "big"))
    return lead + signature + padding + named


def test_a_deb(tmp_path: Path) -> None:
    assert built(deb(tmp_path)) == MOMENT


def test_an_rpm(tmp_path: Path) -> None:
    file = tmp_path / "x.rpm"
    file.write_bytes(rpm(MOMENT + 7))
    assert built(file) == MOMENT + 7
    assert newest([file, deb(tmp_path)]) == MOMENT + 7


def test_no_files_at_all() -> None:
    assert newest([]) == 0


@pytest.mark.parametrize("keep", [0, 3, 50, 95, 97, 110, 140, 160])
def test_a_file_that_was_cut_off(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "x.rpm"
    file.write_bytes(rpm(MOMENT)[:keep])
    with pytest.raises(InputError, match="cut off"):
        built(file)
