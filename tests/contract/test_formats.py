"""One test body over every format that a disk is written in: formats/protocol.py's promises."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.convert.conversion import Padded, Wanted, convert, difference
from pipeline.convert.extract import open_format, opened
from pipeline.convert.formats.presets import PRESETS
from pipeline.convert.formats.protocol import Options
from pipeline.convert.formats.registry import FORMATS
from pipeline.core.events import QuietProgress
from pipeline.disk.blocks.source import RawFile
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks import foreign

pytestmark = pytest.mark.integration

WAYS = [
    (form.name, Options(variant, compression))
    for form in FORMATS.values()
    for variant in form.variants or ("",)
    for compression in form.compressions or ("",)
]
NAMES = ["-".join(filter(None, (name, o.variant, o.compression))) for name, o in WAYS]
QEMU = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx"}


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner(tmp_path / "commands.log") as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


@pytest.mark.parametrize("shape", sorted(foreign.SHAPES))
@pytest.mark.parametrize(("name", "options"), WAYS, ids=NAMES)
def test_a_disk_comes_back_as_it_was(
    name: str, options: Options, shape: str, tmp_path: Path, tools: Tools
) -> None:
    raw = foreign.SHAPES[shape](tmp_path / "disk.raw")
    form = FORMATS[name]
    target = tmp_path / f"made{form.suffix}"
    with RawFile(raw) as source:
        done = convert(source, target, Wanted(form, options), tools)
    size = -(-raw.stat().st_size // form.multiple) * form.multiple
    assert done.virtual == size
    assert done.size == target.stat().st_size
    assert bool(done.notes) == (size != raw.stat().st_size)
    found = open_format(target)
    assert found.format == form.read_as
    with RawFile(raw) as source, opened(found, tools) as copy:
        assert copy.size == size
        assert copy.read(0, raw.stat().st_size) == raw.read_bytes()
        assert difference(Padded(source, size), copy) is None
    assert not list(tools.scratch.glob("disk*"))
    if name in QEMU:
        _qemu_agrees(target, QEMU[name], raw)
    if shape in ("empty", "sparse"):
        # VHDX has blocks of 8 MiB and more, and a log; nothing else takes more than what is there.
        assert done.allocated < (28 << 20 if name == "vhdx" else 5 << 20)


def _qemu_agrees(image: Path, driver: str, raw: Path) -> None:
    """By qemu-img alone, which is another reader than ours for raw and qcow2."""
    words = ["qemu-img", "compare", "-f", driver, "-F", "raw", str(image), str(raw)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if driver in ("qcow2", "vdi", "vmdk", "vhdx"):
        words = ["qemu-img", "check", "--output=json", "-f", driver, str(image)]
        checked = subprocess.run(words, capture_output=True, text=True, check=False)
        report = json.loads(checked.stdout)
        assert checked.returncode == 0, checked.stdout
        assert not report.get("corruptions") and not report.get("leaks")


@pytest.mark.parametrize("way", sorted({*NAMES} - {"tar", "vhd-fixed"}))
def test_data_on_both_sides_of_every_table(way: str, tmp_path: Path, tools: Tools) -> None:
    """Tables of the formats map 32 MiB (VMDK), 512 MiB (qcow2), 1 and 2 MiB (VDI, VHD)."""
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        file.truncate((3 << 30) + 512)
        for border in (1 << 20, 32 << 20, 512 << 20, 1 << 30, 2 << 30, 3 << 30):
            file.seek(border - 700)
            file.write(b"%012d" % border * 100)
            file.truncate((3 << 30) + 512)
    name, options = WAYS[NAMES.index(way)]
    target = tmp_path / "made"
    with RawFile(raw) as source:
        done = convert(source, target, Wanted(FORMATS[name], options), tools)
        with opened(open_format(target), tools) as copy:
            assert difference(Padded(source, done.virtual), copy) is None
    if name in QEMU:
        _qemu_agrees(target, QEMU[name], raw)


@pytest.mark.parametrize("first", NAMES)
def test_every_pair_of_formats(first: str, tmp_path: Path, tools: Tools) -> None:
    """From each format into all others, without a raw file between them."""
    raw = foreign.sparse_disk(tmp_path / "disk.raw")
    name, options = WAYS[NAMES.index(first)]
    start = tmp_path / f"start{FORMATS[name].suffix}"
    with RawFile(raw) as source:
        size = convert(source, start, Wanted(FORMATS[name], options), tools).virtual
    for form in FORMATS.values():
        if form.name == "tar" and name == "tar":
            continue
        end = tmp_path / f"end{form.suffix}"
        with opened(open_format(start), tools) as source:
            assert source.size == size
            done = convert(source, end, Wanted(form), tools)
        with opened(open_format(end), tools) as copy, RawFile(raw) as source:
            assert difference(Padded(source, done.virtual), copy) is None
        end.unlink()


BY_QEMU = {"vmdk-sparse", "vdi", "vhd-dynamic", "vhd-fixed", "vhdx"}
"""QEMU puts times and random identifiers into these."""


@pytest.mark.parametrize("way", sorted({*NAMES} - BY_QEMU))
def test_the_same_disk_gives_the_same_bytes_where_we_write_them(
    way: str, tmp_path: Path, tools: Tools
) -> None:
    name, options = WAYS[NAMES.index(way)]
    raw = foreign.odd_disk(tmp_path / "disk.raw")
    with RawFile(raw) as source:
        wanted = Wanted(FORMATS[name], options)
        digests = {convert(source, tmp_path / f"{n}", wanted, tools).sha256 for n in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_full_file_system_leaves_nothing(name: str, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        raw = foreign.full_disk(tmp_path / "disk.raw")
        (place / "scratch").mkdir()
        with Runner() as run, RawFile(raw) as source, pytest.raises(Exception) as caught:
            convert(
                source,
                place / "made",
                Wanted(FORMATS[name]),
                Tools(run, QuietProgress(), place / "scratch"),
            )
        words = str(caught.value).lower()
        assert "no space" in words or "full" in words, words
        assert sorted(path.name for path in place.iterdir()) == ["scratch"]
    finally:
        subprocess.run(["umount", place], check=True)


def test_presets_name_what_there_is() -> None:
    for preset in PRESETS.values():
        form = FORMATS[preset.format]
        assert not preset.variant or preset.variant in form.variants
        assert not preset.compression or preset.compression in form.compressions
        assert preset.multiple % form.multiple == 0
        assert "(" in preset.why


def test_formats_are_called_by_their_own_names() -> None:
    assert all(name == form.name and form.says for name, form in FORMATS.items())
    assert len({form.suffix for form in FORMATS.values()}) == len(FORMATS)
