"""Writing a disk in other formats, packing and reading it: this pipeline beside the usual tools."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.bars import bars
from benchmarks.document import Section
from benchmarks.measure import GIB, MIB, Cost, Options, Work, alternate, circumstances, cost_table
from benchmarks.measure import host as host_words
from pipeline.convert.conversion import Wanted, convert
from pipeline.convert.extract import open_format, opened
from pipeline.convert.formats.protocol import Options as Choice
from pipeline.convert.formats.registry import FORMATS
from pipeline.convert.writers.qcow2 import write_qcow2
from pipeline.convert.writers.transport import Packing, pack
from pipeline.convert.writers.vmdk import write_stream_vmdk
from pipeline.core.events import QuietProgress
from pipeline.disk.blocks.source import RawFile
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks.tools import run

_STRETCH, _EVERY = 4 * MIB, 16 * MIB
_PLACES = ("/usr/lib", "/usr/bin", "/usr/share")


def _make_disk(path: Path, used: float) -> None:
    """A disk a quarter of which is data: what this host has in /usr, in stretches of 4 MiB."""
    want = int(used * GIB)
    with path.open("wb") as disk:
        at, have = MIB, 0  # a program at the beginning would be taken for one
        for file in _files():
            if have >= want:
                break
            content = file.read_bytes()[: want - have]
            for begin in range(0, len(content), _STRETCH):
                disk.seek(at)
                disk.write(content[begin : begin + _STRETCH])
                at += len(content[begin : begin + _STRETCH])
                if at % _EVERY >= _STRETCH:
                    at = (at // _EVERY + 1) * _EVERY
            have += len(content)
        disk.truncate((max(at, 4 * want) // MIB + 1) * MIB)


def _files() -> Iterator[Path]:
    for place in _PLACES:
        for top, folders, names in os.walk(place):
            folders.sort()
            for name in sorted(names):
                file = Path(top, name)
                if file.is_file() and not file.is_symlink():
                    yield file


def _qcow2(disk: Path, compression: str, out: Path) -> None:
    with RawFile(disk) as source:
        write_qcow2(source, out / "made", "zlib" if compression == "zlib" else "zstd")


def _stream(disk: Path, out: Path) -> None:
    with RawFile(disk) as source:
        write_stream_vmdk(source, out / "made")


def _pack(disk: Path, packing: Packing, out: Path) -> None:
    pack(disk, out / "made", packing)


def _whole(image: Path, form: str, choice: Choice, out: Path) -> None:
    """As the command does it: read, written, read again and compared."""
    scratch = out / "scratch"
    scratch.mkdir()
    with Runner() as runner:
        tools = Tools(runner, QuietProgress(), scratch)
        with opened(open_format(image), tools) as source:
            convert(source, out / "made", Wanted(FORMATS[form], choice), tools)
    scratch.rmdir()


def _program(*words: str | Path) -> None:
    """Run a program whose last word is its output; `words` end with the directory of that."""
    *argv, out = words
    run(*argv, Path(out) / "made")


def _filter(*words: str | Path) -> None:
    """Run a program that writes to its standard output."""
    *argv, out = words
    run("sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", Path(out) / "made", *argv)


def _parts(disk: Path, vmdk: Path) -> dict[str, tuple[str, dict[str, Work]]]:
    """Heading -> (base, contenders)."""
    qemu = partial(_program, "qemu-img", "convert", "-f", "raw")
    return {
        "raw to compressed qcow2": ("qemu-img convert -c", {
            "qemu-img convert -c": partial(qemu, "-c", "-O", "qcow2", disk),
            "qemu-img convert -c, zstd": partial(
                qemu, "-c", "-O", "qcow2", "-o", "compression_type=zstd", disk),
            "this pipeline's writer, zlib": partial(_qcow2, disk, "zlib"),
            "this pipeline's writer, zstd": partial(_qcow2, disk, "zstd"),
            "convert --to qcow2, compared": partial(_whole, disk, "qcow2", Choice()),
        }),
        "raw to streamOptimized VMDK": ("qemu-img convert", {
            "qemu-img convert": partial(
                qemu, "-O", "vmdk", "-o", "subformat=streamOptimized", disk),
            "this pipeline's writer": partial(_stream, disk),
            "convert --to vmdk, compared": partial(_whole, disk, "vmdk", Choice()),
        }),
        "raw to raw.gz": ("gzip -6", {
            "gzip -6": partial(_filter, "gzip", "-6c", disk),
            "this pipeline, gzip": partial(_pack, disk, "gzip"),
        }),
        "raw to raw.zst": ("zstd -6, one thread", {
            "zstd -6, one thread": partial(_filter, "zstd", "-6qc", "--single-thread", disk),
            "this pipeline, zstd": partial(_pack, disk, "zstd"),
        }),
        "streamOptimized VMDK to raw": ("qemu-img convert", {
            "qemu-img convert": partial(
                _program, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk),
            "convert --to raw, compared": partial(_whole, vmdk, "raw", Choice()),
        }),
    }  # fmt: skip


def sections(options: Options) -> Iterator[Section]:
    """Every pair of the smallest size; packing without zstd(1) is left out."""
    used = min(options.sizes)
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        work = Path(name)
        disk, vmdk = work / "disk.raw", work / "disk.vmdk"
        _make_disk(disk, used)
        with RawFile(disk) as source:
            write_stream_vmdk(source, vmdk)
        text = [
            f"{host_words(options.directory)}. The disk has {used * 1024:.0f} MiB of data, files of"
            f" /usr, in {disk.stat().st_size / MIB:.0f} MiB; it is out of the page cache before"
            " each run, and the results are synced within it. What is `compared` was read again and"
            " compared with its source, which the rivals do not do."
        ]
        ratios: dict[str, Cost] = {}
        for heading, (base, rivals) in _parts(disk, vmdk).items():
            if "zst" in base and not shutil.which("zstd"):
                text.append(f"### {heading}\n\nLeft out: zstd (not installed).")
                continue
            costs = alternate(rivals, options.rounds, work, base=base, cold=[disk, vmdk])
            ratios |= {f"{heading}: {label}": cost for label, cost in costs.items()}
            text.append(
                f"### {heading}\n\n{circumstances(costs, options.rounds)}\n\n"
                f"{cost_table(costs, base)}"
            )
        seconds = {label: cost.seconds for label, cost in ratios.items()}
        yield Section("\n\n".join(text), bars("Conversion, seconds (median)", seconds))
