"""Mutation fuzzing of whole disks: partition tables, LVM, superblocks, qcow2, cut-off files.

    python -m tests.robustness.fuzz.fuzz_disk --count 10000 [--seed N] [--keep DIR]

Each case changes a few fields of a real small disk, mostly to the values that break arithmetic,
puts the checksums right again in half of the cases (a hostile disk has right checksums), and
extracts its root. What may happen: an error of the pipeline, or an image that a check independent
of the copying finds right:

- it has the volume's size and is the file system that the disk has there, file by file equal to
  the same file system copied whole and given to the same e2fsck (no block was left behind);
- e2fsck -fn finds nothing in it;
- where no checksum was put right and only tables were changed: it is the unchanged root.

Any other exception, a case of more than ten seconds or memory beyond the limit is a fault. Cases
that were faults once are kept in corpus/ and run by tests/integration/test_extract_fuzz.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import stat
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.convert.extract import Extraction, extract, open_format
from pipeline.convert.survey import survey
from pipeline.core.errors import DiskError, InputError, PipelineError
from pipeline.core.events import QuietProgress
from pipeline.core.image import DiskImage
from pipeline.disk.blocks.qcow2 import Qcow2
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.filesystems.checksums import crc16, crc32c
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.lookup import Inode
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.host.sparse import data_runs
from tests.fixtures.disks.tools import run
from tests.fixtures.disks.writers import lvm_crc
from tests.robustness.fuzz.campaign import Faulty, main, time_limit
from tests.robustness.fuzz.seeds import AREA, MIB, Seed, make_seeds

SECONDS = 10
"""A case takes a fifth of a second on a quiet machine."""
CORPUS = Path(__file__).parent / "corpus"
NUMBERS = (
    *(0, 1, 2, 5, 7, 127, 128, 255, 511, 512, 513, 1023, 4095, 4096, 8192, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**52, 2**63 - 1, 2**63, 2**64 - 1),
)


@dataclass(frozen=True)
class Case:
    """A mutated seed. patches: (offset, bytes); size: what the file is cut to, or None."""

    seed: str
    patches: tuple[tuple[int, bytes], ...]
    size: int | None = None
    repaired: bool = False

    def to_json(self) -> str:
        return json.dumps(
            {
                "seed": self.seed,
                "patches": [[offset, data.hex()] for offset, data in self.patches],
                "size": self.size,
                "repaired": self.repaired,
            }
        )

    @staticmethod
    def from_json(text: str) -> Case:
        raw = json.loads(text)
        patches = tuple((offset, bytes.fromhex(data)) for offset, data in raw["patches"])
        return Case(raw["seed"], patches, raw["size"], raw["repaired"])


def mutate(seed: Seed, draw: random.Random) -> Case:
    """One to four changes, and perhaps the checksums put right."""
    content = seed.path.read_bytes() if seed.path.stat().st_size < 64 * MIB else b""
    patches: list[tuple[int, bytes]] = []
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        regions = seed.tables if draw.random() < 0.6 or not seed.inside else seed.inside
        patches.append(_change(seed, draw, draw.choice(regions), content))
    size = None
    if draw.random() < 0.08:
        size = draw.randrange(seed.path.stat().st_size)
    repaired = draw.random() < 0.5 and bool(content)
    if repaired:
        patches += _repairs(seed, content, patches)
    return Case(seed.name, tuple(patches), size, repaired)


def _change(
    seed: Seed, draw: random.Random, region: tuple[int, int], content: bytes
) -> tuple[int, bytes]:
    start, length = region
    offset = start + draw.randrange(length)
    kind = draw.randrange(6)
    if kind == 0:
        return offset, bytes([draw.randrange(256)])
    if kind == 1:
        with seed.path.open("rb") as file:
            file.seek(offset)
            (byte,) = file.read(1)
        return offset, bytes([byte ^ 1 << draw.randrange(8)])
    if kind == 2:
        return offset, bytes(min(draw.choice((1, 2, 4, 8, 16, 64)), start + length - offset))
    if kind == 3 and content:
        other, room = draw.choice(seed.tables + seed.inside)
        return offset, content[other : other + min(room, 64, start + length - offset)]
    if kind == 4 and content[offset : offset + 1].isdigit():
        return offset, str(draw.choice(NUMBERS)).encode()[: start + length - offset]
    width = draw.choice((1, 2, 4, 8))
    number = draw.choice(NUMBERS) & (1 << 8 * width) - 1
    offset -= offset % width if draw.random() < 0.8 else 0
    return offset, number.to_bytes(width, "little" if draw.random() < 0.7 else "big")


def _repairs(
    seed: Seed, content: bytes, patches: Sequence[tuple[int, bytes]]
) -> list[tuple[int, bytes]]:
    """Patches that make the checksums of the patched content right."""
    disk = bytearray(content)
    found: list[tuple[int, bytes]] = []

    def put(offset: int, data: bytes) -> None:
        disk[offset : offset + len(data)] = data
        found.append((offset, data))

    for offset, data in patches:
        disk[offset : offset + len(data)] = data
    for start in seed.lvm:
        put(start + 512 + 16, struct.pack("<I", lvm_crc(bytes(disk[start + 532 : start + 1024]))))
        area = start + 4096
        offset, length = struct.unpack_from("<QQ", disk, area + 40)
        if offset < AREA and length < AREA:
            head = disk[area + offset : area + min(AREA, offset + length)]
            text = bytes(head + disk[area + 512 : area + 512 + length - len(head)])
            put(area + 56, struct.pack("<I", lvm_crc(text)))
        put(area, struct.pack("<I", lvm_crc(bytes(disk[area + 4 : area + 512]))))
    if seed.gpt:
        for header, table in ((512, 1024), (len(disk) - 512, len(disk) - 512 - 128 * 128)):
            put(header + 88, struct.pack("<I", zlib.crc32(disk[table : table + 128 * 128])))
            put(header + 16, bytes(4))
            put(header + 16, struct.pack("<I", zlib.crc32(disk[header : header + 92])))
    for start in seed.ext:
        _repair_ext(disk, start, put)
    return found


def _repair_ext(disk: bytearray, start: int, put: object) -> None:
    assert callable(put)
    superblock = bytes(disk[start + 1024 : start + 2048])
    read_only = int.from_bytes(superblock[0x64:0x68], "little")
    block = 1024 << (superblock[0x18] & 3)
    table = start + (2 * block if block == 1024 else block)
    uuid, group = superblock[0x68:0x78], bytes(4)
    size = int.from_bytes(superblock[0xFE:0x100], "little") if superblock[0x60] & 0x80 else 32
    size = min(max(size, 32), 64)
    raw = bytes(disk[table : table + size])
    if read_only & 0x400:
        put(start + 1024 + 0x3FC, struct.pack("<I", crc32c(superblock[:0x3FC])))
        value = crc32c(raw[:0x1E] + bytes(2) + raw[0x20:], crc32c(group, crc32c(uuid)))
        put(table + 0x1E, struct.pack("<H", value & 0xFFFF))
    elif read_only & 0x10:
        put(table + 0x1E, struct.pack("<H", crc16(uuid + group + raw[:0x1E] + raw[0x20:])))


class Harness:
    """Applies cases to the seeds' files, one at a time, and takes them back."""

    def __init__(self, folder: Path) -> None:
        self.seeds = {seed.name: seed for seed in make_seeds(folder)}
        self._scratch = folder / "scratch"
        self._runner = Runner()
        self.plain = {name: self._fingerprints(seed) for name, seed in self.seeds.items()}

    def cases(self, count: int, seed: int) -> Iterator[Case]:
        """`count` mutations, of each seed in turn."""
        draw = random.Random(seed)
        seeds = list(self.seeds.values())
        for number in range(count):
            yield mutate(seeds[number % len(seeds)], draw)

    def close(self) -> None:
        self._runner.close()

    def _fingerprints(self, seed: Seed) -> dict[str, str]:
        done = self._extract(open_format(seed.path))
        return {} if done.root.filesystem == "xfs" else _files(done.root.path)

    def _extract(self, disk: DiskImage) -> Extraction:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        return extract(disk, "", Tools(self._runner, QuietProgress(io.StringIO()), self._scratch))

    def run(self, case: Case) -> str:
        """One word on how it ended. Raises Faulty, or whatever the pipeline should not raise."""
        seed = self.seeds[case.seed]
        with _applied(seed.path, case), time_limit(SECONDS):
            try:
                disk = open_format(seed.path)
                done = self._extract(disk)
            except (DiskError, InputError) as error:
                return type(error).__name__
            self._judge(seed, case, disk, done)
        return "extracted"

    def _judge(self, seed: Seed, case: Case, disk: DiskImage, done: Extraction) -> None:
        image = done.root
        if image.path.stat().st_size != image.size:
            raise Faulty("the image has another size than its record says")
        if image.filesystem == "xfs":
            return
        run("e2fsck", "-f", "-n", image.path)
        files = _files(image.path)
        whole = self._scratch / "whole.img"
        # Free blocks may lie where the disk cannot be read; then there is nothing to compare with.
        with contextlib.suppress(PipelineError):
            _copy_whole(disk, image.source, whole)
            self._runner.run(["e2fsck", "-f", "-p", whole], timeout=SECONDS, ok=(0, 1))
            if files != _files(whole):
                raise Faulty("the image differs from the file system copied whole")
        inside = {n for start, length in seed.inside for n in range(start, start + length)}
        only_tables = not any(
            offset + n in inside for offset, data in case.patches for n in range(len(data))
        )
        # qcow2 has no checksums: another table is another disk.
        checked = only_tables and not case.repaired and disk.format == "raw"
        if checked and files != self.plain[case.seed]:
            raise Faulty("a damaged table gave another root")


