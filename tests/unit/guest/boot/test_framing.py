"""Where compressed streams end, by the programs that make them."""

from __future__ import annotations

import io
import random
import subprocess
from pathlib import Path

import pytest

from pipeline.core.events import QuietProgress
from pipeline.guest.boot.framing import FrameError, stream_end
from pipeline.guest.boot.ramdisk import scan
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.boot_files import cpio, ramdisk

PROGRAMS = {
    "zstd": ["zstd", "-qc"],
    "zstd, checked": ["zstd", "-qc", "--check"],
    "zstd, small window": ["zstd", "-qc", "--zstd=wlog=12", "-1"],
    "lz4": ["lz4", "-lqc"],
}


def packed(how: str, data: bytes) -> bytes:
    return subprocess.run(PROGRAMS[how], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("how", PROGRAMS)
@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000, 3_000_000])
def test_the_end_of_a_stream(how: str, size: int) -> None:
    draw = random.Random(size)
    for data in (bytes(size), draw.randbytes(size)):
        stream = packed(how, data)
        for behind in (b"", bytes(512), bytes(4) + b"070701"):
            file = io.BytesIO(b"before" + stream + behind)
            assert stream_end(file, 6) == 6 + len(stream)
    if how != "lz4":
        with pytest.raises(FrameError, match="cut short"):
            stream_end(io.BytesIO(stream[:3]), 0)


@pytest.mark.parametrize("how", PROGRAMS)
def test_every_archive_of_a_ramdisk_is_looked_into(how: str, tmp_path: Path) -> None:
    """mkosi and bootupd put a ramdisk of modules behind the first, with zeros between."""
    first = packed(how, cpio({"init": b"x"}))
    second = packed(how, ramdisk("6.12.0"))
    path = tmp_path / "r"
    for between in (b"", bytes(-len(first) % 4), bytes(-len(first) % 4 + 512)):
        path.write_bytes(first + between + second + bytes(3))
        with Runner() as runner:
            found = scan(path, Tools(runner, QuietProgress(), tmp_path))
        assert found.modules == {"6.12.0": {"virtio_blk", "virtio_pci", "ext4"}}
        assert not found.is_early
