"""What the headers of foreign images may say: sizes, and no other file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.convert.extract import open_format
from pipeline.core.errors import DiskError, InputError, PipelineError
from pipeline.core.image import DiskFormat
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.foreign import archive, vdi, vhd, vhdx, vmdk
from tests.fixtures.disks import foreign

MIB = 1 << 20
CONTENT = (b"boot".ljust(MIB, b"\0") + bytes(MIB)) + b"end".ljust(MIB, b"\0")


def put(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("form", "make"),
    [
        ("vdi", lambda: foreign.vdi(CONTENT)),
        ("vmdk", lambda: foreign.stream_vmdk(CONTENT)),
        ("vhd", lambda: foreign.vhd(CONTENT)),
        ("vhd", lambda: CONTENT + foreign.vhd_footer(len(CONTENT), 2, (1 << 64) - 1)),
        ("tar", lambda: foreign.tar_of(("a.ovf", foreign.ovf("a.vmdk")),
                                       ("a.vmdk", foreign.stream_vmdk(CONTENT)))),
        ("tar", lambda: foreign.tar_of(("disk.raw", CONTENT))),
        ("raw", lambda: CONTENT),
    ],
)  # fmt: skip
def test_images_of_the_specifications_are_recognised(
    form: DiskFormat, make: Callable[[], bytes], tmp_path: Path
) -> None:
    assert open_format(put(tmp_path, make())).format == form


def test_the_sizes_are_those_of_the_disk(tmp_path: Path) -> None:
    def size(content: bytes, check: Callable[[RawFile], object]) -> object:
        with RawFile(put(tmp_path, content)) as file:
            return check(file)

    assert size(foreign.vdi(CONTENT), vdi.check) == len(CONTENT)
    assert size(foreign.stream_vmdk(CONTENT), vmdk.check) == len(CONTENT)
    assert size(foreign.vhd(CONTENT), vhd.check) == vhd.Vhd(len(CONTENT), fixed=False)


NAMED = "/etc/machine-id"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: foreign.vdi(CONTENT, kind=4), "snapshot"),
        (lambda: foreign.vdi(CONTENT, parent=b"p" * 16), "snapshot"),
        (lambda: foreign.vhd(CONTENT, kind=4, parent=NAMED), NAMED),
        (lambda: foreign.vhdx_with_parent(NAMED), NAMED),
        (lambda: foreign.stream_vmdk(CONTENT, foreign.vmdk_descriptor(1, parent=NAMED)), NAMED),
        (lambda: foreign.stream_vmdk(CONTENT, capacity=0), "other files"),
        (lambda: foreign.stream_vmdk(CONTENT, foreign.vmdk_descriptor(
            1, kind="twoGbMaxExtentSparse",
            extents=('RW 1 SPARSE "/etc/hostname"', 'RW 1 SPARSE "b.vmdk"'))), "/etc/hostname"),
        (lambda: foreign.vmdk_descriptor(
            8, kind="monolithicFlat", extents=(f'RW 8 FLAT "{NAMED}" 0',)).encode(), NAMED),
        (lambda: foreign.vmdk_descriptor(
            8, kind="monolithicFlat", extents=('RW 8 FLAT "a-flat.vmdk" 0',)).encode(),
         "Give the raw disk a-flat.vmdk itself"),
        (lambda: foreign.tar_of(("a.ovf", foreign.ovf(NAMED)), ("b", b"x")), NAMED),
        (lambda: foreign.tar_of(("a.ovf", foreign.ovf("b", compression="gzip")), ("b", b"x")),
         "compressed"),
        (lambda: foreign.tar_of(("a.ovf", b"<!DOCTYPE x>" + foreign.ovf("b")), ("b", b"x")),
         "entities"),
        (lambda: foreign.tar_of(("a", b"x"), ("b", b"x")), "2 files"),
        (lambda: b"QED\0" + bytes(1020), "QED"),
        (lambda: b"COWD" + bytes(1020), "VMDK of ESX"),
        (lambda: b"short", "smaller than one sector"),
    ],
)  # fmt: skip
def test_what_names_another_file_is_refused_by_name(
    make: Callable[[], bytes], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        open_format(put(tmp_path, make()))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: foreign.vdi(CONTENT)[:400], "cut off"),
        (lambda: foreign.stream_vmdk(CONTENT)[:-1024], "footer"),
        (lambda: bytes(512) + foreign.vhd(CONTENT)[512:], "copy of its footer"),
        (lambda: foreign.vhd(CONTENT)[:600], "cut off"),
        (lambda: b"conectix" + foreign.vhd(CONTENT)[8:70] + b"?" + foreign.vhd(CONTENT)[71:],
         "checksum"),
        (lambda: foreign.vhdx_with_parent("p")[: 1 << 19], "cut off"),
        (lambda: foreign.tar_of(("disk.raw", CONTENT))[:MIB], "cut off in disk.raw"),
    ],
)  # fmt: skip
def test_damage_is_told(make: Callable[[], bytes], words: str, tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught:
        open_format(put(tmp_path, make()))
    assert words in str(caught.value)


SEEDS: dict[str, Callable[[], bytes]] = {
    "vdi": lambda: foreign.vdi(CONTENT),
    "vmdk": lambda: foreign.stream_vmdk(CONTENT),
    "vhd": lambda: foreign.vhd(CONTENT),
    "vhdx": lambda: foreign.vhdx_with_parent("p"),
    "ova": lambda: foreign.tar_of(("a.ovf", foreign.ovf("a.vmdk")), ("a.vmdk", CONTENT)),
}
_CHECKS: dict[str, Callable[[RawFile], object]] = {
    "vdi": vdi.check,
    "vmdk": vmdk.check,
    "vhd": vhd.check,
    "vhdx": vhdx.check,
    "ova": archive.disk_in,
}
_TABLES = (0, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 2 * MIB, 2 * MIB + (64 << 10))


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_mutated_headers_are_judged_in_bounded_time_and_words(name: str, tmp_path: Path) -> None:
    """A thousand mutations each: an answer or an error of ours, nothing else."""
    path = put(tmp_path, SEEDS[name]())
    whole = path.read_bytes()
    dice = random.Random(name)
    places = [at for at in _TABLES if at < len(whole)] if name == "vhdx" else [0, 512, 1024]
    outcomes = {"fine": 0, "told": 0}
    with path.open("r+b") as out, RawFile(path) as file:
        for _ in range(1000):
            at = min(
                dice.choice([*places, len(whole) - 1536]) + dice.randrange(512), len(whole) - 8
            )
            size = dice.choice([1, 2, 4, 8])
            value = dice.choice([bytes(size), b"\xff" * size, dice.randbytes(size)])
            out.seek(at)
            out.write(value)
            out.flush()
            try:
                _CHECKS[name](file)
                outcomes["fine"] += 1
            except PipelineError:
                outcomes["told"] += 1
            if dice.random() < 0.7:  # some mutations stay, and add up
                out.seek(at)
                out.write(whole[at : at + size])
    assert sum(outcomes.values()) == 1000
    assert outcomes["told"]
