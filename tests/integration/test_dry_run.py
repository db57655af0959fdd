"""A dry run changes nothing, and what it announces is what the run after it does."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.builds.manifest import ArtifactRecord, write_manifest
from pipeline.core.image import Role
from pipeline.core.settings import cache_dir
from pipeline.core.text import human_bytes
from tests.contract.ec2_site import standin, standin_account
from tests.contract.glance_site import RawGlance
from tests.fakes.server import Cloud
from tests.fixtures.demo import Demo, invoke
from tests.fixtures.finished import finished_build
from tests.servers.faults import FaultProxy
from tests.servers.fixtures import LoneGlance, token_settings

pytestmark = pytest.mark.integration

_INDEX = "python-entrypoints"
READS = re.compile(r"\w+\.(Describe|List|Get|Head)\w*")


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory: type and mode, size, times, and the content of small files.

    But for the index of installed packages that openstacksdk's plugin loader keeps in the cache.
    """
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        if path == top / "tmp":  # what is in it is looked at; its own time tells of what was
            continue
        if any(path.match(pattern) for pattern in (".cache", _INDEX, f"{_INDEX}/*")):
            continue
        status = path.lstat()
        small = path.is_file() and status.st_size < 16 << 20
        content = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
        found[str(path)] = (
            status.st_mode,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            content,
        )
    return found


@dataclass
class World:
    """A user's directory, home and temporary files included, and the clouds they can reach."""

    directory: Path
    variables: dict[str, str]
    ec2: Cloud
    glance: RawGlance
    proxy: FaultProxy
    store: Path

    def invoke(self, *words: str) -> str:
        done = invoke(self.directory, *words, **self.variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self) -> set[str]:
        """All that a command could change, a line each: files, images, objects, snapshots."""
        s3, ebs = self.ec2.s3, self.ec2.ebs
        things: list[tuple[object, ...]] = [
            *(("file", *item) for item in tree(self.directory).items()),
            *(("Glance image", json.dumps(image, sort_keys=True)) for image in self.images()),
            *(("Glance data", path.name) for path in self.store.rglob("*")),
            *(("S3 object", name, *bucket) for name, bucket in s3.buckets.items()),
            *(("S3 upload", upload) for upload in s3.uploads),
            *(("EC2 image", vars(image)) for image in self.ec2.ec2.images.values()),
            *(("snapshot", name) for name in ebs.snapshots),
        ]
        return {str(thing) for thing in things}

    def images(self) -> list[dict[str, object]]:
        return [*self.glance.images(), *self.glance.images(os_hidden="true")]

    def writes(self) -> tuple[set[str], set[str]]:
        """The calls since the last look that change something: of EC2's services, of Glance."""
        calls = {call for call in self.ec2.calls if not READS.fullmatch(call)}
        requests = {
            f"{request.method} {_template(request.path)}"
            for request in self.proxy.requests
            if request.method not in ("GET", "HEAD")
        }
        self.ec2.calls.clear()
        self.proxy.requests.clear()
        return {call.partition(".")[2] for call in calls}, requests


def _template(path: str) -> str:
    return re.sub(r"/images/[^/]+", "/images/ID", path.partition("?")[0])


