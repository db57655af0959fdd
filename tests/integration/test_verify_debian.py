"""The boot check on a Debian 13 that the product customised: sound, and with systemd's troubles.

Other releases: test_debian_releases.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.checks import Triple, VerifyReport
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.verify import assertion_names, verify
from tests.compatibility.guests import kept
from tests.fixtures.disks.debian import TRIXIE
from tests.fixtures.triples import Files
from tests.fixtures.triples.debian import debian_triple
from tests.fixtures.triples.one_boot import LINE, edited

pytestmark = [pytest.mark.integration, pytest.mark.timeout(5400)]

BROKEN = "[Service]\nType=oneshot\nExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return debian_triple(tmp_path_factory.mktemp("debian"), TRIXIE)[0]


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


def check(files: Files, tools: Tools) -> VerifyReport:
    return verify(
        Triple(files.machine, files.kernel, files.ramdisk, LINE),
        acceleration=Acceleration("tcg", "tests"),
        minutes_per_boot=20,
        evidence=tools.scratch.parent / "evidence",
        tools=tools,
    )


def test_a_systemd_root_passes(sound: Files, tools: Tools) -> None:
    report = check(sound, tools)
    failed = [(a.name, a.detail) for a in report.assertions if not a.passed]
    kept("test_verify_debian.py::test_a_systemd_root_passes", TRIXIE, sound, failed)
    assert failed == []
    details = {a.name: a.detail for a in report.assertions}
    assert "running" in details[assertion_names.UNITS]
    assert details[assertion_names.FRESH_MACHINE_ID] == "two different ones"
    assert "3 of 3 keys" in details[assertion_names.KEY_ONCE]


@pytest.mark.long
def test_the_old_swap_line_is_found_within_seconds_of_its_wait(
    sound: Files, tmp_path: Path, tools: Tools
) -> None:
    fstab = "LABEL=uec-rootfs / ext4 defaults 0 0\n/dev/VolGroup/lv_swap swap swap defaults 0 0\n"
    files = edited(sound, tmp_path, ["rm /etc/fstab", "write fstab /etc/fstab"], fstab=fstab)
    report = check(files, tools)
    assert [a.name for a in report.failures] == [assertion_names.FSTAB]
    assert "lv_swap" in report.failures[0].detail


FILER = "[Unit]\nDescription=The filer\n[Mount]\nWhat=192.0.2.1:/y\nWhere=/srv/y\nType=nfs4\n"


@pytest.mark.long
def test_mounts_from_servers_need_not_come(sound: Files, tmp_path: Path, tools: Tools) -> None:
    """The guest of a check has no network: lines and units that need one are not asked for."""
    fstab = (
        "LABEL=uec-rootfs / ext4 defaults 0 0\n"
        "192.0.2.1:/x /srv/x nfs4 ro,_netdev,addr=192.0.2.1 0 0\n"
        "goofys#bucket /mnt/s3 fuse _netdev,allow_other 0 0\n"
        "/srv/x/home /srv/home none bind,_netdev 0 0\n"
    )
    place = "/etc/systemd/system"
    commands = [
        "rm /etc/fstab",
        "write fstab /etc/fstab",
        f"write filer {place}/srv-y.mount",
        f"symlink {place}/multi-user.target.wants/srv-y.mount {place}/srv-y.mount",
    ]
    report = check(edited(sound, tmp_path, commands, fstab=fstab, filer=FILER), tools)
    assert [(a.name, a.detail) for a in report.assertions if not a.passed] == []
    (line,) = [a.detail for a in report.assertions if a.name == assertion_names.FSTAB]
    assert "no network for /srv/x, /mnt/s3" in line
    assert "/srv/y" in line


@pytest.mark.long
def test_a_service_that_fails(sound: Files, tmp_path: Path, tools: Tools) -> None:
    place = "/etc/systemd/system"
    commands = [
        f"write broken {place}/broken.service",
        f"symlink {place}/multi-user.target.wants/broken.service {place}/broken.service",
    ]
    report = check(edited(sound, tmp_path, commands, broken=BROKEN), tools)
    assert {a.name for a in report.failures} == {assertion_names.UNITS, assertion_names.INIT}
    assert "broken.service" in report.failures[0].detail
