"""Packing for transport: ordinary files, bounded unpacking, damage in words."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline.convert.writers.transport import SUFFIXES, Packing, pack, packing_of, unpack
from pipeline.core.errors import DiskError, InputError
from tests.fixtures.disks import foreign

PACKINGS = tuple(SUFFIXES)
TOOLS = {"gzip": ["gzip", "-dc"], "xz": ["xz", "-dc"], "zstd": ["zstd", "-dcq"]}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return foreign.odd_disk(tmp_path / "disk")


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("shape", sorted(foreign.SHAPES))
def test_what_is_packed_is_unpacked(packing: Packing, shape: str, tmp_path: Path) -> None:
    plain = foreign.SHAPES[shape](tmp_path / "plain")
    packed, again = tmp_path / "packed", tmp_path / "again"
    pack(plain, packed, packing)
    assert packing_of(packed) == packing
    unpack(packed, again, plain.stat().st_size)
    assert again.read_bytes() == plain.read_bytes()
    if shape == "empty":
        assert again.stat().st_blocks == 0


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_ordinary_tools_unpack_it(packing: Packing, disk: Path, tmp_path: Path) -> None:
    pack(disk, tmp_path / "packed", packing)
    argv = [*TOOLS[packing], str(tmp_path / "packed")]
    assert subprocess.run(argv, check=True, capture_output=True).stdout == disk.read_bytes()


@pytest.mark.parametrize("packing", PACKINGS)
def test_nothing_packs_to_something_that_unpacks_to_nothing(
    packing: Packing, tmp_path: Path
) -> None:
    (tmp_path / "none").write_bytes(b"")
    pack(tmp_path / "none", tmp_path / "packed", packing)
    unpack(tmp_path / "packed", tmp_path / "again", 0)
    assert (tmp_path / "again").read_bytes() == b""


MAKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("packing", sorted(MAKERS))
def test_more_than_was_allowed_is_refused_before_it_is_written(
    packing: str, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(MAKERS[packing](bytes(64 << 20)))
    with pytest.raises(InputError, match=f"more than {8 << 20} bytes"):
        unpack(bomb, tmp_path / "out", 8 << 20)
    assert (tmp_path / "out").stat().st_size <= 8 << 20


@pytest.mark.parametrize("packing", sorted(MAKERS))
@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_what_is_cut_off_is_told(packing: str, part: float, disk: Path, tmp_path: Path) -> None:
    packed = MAKERS[packing](disk.read_bytes())
    (tmp_path / "cut").write_bytes(packed[: max(7, int(len(packed) * part) - 1)])
    with pytest.raises(DiskError, match="damaged or cut off"):
        unpack(tmp_path / "cut", tmp_path / "out", 1 << 30)


def test_what_is_not_compressed_is_told(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no known way"):
        unpack(disk, tmp_path / "out", 1 << 30)