@pytest.fixture
def world(lone_glance: LoneGlance, tmp_path: Path) -> Iterator[World]:
    place, directory = tmp_path / "servers", tmp_path / "user"
    place.mkdir()
    (directory / "tmp").mkdir(parents=True)
    (directory / "cache").mkdir()
    known = cache_dir() / "acceleration.json"  # what the first command on a host measures
    if known.exists():
        shutil.copy(known, directory / "cache")
    token = f"user:{tmp_path.name}:member,reader"
    proxy = FaultProxy(lone_glance.url)
    with pytest.MonkeyPatch.context() as patch, proxy.running():
        patch.setenv("IMAGE_PIPELINE_CONFIG", str(place / "config"))
        settings = {"clouds": {"mine": token_settings(proxy.url, token)}}
        (place / "clouds.yaml").write_text(json.dumps(settings))
        with standin(place) as (cloud, certificate):
            (place / "aws").write_text(
                standin_account(cloud).profiles(
                    image_pipeline_bucket="images", image_pipeline_certificate=str(certificate)
                )
            )
            variables = {
                "HOME": str(directory),
                "TMPDIR": str(directory / "tmp"),
                "IMAGE_PIPELINE_CACHE": str(directory / "cache"),
                "IMAGE_PIPELINE_CONFIG": str(place / "config"),
                "OS_CLIENT_CONFIG_FILE": str(place / "clouds.yaml"),
                "AWS_CONFIG_FILE": str(place / "aws"),
                "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            raw = RawGlance(lone_glance.url, token)
            yield World(directory, variables, cloud, raw, proxy, lone_glance.store)


CLOUDS = ("--cloud", "local", "--cloud", "glance:mine", "--cloud", "ec2:mine")


def test_an_upload_does_what_its_dry_run_said_and_the_dry_run_nothing(world: World) -> None:
    manifest = finished_build(world.directory / "build" / "tiny")
    before = world.state()
    words = ("upload", "--recipe", "tiny", "--tag", "blue", *CLOUDS)
    (answer,) = json.loads(world.invoke(*words, "--dry-run", "--json"))
    assert world.state() ^ before == set()
    assert world.writes() == (set(), set())

    plan: dict[str, list[str]] = answer["plan"]
    assert set(plan) == {"local", "glance:mine", "ec2:mine"}
    for cloud, calls in plan.items():
        for file in manifest.artifacts:
            line = next(call for call in calls if file.file in call)
            assert human_bytes(file.size) in line or f"{file.size} bytes" in line, (cloud, line)
    lines = world.invoke(*words, "--dry-run").splitlines()
    assert lines == [f"{cloud}: {call}" for cloud, calls in plan.items() for call in calls]

    world.invoke(*words)
    ec2, glance = world.writes()
    announced = {call.split()[0] for call in plan["ec2:mine"]}
    assert ec2 == announced
    assert glance == {_template(call.partition(":")[0]) for call in plan["glance:mine"]}
    assert world.state() != before

    again = json.loads(world.invoke(*words, "--dry-run", "--json"))[0]["plan"]
    assert world.writes() == (set(), set())
    world.invoke(*words)
    assert world.writes() == ({"CreateTags"}, set())
    assert [call.split()[0] for call in again["ec2:mine"]] == ["CreateTags"]
    assert again["glance:mine"] == []
    assert len(again["local"]) == 1


def test_a_whole_disk_is_announced_as_it_is_sent(world: World) -> None:
    directory = world.directory / "build" / "tiny"
    directory.mkdir(parents=True)
    disk = directory / "tiny-disk.raw"
    with disk.open("wb") as file:
        file.write(b"boot" * 1000)
        file.truncate(3 << 20)
    record = ArtifactRecord(
        role=Role.DISK,
        format="raw",
        file=disk.name,
        sha256=hashlib.sha256(disk.read_bytes()).hexdigest(),
        size=3 << 20,
        allocated=disk.stat().st_blocks * 512,
    )
    manifest = finished_build(directory)
    write_manifest(
        manifest.model_copy(update={"artifacts": (*manifest.artifacts, record)}), directory
    )
    before = world.state()
    words = ["upload", "--recipe", "tiny", "--whole-disk", "--unverified", "--cloud", "ebs:mine"]
    (answer,) = json.loads(world.invoke(*words, "--dry-run", "--json"))
    assert world.state() ^ before == set()
    # A permission is asked for with DryRun, which changes nothing.
    assert world.writes() == ({"RegisterImage"}, set())
    calls = answer["plan"]["ebs:mine"]
    assert any(disk.name in call and "3.0 MiB" in call for call in calls), calls
    world.invoke(*words)
    assert world.writes()[0] == {call.split()[0] for call in calls}


@pytest.mark.long
def test_a_build_starts_the_programs_that_its_dry_run_named(
    world: World, finished_demo: Demo
) -> None:
    finished_demo.clone(world.directory)
    world.invoke("build", "demo", "--dry-run")  # measures the acceleration where nobody did
    before = world.state()
    steps = json.loads(world.invoke("build", "demo", "--dry-run", "--json"))["plan"]
    shown = world.invoke("build", "demo", "--dry-run", "--fresh")
    given = world.invoke("build", "demo", "--disk", "build/demo/disk.img", "--dry-run")
    assert world.state() ^ before == set()
    assert world.writes() == (set(), set())

    text = "\n".join([s["what"] for s in steps] + [c for s in steps for c in s["commands"]])
    assert {step["what"].split()[0] for step in steps} >= {
        "install",
        "copy",
        "edit",
        "boot",
        "write",
    }
    assert re.search(r"copy LV VolGroup/lv_root .*: [\d.]+ MiB, used blocks", text)
    assert re.search(r"\$ virt-install --connect .*--location", shown)
    assert "virt-install" not in given
    assert re.search(r"read the raw disk .*, [\d.]+ MiB allocated", given)
    assert re.search(r"used blocks; copy .*\n", given)
    for line in (world.directory / "build" / "demo" / "commands.log").read_text().splitlines():
        if not line.startswith("#"):
            assert named(line, text), f"the plan does not say {line}"


def named(line: str, text: str) -> bool:
    """Whether the plan has a program that was run, with the options it was given."""
    words = [word for word in shlex.split(line.strip("()").rpartition("&& ")[2]) if "=" not in word]
    if words[0] == "env":
        words = words[1:]
    if any(probe in line for probe in ("--version", " -V", "--list-full", "isa-debug-exit")):
        return True  # what this host has is looked up by dry runs, too
    program = Path(words[0]).name
    if program.startswith("python"):  # virt-install, in a process that keeps its events
        program = "virt-install"
    options = [word for word in words[1:] if re.fullmatch(r"-[a-z]{1,3}|-P", word)]
    plans = [command for command in text.splitlines() if re.search(rf"\b{program}\b", command)]
    if program in ("e2fsck", "debugfs", "resize2fs", "dumpe2fs", "qemu-system-x86_64"):
        return any(set(options) <= set(shlex.split(command)) for command in plans)
    return bool(plans)
