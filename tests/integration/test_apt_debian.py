"""Debian from its real mirror, by the apt backend: the same system that mmdebstrap makes."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.builders.packages.apt.backend import open_backend
from pipeline.builders.packages.protocol import LAYERS, Package, Wanted
from pipeline.core.errors import InstallError
from pipeline.core.events import QuietProgress
from pipeline.core.packages import PackageSystem
from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, Root, find_isolation, remove_tree
from pipeline.host.programs import Runner
from tests.fixtures.apt_repository import Key, Repository

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap in root mode, and reads its tree"),
]

MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BASE = ("initramfs-tools", "linux-image-cloud-amd64", "openssh-server")

EXPECTED = {
    "etc/apt/sources.list": "the guest has deb822 sources, signed by its own keyring",
    "etc/apt/sources.list.d/debian.sources": "the same",
    "etc/apt/apt.conf.d/99mmdebstrap": "its own option, given below",
    "etc/fstab": "mmdebstrap's is a comment; a builder writes the guest's",
    "etc/hostname": "mmdebstrap copies the host's",
    "etc/resolv.conf": "mmdebstrap copies the host's",
    "etc/machine-id": "another mode of an empty file",
    "etc/.pwd.lock": "a lock",
    "etc/group": "numbers and order of system groups go by the order of installing",
    "etc/gshadow": "the same",
    "etc/passwd": "the same",
    "etc/shadow": "the same, and the day of the newest package instead of today",
    "usr/bin/ssh-agent": "its group's number",
    "var/lib/dpkg/arch": "mmdebstrap's, for foreign architectures",
    "var/lib/dpkg/triggers/File": "its order goes by the order of installing",
    "etc/systemd/system/timers.target.wants/apt-daily.timer": "/lib or /usr/lib, by the order",
    "etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer": "the same",
    "lib32": "debootstrap's links; from Debian 13 on base-files has its own, without these",
    "libx32": "the same",
    "usr/lib32": "the same",
    "usr/libx32": "the same",
    "run/lock/subsys": "/run is a tmpfs",
    "var/lib/apt/extended_states": "its order; compared apart",
}
"""What may differ, and why."""


def leftover(path: str) -> bool:
    """What mmdebstrap leaves of the installation itself."""
    return (
        path.startswith(("dev/", "boot/initrd.img-", "etc/ssh/ssh_host_"))
        or path.endswith(("-old", "/lock-frontend", "/Lock", "/partial"))
        or path.endswith(("dpkg/lock", "lists/lock", "archives/lock"))
        or (path.startswith("etc/") and path.endswith("-"))
    )


Tree = dict[str, tuple[str, int, int, str]]


def tree(layers: list[Path], first_id: int = 0) -> Tree:
    """Path -> mode, owner, group, content; of layers the topmost comes first."""
    found: Tree = {}

    def walk(places: list[Path], above: str) -> None:
        names: dict[str, list[Path]] = {}
        for place in places:
            for entry in sorted(place.iterdir()):
                names.setdefault(entry.name, []).append(entry)
        for name, entries in names.items():
            status, path = entries[0].lstat(), f"{above}{name}"
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                continue
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(entries[0].read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = str(entries[0].readlink())
            mode = stat.filemode(status.st_mode)
            found[path] = mode, status.st_uid - first_id, status.st_gid - first_id, content
            if stat.S_ISDIR(status.st_mode):
                below = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
                walk(below, f"{path}/")

    walk(layers, "")
    return found


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner(log=tmp_path / "programs.log") as runner:
        yield Tools(runner, QuietProgress(), tmp_path / "scratch")


class House:
    """Layers below a directory, one on the other."""

    def __init__(self, tools: Tools, place: Path, cache: Path, release: str, **more: object):
        repository = {"name": "debian", "urls": [MIRROR], "keys": [KEYRING],
                      "suites": [release], "components": ["main"]}  # fmt: skip
        fields = {"distribution": "debian", "release": release, "repositories": [repository]}
        system = PackageSystem.model_validate(fields | more)
        self.tools, self.place = tools, place
        self.apt = open_backend(system, tools, cache)
        self.state = self.apt.state(refresh=False)
        self.isolation: Isolation = find_isolation(tools)
        self.layers: list[Path] = []
        self.packages: list[Package] = []
        self.trees: dict[str, Tree] = {}

    def add(self, wanted: Wanted) -> None:
        packages = self.apt.resolve(self.state, wanted, self.packages)
        files = self.apt.fetch(self.state, packages)
        upper, work = self.place / wanted.kind, self.place / f"{wanted.kind}.work"
        upper.mkdir(parents=True)
        work.mkdir()
        self.apt.install(
            Root(tuple(self.layers), upper, work), wanted, packages, files,
            isolation=self.isolation, tools=self.tools, log=self.place / f"{wanted.kind}.log",
        )  # fmt: skip
        self.layers.insert(0, upper)
        self.packages += packages
        self.trees[wanted.kind] = tree(self.layers, self.isolation.first_id)

    def text(self, path: str) -> str:
        return next(p / path for p in self.layers if (p / path).exists()).read_text()

    def remove(self) -> None:
        remove_tree(self.isolation, self.place, self.tools)


def by_mmdebstrap(place: Path, release: str) -> Tree:
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory",
            "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
            f"--include={','.join(BASE)}",
            '--aptopt=Acquire::Check-Valid-Until "false"', release, str(place),
            f"deb {MIRROR} {release} main"]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tree([place])


@pytest.mark.parametrize(
    "release",
    [
        "bookworm",
        pytest.param("trixie", marks=pytest.mark.long),
        pytest.param("forky", marks=pytest.mark.long),
    ],
)
def test_it_is_the_system_that_mmdebstrap_makes_and_the_same_every_time(
    release: str, tools: Tools, tmp_path: Path
) -> None:
    houses = []
    for number in (1, 2):
        house = House(tools, tmp_path / f"house{number}", tmp_path / "cache", release,
                      check_valid_until=False)  # fmt: skip
        for kind, names in zip(LAYERS, ((), BASE, ("jq",)), strict=True):
            house.add(Wanted(kind, names))
        houses.append(house)
    try:
        assert houses[0].trees == houses[1].trees
        ours = houses[0].trees["base"]
        theirs = by_mmdebstrap(tmp_path / "theirs", release)
        different = {path for path in ours | theirs if ours.get(path) != theirs.get(path)}
        assert {path for path in different if not leftover(path)} - set(EXPECTED) == set()
        assert not [path for path in ours if leftover(path) and "partial" not in path
                    and not path.startswith("boot/")]  # fmt: skip
        assert stanzas(houses[0].layers[1]) == stanzas(tmp_path / "theirs")
        sources = houses[0].text("etc/apt/sources.list.d/debian.sources")
        assert f"Signed-By: {KEYRING}\n" in sources and f"URIs: {MIRROR}\n" in sources
        assert houses[0].layers[0].joinpath("usr/bin/jq").exists()
        a_package_that_fails_is_told(houses[0], tmp_path)
    finally:
        for house in houses:
            house.remove()


def a_package_that_fails_is_told(house: House, place: Path) -> None:
    """Also one that tries to start a service, and to reach what is not there."""
    repository = Repository(place / "repository", Key(place, place / "none"))
    script = "#!/bin/sh -e\ninvoke-rc.d ssh start || exit 9\ncat /etc/host-only\n"
    deb = repository.add("fails", scripts={"postinst": script})
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    package = Package("fails", "1", "all", digest, deb.stat().st_size, "pool/fails.deb", "debian")
    upper, work = house.place / "failed", house.place / "failed.work"
    upper.mkdir()
    work.mkdir()
    with pytest.raises(InstallError) as caught:
        house.apt.install(
            Root(tuple(house.layers), upper, work), Wanted("image", ("fails",)), [package], [deb],
            isolation=house.isolation, tools=house.tools, log=place / "failed.log",
        )  # fmt: skip
    assert "policy-rc.d denied execution of start" in caught.value.why
    assert "No such file or directory" in caught.value.why
    assert "returned error exit status 1" in caught.value.why
    assert str(place / "failed.log") in caught.value.next_step


def stanzas(root: Path) -> set[str]:
    return set((root / "var/lib/apt/extended_states").read_text().strip().split("\n\n"))


@pytest.mark.long
def test_a_core_of_another_architecture(tools: Tools, tmp_path: Path) -> None:
    house = House(tools, tmp_path / "house", tmp_path / "cache", "bookworm", architecture="aarch64")
    try:
        house.add(Wanted("core"))
        found = house.trees["core"]
        assert "lib64" not in found and found["lib"][3] == "usr/lib"
        (shell,) = [p for p in house.packages if p.name == "dash"]
        assert shell.architecture == "arm64"
        head = (house.layers[0] / "usr/bin/dash").read_bytes()[:20]
        assert head[:4] == b"\x7fELF" and head[18:20] == b"\xb7\0"  # EM_AARCH64
        status = house.text("var/lib/dpkg/status")
        assert status.count("Status: install ok installed") == status.count("Package: ")
    finally:
        house.remove()
