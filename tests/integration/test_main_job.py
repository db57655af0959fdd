"""The main job as a user runs it: `invoke build demo upload`, again, and from a finished disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.builds.registrations import registrations
from tests.fixtures.demo import Demo, command, environment, invoke
from tests.fixtures.simplestreams_reader import read_mirror

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.integration


@dataclass
class Site:
    """A user's directory, with everything the product may write kept inside it."""

    demo: Demo

    @property
    def directory(self) -> Path:
        return self.demo.directory

    @property
    def build(self) -> Path:
        return self.directory / "build" / "demo"

    @property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.build / "manifest.json").read_text())
        return manifest


@pytest.fixture(scope="module")
def site(finished_demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(finished_demo.clone(tmp_path_factory.mktemp("main-job")))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ids(output: str) -> list[str]:
    """The registered ids in the order printed: machine, kernel, ramdisk."""
    last = [line.split()[-1] for line in output.splitlines() if line.split()]
    return [word for word in last if word.startswith(("ami-", "aki-", "ari-"))]


def said(*words: str | Path) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def artifacts(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifest's files by role."""
    return {record["role"]: record for record in manifest["artifacts"]}


def test_three_files_a_manifest_and_ids(site: Site) -> None:
    manifest = site.manifest
    files = artifacts(manifest)
    names = {role: record["file"] for role, record in files.items()}
    assert names == {"machine": "demo.img", "kernel": "demo-vmlinuz", "ramdisk": "demo-initrd"}
    for role, name in names.items():
        assert sha256(site.build / name) == files[role]["sha256"]
    assert [check["passed"] for check in manifest["checks"]] == [True]
    assert manifest["root"]["label"] == "uec-rootfs"
    assert len(ids(site.demo.stdout)) == 3
    assert not (site.build / ".work").exists()


def test_independent_tools_agree(site: Site) -> None:
    image = site.build / "demo.img"
    assert said("blkid", "-o", "value", "-s", "LABEL", "-p", image) == "uec-rootfs\n"
    said("e2fsck", "-fn", image)
    fstab = said("debugfs", "-R", "cat /etc/fstab", image)
    assert fstab == "LABEL=uec-rootfs / ext4 defaults 0 0\n"


def test_the_catalogue_serves_what_was_built(site: Site) -> None:
    found = {item["sha256"] for item in read_mirror(site.directory / "catalogue")}
    assert found == {record["sha256"] for record in artifacts(site.manifest).values()}


def test_a_rerun_does_nothing_and_gives_the_same_ids(site: Site) -> None:
    before = {p: p.stat().st_mtime_ns for p in site.build.iterdir() if "img" in p.name}
    commands = (site.build / "commands.log").read_text()
    again = invoke(site.directory, "build", "demo", "upload")
    assert again.returncode == 0, again.stderr
    assert (site.build / "commands.log").read_text() == commands, "a program was started"
    assert {p: p.stat().st_mtime_ns for p in before} == before
    steps = site.manifest["steps"]
    assert all(steps[name]["reused"] for name in ("install", "image", "digests", "verify"))
    assert "already there" in again.stdout
    assert ids(again.stdout) == ids(site.demo.stdout)


def test_a_disk_is_only_read_and_gives_the_same_files(site: Site, tmp_path: Path) -> None:
    disk = site.build / "disk.img"
    before = (sha256(disk), disk.stat().st_mtime_ns)
    done = invoke(tmp_path, "build", "demo", "--disk", str(disk), "--no-verify", "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert (sha256(disk), disk.stat().st_mtime_ns) == before
    assert manifest["source"]["kind"] == "disk"
    assert manifest["checks"] == []
    for role in ("kernel", "ramdisk"):
        assert artifacts(manifest)[role]["sha256"] == artifacts(site.manifest)[role]["sha256"]
    assert manifest["customization"]["edits"] == site.manifest["customization"]["edits"]


def rebuilt(directory: Path, **more: str) -> dict[str, Any]:
    """The manifest after another `build demo --no-verify` in a directory."""
    done = invoke(directory, "build", "demo", "--no-verify", "--json", **more)
    assert done.returncode == 0, done.stderr
    manifest: dict[str, Any] = json.loads(done.stdout)
    assert manifest["steps"]["install"]["reused"]
    machine = directory / "build" / "demo" / "demo.img"
    assert artifacts(manifest)["machine"]["sha256"] == sha256(machine)
    return manifest


def test_a_boot_check_that_was_made_is_not_given_up(finished_demo: Demo, tmp_path: Path) -> None:
    finished_demo.clone(tmp_path)
    assert rebuilt(tmp_path)["checks"][0]["passed"]


def test_a_file_made_again_is_hashed_and_not_taken_for_checked(
    finished_demo: Demo, tmp_path: Path
) -> None:
    finished_demo.clone(tmp_path)
    (tmp_path / "build" / "demo" / "demo.img").unlink()
    manifest = rebuilt(tmp_path)
    assert not manifest["steps"]["digests"]["reused"]
    assert manifest["checks"] == []
    planned = invoke(tmp_path, "build", "demo", "--dry-run")
    assert "qemu-system" in planned.stdout


def test_another_command_line_is_written_down(finished_demo: Demo, tmp_path: Path) -> None:
    finished_demo.clone(tmp_path)
    recipes = tmp_path / "kickstart" / "recipes.toml"
    shutil.copytree(ROOT / "kickstart", recipes.parent)
    text = recipes.read_text().replace('"root=LABEL', '"quiet root=LABEL', 1)
    recipes.write_text(text)
    manifest = rebuilt(tmp_path, IMAGE_PIPELINE_RECIPES=str(recipes))
    assert manifest["boot"]["command_line"].startswith("quiet root=LABEL")
    assert manifest["checks"] == [], "it was not booted with that"


def test_an_unproved_build_is_not_uploaded_unasked(site: Site, tmp_path: Path) -> None:
    disk = str(site.build / "disk.img")
    words = ["build", "demo", "--disk", disk, "--no-verify", "upload"]
    refused = invoke(tmp_path, *words)
    assert refused.returncode == 2
    assert "its boot check failed or was skipped" in refused.stderr
    assert not (tmp_path / "catalogue").exists()
    assert invoke(tmp_path, *words, "--unverified").returncode == 0
    items = read_mirror(tmp_path / "catalogue")
    assert [item["verified"] for item in items] == ["false"] * 3


def test_a_changed_file_is_not_uploaded(site: Site, tmp_path: Path) -> None:
    disk = str(site.build / "disk.img")
    assert invoke(tmp_path, "build", "demo", "--disk", disk, "--no-verify").returncode == 0
    with (tmp_path / "build" / "demo" / "demo.img").open("ab") as file:
        file.write(b"x")
    refused = invoke(tmp_path, "upload", "--recipe", "demo", "--unverified")
    assert refused.returncode == 2
    assert "bytes where the manifest has" in refused.stderr


def test_a_dry_run_touches_nothing(site: Site, tmp_path: Path) -> None:
    def world() -> dict[str, int]:
        return {
            str(path): path.lstat().st_mtime_ns
            for top in (site.directory, tmp_path)
            for path in top.rglob("*")
        }

    before = world()
    plan = invoke(tmp_path, "build", "demo", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "virt-install --connect" in plan.stdout
    assert "qemu-system-x86_64" in plan.stdout
    calls = invoke(site.directory, "upload", "--recipe", "demo", "--dry-run", "--json")
    assert calls.returncode == 0, calls.stderr
    assert json.loads(calls.stdout)[0]["plan"]["local"]
    again = invoke(site.directory, "build", "demo", "--dry-run", "upload", "--dry-run")
    assert "repeat no boot check" in again.stdout
    assert "manifest.json as it is" in again.stdout
    assert "qemu-system" not in again.stdout
    (registered,) = registrations(site.build / "registrations.json")
    assert f"local: keep generation {registered.generation} as it is" in again.stdout
    fresh = invoke(site.directory, "build", "demo", "--dry-run", "--fresh")
    assert "qemu-system" in fresh.stdout
    assert world() == before


def test_the_second_of_two_builds_is_told_who_works(site: Site, tmp_path: Path) -> None:
    words = ("build", "demo", "--disk", str(site.build / "disk.img"), "--backend", "guestfs")
    with subprocess.Popen(
        command(*words, "--no-verify"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        lock = tmp_path / "build" / "demo" / ".lock"
        while not (lock.exists() and lock.read_text()):
            assert first.poll() is None
            time.sleep(0.05)
        second = invoke(tmp_path, *words)
        assert second.returncode == 8
        assert f"process {first.pid} is working on it" in second.stderr
        first.send_signal(signal.SIGTERM)
        assert first.wait(120) == 128 + signal.SIGTERM
    # The killed one left nothing that stands in the way.
    assert not (tmp_path / "build" / "demo" / ".work").exists()
    assert not (tmp_path / "build" / "demo" / "manifest.json").exists()


def test_a_registered_triple_is_verified_by_its_id(site: Site, tmp_path: Path) -> None:
    machine = ids(site.demo.stdout)[0]
    catalogue = str(site.directory / "catalogue")
    done = invoke(tmp_path, "verify", machine, "--json", IMAGE_PIPELINE_CATALOGUE=catalogue)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert {a["name"] for a in report["assertions"] if not a["passed"]} == set()
    assert list((tmp_path / "demo" / "verify").glob("*console.log"))


def test_a_whole_disk_is_made_and_registered(site: Site, tmp_path: Path) -> None:
    words = ["build", "demo", "--disk", str(site.build / "disk.img"), "--disk-image"]
    done = invoke(tmp_path, *words, "--no-verify", "upload", "--unverified", "--whole-disk")
    assert done.returncode == 0, done.stderr
    disk = tmp_path / "build" / "demo" / "demo-disk.raw"
    assert said("blkid", "-o", "value", "-s", "PTTYPE", "-p", disk) == "gpt\n"
    (found,) = read_mirror(tmp_path / "catalogue")
    assert found["sha256"] == sha256(disk)
