"""Debian's releases, with either ramdisk and network, made images by the product and booted.

Guests of other speeds: test_debian_speeds.py, a file of its own so that two workers share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline.core.checks import Triple
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration
from pipeline.guest.customize.apply import Customization
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.verify import assertion_names, verify
from tests.compatibility.guests import kept
from tests.fixtures.disks.debian import BOOKWORM, Flavour
from tests.fixtures.triples import Files
from tests.fixtures.triples.debian import debian_triple, keys_before
from tests.fixtures.triples.one_boot import LINE, boot_once, host_keys

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(5400)]

FORKY = Flavour("forky", "dracut", "systemd-networkd")
MATRIX = (
    BOOKWORM,
    Flavour("bookworm", "dracut", "systemd-networkd"),
    Flavour("trixie", "dracut", "systemd-networkd"),  # with ifupdown: test_verify_debian.py
    FORKY,
    Flavour("forky", "initramfs-tools", "ifupdown"),
    Flavour("sid", "dracut", "ifupdown"),
)
Made = tuple[Files, Customization]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Flavour], Made]:
    """Each flavour's triple is made when it is first asked for."""
    return cache(lambda flavour: debian_triple(tmp_path_factory.mktemp(str(flavour)), flavour))


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


@pytest.mark.parametrize("flavour", MATRIX, ids=str)
def test_an_image_passes(
    flavour: Flavour, made: Callable[[Flavour], Made], tmp_path: Path, tools: Tools
) -> None:
    files, done = made(flavour)
    report = verify(
        Triple(files.machine, files.kernel, files.ramdisk, LINE),
        acceleration=Acceleration("tcg", "tests"),
        minutes_per_boot=20,
        evidence=tmp_path / "evidence",
        tools=tools,
        keep=True,
    )
    failed = [(a.name, a.detail) for a in report.assertions if not a.passed]
    kept("test_debian_releases.py::test_an_image_passes", flavour, files, failed)
    assert failed == []
    assert len(keys_before(done)) >= 6
    for overlay in ("first", "other"):
        assert host_keys(tmp_path / f"evidence/{overlay}-overlay.qcow2") == keys_before(done)


def test_a_root_that_is_not_there_ends_the_boot_of_dracut_and_is_named(
    made: Callable[[Flavour], Made], tmp_path: Path, tools: Tools
) -> None:
    line = LINE.replace("uec-rootfs", "nosuch")
    record, _ = boot_once(made(FORKY)[0], tmp_path / "boot", tools, line=line)
    final = next(sign for sign in record.signs if sign.final)
    assert final.assertion == assertion_names.ROOT
    assert record.trouble == final.line
    assert "/dev/disk/by-label/nosuch" in record.trouble
    assert not record.late
