"""Debian's releases at three speeds of the guest: host keys come in time, whoever makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline.core.events import QuietProgress
from pipeline.guest.customize.apply import Customization
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks.debian import BOOKWORM, TRIXIE, Flavour
from tests.fixtures.triples import Files
from tests.fixtures.triples.debian import debian_triple, keys_before
from tests.fixtures.triples.one_boot import Machine, boot_once, edited, host_keys

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(5400)]

FORKY = Flavour("forky", "dracut", "systemd-networkd")
# qemu's shift: a guest that runs 1000, 250 or 62 million instructions in a second of its own.
CLOCKS = ("shift=0,sleep=on", "shift=2,sleep=on", "shift=4,sleep=on")
MASK = "/etc/systemd/system/ssh-host-keys.service"
Made = tuple[Files, Customization]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Flavour], Made]:
    """Each flavour's triple is made when it is first asked for: seconds, once its root is kept."""
    return cache(lambda flavour: debian_triple(tmp_path_factory.mktemp(str(flavour)), flavour))


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


@pytest.mark.parametrize("last_resort", [False, True])
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("flavour", [BOOKWORM, TRIXIE, FORKY], ids=str)
def test_host_keys_come_at_every_speed(
    flavour: Flavour,
    clock: str,
    last_resort: bool,
    made: Callable[[Flavour], Made],
    tmp_path: Path,
    tools: Tools,
) -> None:
    """Before the server; or, where only the key script makes them, after it has failed."""
    files, done = made(flavour)
    if last_resort:
        files = edited(files, tmp_path, [f"rm {MASK}", f"symlink {MASK} /dev/null"])
    record, overlay = boot_once(files, tmp_path / "boot", tools, machine=Machine(clock))
    assert record.trouble == ""
    assert record.facts is not None
    assert record.facts.failed_units == ()
    assert host_keys(overlay) == keys_before(done)
    failed = [sign.line for sign in record.signs]
    assert all("ssh" in line for line in failed)
    assert bool(failed) is last_resort
