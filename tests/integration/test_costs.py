"""What builds and bundles may cost, counted, never timed: bytes, hash passes, programs, launches.

The work runs in a process of its own, with benchmarks/measure.py, which counts what it and all its
descendants read and write.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.disks import Disk, make_disk
from benchmarks.measure import MIB, Cost, measure
from pipeline.builders.recipes import choose_recipe, load_recipes
from pipeline.clouds.bundle.codec import PART_SIZE, bundle
from pipeline.clouds.bundle.manifest import Sealer
from pipeline.core.events import QuietProgress
from pipeline.core.image import Role
from pipeline.core.request import Backend, BuildRequest
from pipeline.core.resources import PROJECT
from pipeline.core.secrets import Secrets
from pipeline.workflows.build import build

pytestmark = pytest.mark.integration

MEMORY = 64 * MIB


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """Root of 256 MiB with some 60 MiB in use, /boot of its own."""
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    yield make_disk(path, 0.25, 0.05)
    path.unlink()


class _Counted:
    """A hash that counts what it is given."""

    def __init__(self, inner: Any, count: Callable[[int], None]) -> None:
        self._inner, self._count = inner, count

    def update(self, data: Any) -> None:
        self._count(len(data))
        self._inner.update(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def count_hashing() -> Counter[str]:
    """Bytes given to hashes from now on in this process, by algorithm; only for a forked one."""
    counts: Counter[str] = Counter()

    def counted(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(data: bytes = b"", **options: Any) -> _Counted:
            hashed = _Counted(make(**options), lambda length: counts.update({name: length}))
            hashed.update(data)
            return hashed

        return made

    originals = {name: getattr(hashlib, name) for name in ("sha1", "sha256", "sha512", "md5")}
    makers = {name: counted(name, make) for name, make in originals.items()}
    for name, maker in makers.items():
        setattr(hashlib, name, maker)
    hashlib.new = lambda name, data=b"", **options: makers[name](data, **options)
    return counts


def count_programs() -> Counter[str]:
    """Processes started from now on in this process; only for a forked one, as it stays."""
    counts: Counter[str] = Counter()

    def watch(event: str, _arguments: object) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system"):
            counts[event] += 1

    sys.addaudithook(watch)
    return counts


def built(disk: Disk, place: Path, backend: Backend = "auto") -> Cost:
    """A build from the disk in `place`, counted; the report has the files' and hashed bytes."""

    def work(_out: Path) -> Mapping[str, float]:
        os.environ["IMAGE_PIPELINE_BUILD"] = str(place)
        recipes = load_recipes(PROJECT / "kickstart" / "recipes.toml")
        recipe = choose_recipe(recipes, "demo").model_copy(update={"shrink": False})
        request = BuildRequest(
            recipe, disk=disk.path, backend=backend, accelerator="tcg", verify=False
        )
        hashed, started = count_hashing(), count_programs()
        manifest = build(request, QuietProgress(), Secrets())
        sizes = {str(record.role): record.size for record in manifest.artifacts}
        return {
            "copied": manifest.source.copied,
            "machine": sizes["machine"],
            "others": sizes["kernel"] + sizes["ramdisk"],
            "hashed": hashed.total(),
            "started": started.total(),
        }

    return measure("build", work, place.parent)


def programs(place: Path) -> list[list[str]]:
    """Command lines of the builds in `place`, from their own log."""
    lines = (place / "demo" / "commands.log").read_text().splitlines()
    # A program with a directory of its own is logged as "(cd DIRECTORY && COMMAND)".
    commands = [re.sub(r"^\(cd .*? && (.*)\)$", r"\1", line) for line in lines]
    return [shlex.split(command) for command in commands if not command.startswith("#")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds") / "build"


@pytest.fixture(scope="module")
def first(disk: Disk, place: Path) -> Cost:
    """The first build in `place`."""
    return built(disk, place)


def test_a_build_touches_each_byte_as_often_as_it_must(disk: Disk, first: Cost) -> None:
    copied, others = first.report["copied"], first.report["others"]
    assert disk.used <= copied < disk.used + MIB
    # Written: the copies of root and /boot, then kernel and ramdisk out of the latter.
    assert first.written < copied + others + 4 * MIB
    # Read: once to copy, once to hash, once for the inventory; kernel and ramdisk once more to be
    # taken out of /boot and once to be looked into.
    assert first.read < 3 * copied + 2 * others + 16 * MIB
    assert first.memory < MEMORY


def test_a_build_hashes_each_byte_once(first: Cost) -> None:
    files = first.report["machine"] + first.report["others"]
    # Beside the three files: sources, templates and answers, for the stages' keys.
    assert files <= first.report["hashed"] < files + 8 * MIB


def test_a_build_without_an_appliance_starts_four_programs(first: Cost, place: Path) -> None:
    """And asks two for their versions."""
    found = [words for words in programs(place) if words[-1] not in ("-V", "--version")]
    assert [(Path(words[0]).name, words[1]) for words in found] == [
        ("e2fsck", "-f"),  # the root, beside its copy
        ("e2fsck", "-f"),  # /boot, beside its copy
        ("debugfs", "-w"),
        ("e2fsck", "-fn"),  # the last word on the edits
    ]
    assert first.report["started"] == len(programs(place)) + 1  # the supervisor


@pytest.mark.usefixtures("first")
def test_an_unchanged_build_reads_no_image_and_starts_nothing(disk: Disk, place: Path) -> None:
    before = programs(place)
    again = built(disk, place)
    assert programs(place) == before
    assert again.report["started"] == 0
    assert again.report["hashed"] < 8 * MIB
    assert again.read < 16 * MIB
    assert again.written < MIB


@pytest.mark.long
def test_a_build_through_guestfs_launches_one_appliance(disk: Disk, tmp_path: Path) -> None:
    cost = built(disk, tmp_path / "build", "guestfs")
    appliances = [words for words in programs(tmp_path / "build") if "appliance.py" in words[-1]]
    assert len(appliances) == 1
    assert cost.report["hashed"] < cost.report["machine"] + cost.report["others"] + 8 * MIB


def test_a_bundle_reads_data_once_and_writes_nothing(tmp_path: Path) -> None:
    image = tmp_path / "image"
    data, size = 48 * MIB, 240 * MIB
    with image.open("wb") as file:
        for number in range(3):
            file.seek(number * 80 * MIB)
            file.write(os.urandom(data // 3))
        file.truncate(size)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    sha256 = hashlib.sha256(image.read_bytes()).hexdigest()

    def work(_out: Path) -> Mapping[str, float]:
        hashed, started = count_hashing(), count_programs()
        largest = 0

        def sink(_index: int, part: bytes) -> None:
            nonlocal largest
            largest = max(largest, len(part))

        manifest = bundle(
            image,
            Role.MACHINE,
            name="counted",
            architecture="x86_64",
            user="0" * 12,
            sealer=Sealer(key.public_key(), key),
            sink=sink,
            sha256=sha256,
        )
        return {
            "bundled": manifest.bundled_size,
            "largest": largest,
            "sha1": hashed["sha1"],
            "sha256": hashed["sha256"],
            "started": started.total(),
        }

    cost = measure("bundle", work, tmp_path)
    report = cost.report
    assert report["started"] == 0
    assert data <= cost.read < data + MIB
    assert cost.written < MIB
    tar = size + 512  # and the archive's end, up to a record
    assert tar <= report["sha1"] - report["bundled"] < tar + 32 * 1024
    assert report["sha256"] == size
    assert report["largest"] == PART_SIZE
    assert cost.memory < MEMORY
