"""The first step of a build: the disk that was given, or one that is installed."""

from __future__ import annotations

import secrets as random
import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel

from pipeline.builders import installer
from pipeline.builders.installer.answers import Answers, render
from pipeline.convert.extract import open_format
from pipeline.core.image import DiskImage
from pipeline.core.steps import StepName
from pipeline.core.text import human_bytes
from pipeline.host.files import write_whole
from pipeline.host.fingerprint import step_key
from pipeline.host.versions import tool_versions
from pipeline.workflows.job import Job
from pipeline.workflows.steps import Action, Step


class InstalledDisk(BaseModel):
    """A disk with a system on it. versions: of the programs that installed it, by name."""

    path: Path
    format: str
    versions: dict[str, str] = {}

    @property
    def image(self) -> DiskImage:
        """The disk as `extract` takes it."""
        return DiskImage(self.path, self.format)  # type: ignore[arg-type] # raw or qcow2


class GivenDisk(Step[InstalledDisk]):
    """The disk of --disk, which is only read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def run(self) -> InstalledDisk:
        """Look at its format."""
        disk = open_format(self.path)
        return InstalledDisk(path=disk.path, format=disk.format)

    def foresee(self) -> InstalledDisk:
        """The disk is there already."""
        return self.run()

    def describe(self) -> Sequence[Action]:
        """One action: it is read."""
        disk = self.value
        size = human_bytes(disk.path.stat().st_blocks * 512)
        return [Action(f"read the {disk.format} disk {disk.path}, {size} allocated")]


class Install(Step[InstalledDisk]):
    """A fresh install, or the disk that an earlier run installed from the same inputs."""

    name = StepName.INSTALL

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.disk = job.directory / "disk.img"

    @cached_property
    def _tree(self) -> installer.Tree:
        return installer.obtain(self.job.request.recipe, self.job.tools)

    @cached_property
    def _answers(self) -> Answers:
        return render(
            self.job.request.recipe,
            nonce=random.token_hex(16),
            overrides=self.job.request.variables,
            builtins=self._tree.variables,
        )

    @cached_property
    def key(self) -> str:
        """Obtains the install tree, whose identity is part of it."""
        recipe = self.job.request.recipe
        return step_key("install", installer.identity(recipe, self._answers, self._tree))

    def reuse(self) -> InstalledDisk | None:
        """The disk of an earlier run, if no input of the install changed."""
        return self.job.workspace.lookup(StepName.INSTALL, self.key, InstalledDisk)

    def run(self) -> InstalledDisk:
        """Install."""
        job, recipe = self.job, self.job.request.recipe
        job.workspace.invalidate(StepName.INSTALL)
        write_whole(job.directory / self._answers.file_name, self._answers.saved)
        installer.install(
            recipe,
            self._answers,
            self._tree,
            self.disk,
            job.acceleration,
            job.tools,
            evidence=job.directory / StepName.INSTALL,
        )
        versions = tool_versions(job.tools.run, ["qemu", "virt-install"])
        disk = InstalledDisk(path=self.disk, format="raw", versions=versions)
        job.workspace.remember(StepName.INSTALL, self.key, [self.disk], disk)
        return disk

    def foresee(self) -> InstalledDisk | None:
        """The disk that is there; whether it fits shows only when the install tree is obtained."""
        render(self.job.request.recipe, nonce="0" * 32, overrides=self.job.request.variables)
        if self.job.request.fresh or not self.disk.exists():
            return None
        return InstalledDisk(path=self.disk, format="raw")

    def describe(self) -> Sequence[Action]:
        """Answers, tree, virt-install, disk."""
        recipe, disk = self.job.request.recipe, self.disk
        tree = "make the stand-in install tree from this host's packages"
        if recipe.trees:
            tree = "use the first install tree that answers: " + ", ".join(recipe.trees)
        size = f"a sparse disk of {recipe.disk_gib} GiB"
        keeps = f"keep the installed disk as {disk}"
        if self.known:
            taken = human_bytes(disk.stat().st_blocks * 512)
            keeps = (
                f"{disk} is there, {taken}: if no input of the install changed, it is used instead"
            )
        return [
            Action(f"check and fill in {recipe.answers}"),
            Action(tree),
            Action(
                f"install on {size} with {recipe.memory_mib} MiB of memory, at most"
                f" {recipe.install_minutes} min",
                (shlex.join(installer.plan(recipe, None, self.job.acceleration)),),
            ),
            Action(keeps),
        ]
