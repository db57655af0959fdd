"""Mutation fuzzing of EFI system partitions: FAT, unified kernel images, loader entries.

    python -m tests.robustness.fuzz.fuzz_boot [--count 10000] [--seed N] [--keep DIR]

Each case changes one to four places of a small FAT12, FAT16 or FAT32 file system with images and
entries on it: figures of its first sector, its table, its directories, headers of images, text of
entries, streams of ramdisks, mostly to the values that break arithmetic. A guest whose /boot is
empty, or holds an older kernel, is given that partition, and its kernel and ramdisk are collected.
What may happen: an error of the pipeline, or a kernel and a ramdisk of one version, of which the
kernel has a whole header.

Any other exception, a case of more than ten seconds or memory beyond the limit is a fault. A short
run and the cases that were faults once are in tests/integration/test_boot_fuzz.py.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DiskError, GuestError, PipelineError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Mount, PartitionImage
from pipeline.guest.boot.kernel_image import kernel_release
from pipeline.guest.boot.select import collect
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.boot_files import fat, kernel, ramdisk, uki
from tests.fixtures.memory_guest import MemoryGuest
from tests.robustness.fuzz.campaign import Faulty, main, time_limit

SECONDS = 10
CORPUS = Path(__file__).parent / "boot-corpus"
NEW, OLD = "6.12.0", "5.9.1"
_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0xFFF7, 0xFFFF, 0xFFFFFFF, 2**31, 2**32 - 1, 2**63)
_SIZES = {12: 4, 16: 16, 32: 48}  # bits -> MiB


@dataclass(frozen=True)
class Case:
    """A changed partition. seed: its bits. patches: (offset, bytes)."""

    seed: str
    patches: tuple[tuple[int, bytes], ...]
    has_boot: bool = False

    def to_json(self) -> str:
        patches = [[offset, data.hex()] for offset, data in self.patches]
        return json.dumps({"seed": self.seed, "patches": patches, "has_boot": self.has_boot})

    @staticmethod
    def from_json(text: str) -> Case:
        raw = json.loads(text)
        patches = tuple((offset, bytes.fromhex(data)) for offset, data in raw["patches"])
        return Case(raw["seed"], patches, raw["has_boot"])


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


def _files() -> dict[str, bytes]:
    base = _zstd(ramdisk(NEW, ("ext4",)))
    both = base + bytes(-len(base) % 4 + 64) + _zstd(ramdisk(NEW))
    image = uki(
        {
            ".osrel": b"ID=debian\nVERSION_ID=13\n",
            ".uname": NEW.encode(),
            ".linux": kernel(NEW, payload=1024),
            ".initrd": both,
        }
    )
    entry = (
        f"title x\nsort-key debian\nversion {NEW}\nlinux /T/{NEW}/linux\ninitrd /T/{NEW}/initrd\n"
    )
    return {
        f"EFI/Linux/debian-{NEW}+3-1.efi": image,
        "EFI/BOOT/BOOTX64.EFI": b"MZ #### LoaderInfo: systemd-boot 257 ####",
        "EFI/redhat/grubenv": b"# GRUB Environment Block\nsaved_entry=1\n",
        "loader/loader.conf": b"default *x*\ntimeout 3\n",
        "loader/entries/x.conf": entry.encode(),
        f"T/{NEW}/linux": kernel(NEW, payload=1024),
        f"T/{NEW}/initrd": gzip.compress(ramdisk(NEW), mtime=0),
    }


class Harness:
    """Makes cases and runs them. folder: for seeds and scratch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runner = Runner()
        self._runner.__enter__()
        files = _files()
        self._seeds = {
            str(bits): fat(folder / f"fat{bits}", files, bits=bits, mib=mib)
            for bits, mib in _SIZES.items()
        }
        self._places = {name: _used(path.read_bytes()) for name, path in self._seeds.items()}

    def close(self) -> None:
        self._runner.__exit__(None, None, None)

    def cases(self, count: int, seed: int) -> Iterator[Case]:
        draw = random.Random(seed)
        for _ in range(count):
            name = draw.choice(sorted(self._seeds))
            patches = tuple(self._patch(name, draw) for _ in range(draw.choice((1, 1, 2, 4))))
            yield Case(name, patches, draw.random() < 0.3)

    def _patch(self, name: str, draw: random.Random) -> tuple[int, bytes]:
        offset = draw.choice((draw.randrange(96), draw.choice(self._places[name])))
        if draw.random() < 0.4:
            return offset, draw.randbytes(draw.choice((1, 2, 16)))
        width = draw.choice((1, 2, 4, 8))
        number = draw.choice(_NUMBERS) & (1 << 8 * width) - 1
        return offset - offset % width, number.to_bytes(width, "little")

    def run(self, case: Case) -> str:
        with time_limit(SECONDS):
            return self._run(case)

    def _run(self, case: Case) -> str:
        path, scratch = self._folder / "esp", self._folder / "scratch"
        shutil.copyfile(self._seeds[case.seed], path)
        scratch.mkdir()
        try:
            with path.open("r+b") as file:
                for offset, data in case.patches:
                    file.seek(offset)
                    file.write(data)
            out = scratch / "kernel", scratch / "ramdisk"
            mount = Mount("/efi", PartitionImage(path, path.stat().st_size, "vfat", "", "", "ESP"))
            tools = Tools(self._runner, QuietProgress(io.StringIO()), scratch)
            try:
                found = collect(self._guest(case), *out, tools, mounts=(mount,), esp="/efi")
            except (DiskError, GuestError) as error:
                if out[0].exists() or out[1].exists():
                    raise Faulty("an error, and a file") from error
                return type(error).__name__
            except PipelineError as error:
                raise Faulty(f"{type(error).__name__}: {error}") from error
            if (
                kernel_release(out[0]) not in ("", found.kernel_version)
                or not out[1].stat().st_size
            ):
                raise Faulty(f"{found} came out")
            return f"{found.kernel_version}" if found.kernel_version in (NEW, OLD) else "other"
        finally:
            shutil.rmtree(scratch)

    @staticmethod
    def _guest(case: Case) -> MemoryGuest:
        modules = {f"/lib/modules/{v}/modules.builtin": b"kernel/ext4.ko\n" for v in (NEW, OLD)}
        boot: dict[str, bytes | None] = {"/boot": None}
        if case.has_boot:
            boot = {f"/boot/vmlinuz-{OLD}": kernel(OLD), f"/boot/initrd.img-{OLD}": ramdisk(OLD)}
        return MemoryGuest({**modules, **boot})


def _used(data: bytes) -> list[int]:
    """Offsets of what is not zero, each sixteenth byte of it."""
    return [n for n in range(0, len(data), 16) if data[n : n + 16].strip(b"\0")]


if __name__ == "__main__":
    sys.exit(main(__doc__, Harness))
