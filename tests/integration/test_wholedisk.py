"""The whole disk, read by independent tools and booted under both firmwares."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.convert.assemble import make_disk
from pipeline.convert.conversion import Wanted, convert
from pipeline.convert.formats.registry import FORMATS as KNOWN
from pipeline.core.checks import WholeDisk
from pipeline.core.errors import ProgramError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration, Format
from pipeline.disk.blocks.source import RawFile
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.verify import assertion_names, verify
from tests.fixtures import triples

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

LINE = "root=LABEL=uec-rootfs ro console=tty0 console=ttyS0"
FORMATS: tuple[Format, ...] = ("raw", "qcow2", "vmdk", "vhd")


@pytest.fixture(scope="module")
def triple(tmp_path_factory: pytest.TempPathFactory) -> triples.Files:
    return triples.busybox_triple(tmp_path_factory.mktemp("triple"))


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


def make(
    triple: triples.Files, out: Path, tools: Tools, formats: tuple[Format, ...] = ("raw",)
) -> dict[Format, Path]:
    made = {form: out.with_name(f"{out.name}.{form}") for form in formats}
    raw = out.with_name(f"{out.name}.raw")
    make_disk(triple.machine, triple.kernel, triple.ramdisk, LINE, raw, tools)
    for form in set(formats) - {"raw"}:
        with RawFile(raw) as disk:
            convert(disk, made[form], Wanted(KNOWN[form]), tools)
    if "raw" not in formats:
        raw.unlink()
    return made


def said(*argv: object) -> str:
    words = [str(word) for word in argv]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_independent_tools_read_it_back(
    triple: triples.Files, tmp_path: Path, tools: Tools
) -> None:
    disk = make(triple, tmp_path / "disk", tools)["raw"]
    assert "No errors detected" in said("sfdisk", "--verify", disk)
    table = json.loads(said("sfdisk", "--json", disk))["partitiontable"]
    bios, esp, root = table["partitions"]
    assert [p["name"] for p in (bios, esp, root)] == ["bios", "esp", "root"]
    with disk.open("rb") as file:
        file.seek(root["start"] * 512)
        copied = file.read(root["size"] * 512)
    assert copied == triple.machine.read_bytes()
    partition = tmp_path / "esp"
    with disk.open("rb") as file, partition.open("wb") as out:
        file.seek(esp["start"] * 512)
        out.write(file.read(esp["size"] * 512))
    said("fsck.fat", "-n", partition)
    for name, original in (("vmlinuz", triple.kernel), ("initrd", triple.ramdisk)):
        said("mcopy", "-i", partition, f"::/EFI/image/{name}", tmp_path / name)
        assert digest(tmp_path / name) == digest(original)
    assert disk.stat().st_blocks * 512 < 60 << 20, "holes stay holes"


def test_same_inputs_same_bytes(triple: triples.Files, tmp_path: Path, tools: Tools) -> None:
    one = make(triple, tmp_path / "one", tools)["raw"]
    two = make(triple, tmp_path / "two", tools)["raw"]
    assert digest(one) == digest(two)


def test_every_format_holds_the_same_disk(
    triple: triples.Files, tmp_path: Path, tools: Tools
) -> None:
    made = make(triple, tmp_path / "disk", tools, FORMATS)
    assert {path.name for path in made.values()} == {f"disk.{name}" for name in FORMATS}
    for name in FORMATS[1:]:
        said("qemu-img", "compare", made["raw"], made[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["scratch", *(path.name for path in made.values())]
    )
    assert not list(tools.scratch.iterdir())


def test_a_failure_leaves_nothing(triple: triples.Files, tmp_path: Path, tools: Tools) -> None:
    stub = tmp_path / "bin"
    stub.mkdir()
    (stub / "mcopy").write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    (stub / "mcopy").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{stub}:/usr/bin:/bin")
        with pytest.raises(ProgramError, match="no space left"):
            make(triple, tmp_path / "disk", tools)
    shutil.rmtree(stub)
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert not list(tools.scratch.iterdir())


def test_it_boots_under_bios_and_uefi(triple: triples.Files, tmp_path: Path, tools: Tools) -> None:
    made = make(triple, tmp_path / "disk", tools, ("qcow2",))
    report = verify(
        WholeDisk(made["qcow2"], format="qcow2"),
        acceleration=Acceleration("tcg", "tests"),
        minutes_per_boot=10,
        evidence=tmp_path / "evidence",
        tools=tools,
    )
    assert [assertion.name for assertion in report.failures] == []
    assert report.passed
    assert {assertion_names.BIOS, assertion_names.UEFI} <= {
        assertion.name for assertion in report.assertions
    }
    for boot in ("first", "other"):
        console = (tmp_path / f"evidence/{boot}-console.log").read_text(errors="replace")
        assert LINE in console
    uefi = (tmp_path / "evidence/other-console.log").read_text(errors="replace")
    assert "efi: EFI v2" in uefi
