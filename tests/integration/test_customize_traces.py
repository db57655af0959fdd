"""A tree full of traces of the installed machine, customised by both editing backends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration, PartitionImage
from pipeline.core.request import Backend
from pipeline.core.resources import PROJECT
from pipeline.guest.access.open import open_guest
from pipeline.guest.customize.apply import Customization, customize
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks import Entry, listing, mounted
from tests.fixtures.disks.tools import run
from tests.unit.guest.customize.test_network import ENABLED, GENERAL, PINNING, WITH_THEM
from tests.unit.guest.customize.test_traces import BASE, GONE, ID, KEY, PRIVATE, REGISTERED, Tree

pytestmark = pytest.mark.integration

TRACES: Tree = {**PINNING, **WITH_THEM, **GONE, **REGISTERED}
KEPT: Tree = {
    **{path: text for path, text in GENERAL.items() if path not in TRACES},
    "/root/.ssh/authorized_keys": KEY,
    "/root/.ssh/id_ed25519": PRIVATE,
}
OTHERS: Tree = {
    **BASE,
    **ENABLED,
    "/etc/machine-id": {"link": "/var/lib/dbus/machine-id"},
    "/var/lib/dbus/machine-id": ID,
    "/etc/hostname": "builder\n",
    "/etc/hosts": "127.0.0.1 localhost\n192.0.2.9 builder\n",
    "/etc/udev/rules.d/75-persistent-net-generator.rules": {"link": "/dev/null"},
    "/var/log/lastlog": b"\0" * (3 << 20),
}
IMMUTABLE = ("/etc/hosts", "/etc/nvme/hostnqn", "/etc/fstab", "/root/.bash_history", "/root")


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner(tmp_path / "log") as runner:
        yield Tools(runner, QuietProgress(), tmp_path / "scratch")


def filled(top: Path) -> None:
    for path, content in {**TRACES, **KEPT, **OTHERS}.items():
        place = top / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir()
        elif isinstance(content, (str, bytes)):
            place.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            place.symlink_to(content["link"])
    for path in IMMUTABLE:
        run("chattr", "+i", top / path[1:])


def made(path: Path, at: Path) -> PartitionImage:
    with path.open("wb") as file:
        file.truncate(64 << 20)
    run("mke2fs", "-q", "-t", "ext4", path)
    with mounted(path, at) as top:
        filled(top)
    uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", path).strip()
    return PartitionImage(path, path.stat().st_size, "ext4", uuid, "", "test")


def customized(image: PartitionImage, backend: Backend, tools: Tools) -> Customization:
    emulated = Acceleration("tcg", "the tests run anywhere")
    with open_guest(image, None, backend=backend, acceleration=emulated, tools=tools) as guest:
        assert guest.backend == backend
        return customize(guest, user="root", templates=PROJECT / "templates", tools=tools)


def seen(image: PartitionImage, at: Path) -> dict[str, Entry]:
    with mounted(image.path, at, "ro") as top:
        flags = {
            path: run("lsattr", "-d", top / path[1:]).split()[0].replace("e", "")
            for path in ("/etc/hosts", "/etc/fstab", "/root")
        }
        assert all("i" in letters for letters in flags.values()), flags
        return {path: replace(entry, modified=0) for path, entry in listing(top).items()}


def test_both_backends_take_away_the_same(tools: Tools, tmp_path: Path) -> None:
    image = made(tmp_path / "e2fsprogs.img", tmp_path / "mount")
    other = replace(image, path=tmp_path / "guestfs.img")
    shutil.copy(image.path, other.path)
    results = [customized(image, "e2fsprogs", tools), customized(other, "guestfs", tools)]
    assert results[0] == results[1]
    first = seen(image, tmp_path / "mount")
    assert first == seen(other, tmp_path / "mount")
    assert [path for path in TRACES if path[1:] in first] == []
    assert [path for path in KEPT if path[1:] not in first] == []
    assert first["var/lib/dbus/machine-id"].content == "/etc/machine-id"
    with mounted(image.path, tmp_path / "mount", "ro") as top:
        assert (top / "etc/machine-id").read_bytes() == b""
        assert (top / "etc/hosts").read_text() == "127.0.0.1 localhost\n"
        assert (top / "var/log/lastlog").stat().st_size == 0
