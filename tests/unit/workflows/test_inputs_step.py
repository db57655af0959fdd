"""What went into a build: the user's words without secrets, and a given disk's digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.builders.recipes import load_recipes
from pipeline.builds.manifest import InputsRecord, write_manifest
from pipeline.builds.workspace import Workspace
from pipeline.core import settings
from pipeline.core.environment import FromEnvironment
from pipeline.core.errors import InputError
from pipeline.core.events import QuietProgress
from pipeline.core.material import Material
from pipeline.core.request import BuildRequest
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.workflows.image_step import FoundKernel, MadeFiles, MakeFiles
from pipeline.workflows.inputs_step import HashSource, words
from pipeline.workflows.install_step import disk_step
from pipeline.workflows.job import Job
from tests.fixtures.finished import check_report, finished_build

DEMO = load_recipes(PROJECT / "kickstart" / "recipes.toml")["demo"]


def test_no_value_of_a_variable_and_no_password_is_told() -> None:
    recipe = DEMO.model_copy(
        update={
            "variables": {"plain": "default-9", "secret": FromEnvironment(environment="ROOT_PW")},
            "trees": ("https://me:hunter2@mirror.example/os", "/srv/tree"),
        }
    )
    request = BuildRequest(recipe, variables={"plain": "given-7"}, root="vg/root")
    told = words(request)
    assert told["variables"] == ("plain", "secret")
    assert told["trees"] == ("https://me:****@mirror.example/os", "tree")
    assert told["root"] == "vg/root"
    for word in ("default-9", "given-7", "hunter2", "ROOT_PW"):
        assert word not in str(told)


def test_of_a_given_disk_its_name_alone_is_told() -> None:
    told = words(BuildRequest(DEMO, disk=Path("/home/me/disk.qcow2"), variables={"a": "1"}))
    assert told["disk"] == "disk.qcow2"
    assert not {"installer", "trees"} & set(told)
    assert "/home/me" not in str(told)


@pytest.mark.parametrize(("verify", "wanted"), [(True, True), (False, False)])
def test_a_given_disk_is_hashed_beside_the_boot_check(
    tmp_path: Path, verify: bool, wanted: bool
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"disk" * 5000)
    request = BuildRequest(DEMO, disk=disk, verify=verify)
    with Runner() as runner:
        job = Job(request, Workspace(tmp_path / "demo"), Tools(runner, QuietProgress(), tmp_path))
        first = disk_step(job)
        first.settle(first.run())
        step = HashSource(job, first, MakeFiles(job, first))
        assert step.wanted() is wanted
        (material,) = step.run()
    assert material.name == "disk.raw"
    assert material.sha256 == hashlib.sha256(disk.read_bytes()).hexdigest()


def test_a_builder_has_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGE_PIPELINE_BUILDER", raising=False)
    assert settings.builder().startswith("urn:")
    monkeypatch.setenv("IMAGE_PIPELINE_BUILDER", "https://example.org/ci")
    assert settings.builder() == "https://example.org/ci"
    for wrong in ("ci", "has space: x", "https:"):
        monkeypatch.setenv("IMAGE_PIPELINE_BUILDER", wrong)
        with pytest.raises(InputError, match="IMAGE_PIPELINE_BUILDER"):
            settings.builder()


def test_a_digest_that_was_written_down_is_not_taken_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"disk" * 5000)
    known = Material(name="disk.raw", sha256="ab" * 32)

    def step(request: BuildRequest, runner: Runner) -> HashSource:
        job = Job(request, Workspace(tmp_path / "demo"), Tools(runner, QuietProgress(), tmp_path))
        first = disk_step(job)
        first.settle(first.run())
        files = MakeFiles(job, first)
        files.settle(made)
        return HashSource(job, first, files)

    manifest = finished_build(
        tmp_path / "demo",
        inputs=InputsRecord(parameters={}, materials=(known,), builder="urn:x"),
        checks=(),
    )
    kernel = FoundKernel(kernel_version="1", chosen="", architecture="x86_64")
    made = MadeFiles(
        key=manifest.recipe.digest,
        files={},
        waiting=False,
        source=manifest.source,
        root=manifest.root,
        kernel=kernel,
        customization=manifest.customization,
        tools={},
    )
    quick, proved = (BuildRequest(DEMO, disk=disk, verify=v) for v in (False, True))
    with Runner() as runner:
        for request in (quick, proved):
            assert step(request, runner).wanted()
            assert step(request, runner).reuse() == (known,)
        # Of other files the manifest says nothing.
        made = made.model_copy(update={"key": "other"})
        assert step(proved, runner).wanted()
        assert step(proved, runner).reuse() is None
        # A build that was never proved gets its digest beside the boot check; one that was, not.
        made = made.model_copy(update={"key": manifest.recipe.digest})
        write_manifest(manifest.model_copy(update={"inputs": None}), tmp_path / "demo")
        assert not step(quick, runner).wanted()
        assert step(proved, runner).wanted()
        checked = manifest.model_copy(update={"inputs": None, "checks": (check_report(),)})
        write_manifest(checked, tmp_path / "demo")
        assert not step(proved, runner).wanted()
