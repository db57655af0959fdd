"""The first step of a build: the disk that was given, or one that a builder makes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel

from pipeline.builders.protocol import Builder
from pipeline.builders.registry import open_builder
from pipeline.core.image import DiskFormat, DiskImage
from pipeline.core.material import Material
from pipeline.core.steps import Action, StepName
from pipeline.core.text import human_bytes
from pipeline.host.fingerprint import step_key
from pipeline.workflows.job import Job
from pipeline.workflows.steps import Step


class InstalledDisk(BaseModel):
    """A disk with a system on it; the fields are those of `Built`."""

    path: Path
    format: DiskFormat
    versions: dict[str, str] = {}
    epoch: int | None = None
    layers: tuple[tuple[str, str], ...] = ()
    materials: tuple[Material, ...] = ()

    @property
    def image(self) -> DiskImage:
        """The disk as `extract` takes it."""
        return DiskImage(self.path, self.format)


def disk_step(job: Job) -> Step[InstalledDisk]:
    """The step that gives the disk of the job."""
    builder = open_builder(job.request, job.tools)
    if job.request.disk is not None:
        return GivenDisk(job, builder)
    return BuildDisk(job, builder)


class GivenDisk(Step[InstalledDisk]):
    """The disk of --disk, which is only read."""

    def __init__(self, job: Job, builder: Builder) -> None:
        super().__init__()
        self.job, self.builder = job, builder

    def run(self) -> InstalledDisk:
        """Look at its format."""
        disk = self.builder.given()
        assert disk is not None
        return InstalledDisk(path=disk.path, format=disk.format)

    def foresee(self) -> InstalledDisk:
        """The disk is there already."""
        return self.run()

    def describe(self) -> Sequence[Action]:
        """One action: it is read."""
        return self.builder.describe(self.job.acceleration)


class BuildDisk(Step[InstalledDisk]):
    """A fresh disk by the request's builder, or that of an earlier run from the same inputs."""

    name = StepName.INSTALL

    def __init__(self, job: Job, builder: Builder) -> None:
        super().__init__()
        self.job, self.builder = job, builder
        self.disk = job.directory / "disk.img"

    @cached_property
    def key(self) -> str:
        """Digest of what the builder says the disk depends on."""
        return step_key("install", self.builder.identity())

    def reuse(self) -> InstalledDisk | None:
        """The disk of an earlier run, if no input of the install changed."""
        return self.job.workspace.lookup(StepName.INSTALL, self.key, InstalledDisk)

    def run(self) -> InstalledDisk:
        """Build it."""
        job = self.job
        job.workspace.invalidate(StepName.INSTALL)
        built = self.builder.build(
            self.disk,
            acceleration=lambda: job.acceleration,
            evidence=job.directory / StepName.INSTALL,
            tools=job.tools,
        )
        disk = InstalledDisk(
            path=built.disk.path,
            format=built.disk.format,
            versions=dict(built.versions),
            epoch=built.epoch,
            layers=built.layers,
            materials=built.materials,
        )
        job.workspace.remember(StepName.INSTALL, self.key, [self.disk], disk)
        return disk

    def foresee(self) -> InstalledDisk | None:
        """The disk that is there; whether it fits shows only when the install tree is obtained."""
        self.builder.check()
        if self.job.request.fresh or not self.disk.exists():
            return None
        return InstalledDisk(path=self.disk, format="raw")

    def describe(self) -> Sequence[Action]:
        """What the builder does, and what becomes of the disk."""
        keeps = f"keep the installed disk as {self.disk}"
        if self.known:
            taken = human_bytes(self.disk.stat().st_blocks * 512)
            keeps = (
                f"{self.disk} is there, {taken}: if no input of the install changed, it is used"
                " instead"
            )
        return [*self.builder.describe(self.job.acceleration), Action(keeps)]