def _files(image: Path) -> dict[str, str]:
    """Every path of an ext image with its mode, size and a hash of its content."""
    found: dict[str, str] = {}
    with RawFile(image) as file:
        filesystem = Ext(file)
        todo = [("", filesystem.inode(filesystem.root))]
        seen: set[int] = set()
        while todo:
            path, inode = todo.pop()
            found[path] = f"{inode.mode:o} {inode.size} {_content(filesystem, inode)}"
            if stat.S_ISDIR(inode.mode) and inode.number not in seen:
                seen.add(inode.number)
                for name, number in filesystem.entries(inode).items():
                    todo.append(
                        (f"{path}/{name.decode(errors='replace')}", filesystem.inode(number))
                    )
    return found


def _content(filesystem: Ext, inode: Inode) -> str:
    if stat.S_ISDIR(inode.mode):
        return ""
    try:
        return hashlib.sha1(filesystem.content(inode, 64 * MIB)).hexdigest()
    except DiskError as error:
        return error.why


def _copy_whole(disk: DiskImage, place: str, target: Path) -> None:
    """The root's volume read from end to end, whatever is in use."""
    with RawFile(disk.path) as file:
        source = Qcow2(file) if disk.format == "qcow2" else file
        (volume,) = (c.volume for c in survey(source).candidates if c.place == place)
        with target.open("wb") as out:
            for offset in range(0, volume.size, MIB):
                out.write(volume.read(offset, min(MIB, volume.size - offset)))


@contextlib.contextmanager
def _applied(path: Path, case: Case) -> Iterator[None]:
    """The seed's file with the case's changes, and as it was afterwards."""
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        saved = []
        if case.size is not None:
            for offset, length in data_runs(file.fileno(), case.size, size):
                saved.append((offset, os.pread(file.fileno(), length, offset)))
        for offset, data in case.patches:
            saved.append((offset, os.pread(file.fileno(), len(data), offset)))
            os.pwrite(file.fileno(), data[: max(0, size - offset)], offset)
        if case.size is not None:
            file.truncate(case.size)
        try:
            yield
        finally:
            file.truncate(size)
            for offset, data in reversed(saved):
                os.pwrite(file.fileno(), data, offset)


if __name__ == "__main__":
    sys.exit(main(__doc__, Harness))
