"""Builds a recipe: install, take the root out, make it an image, boot it, write it down.

Only this module knows the order. `plan_build` gives it as a list of steps, which `build` executes
and `plan` describes. Four steps are remembered: the installed disk, the files made from it, and the
boot checks of exactly those files; each is done again when an input, a template or the code behind
it changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.builds.manifest import FILE, Manifest
from pipeline.builds.workspace import REPORT, Workspace
from pipeline.core.checks import CheckReport
from pipeline.core.errors import VerifyError
from pipeline.core.events import Progress
from pipeline.core.request import BuildRequest
from pipeline.core.resources import COMMAND
from pipeline.core.secrets import Secrets
from pipeline.core.steps import Action, StepName
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.workflows.check_step import BootCheck, CheckDisk, CheckTriple
from pipeline.workflows.image_step import MakeFiles
from pipeline.workflows.inputs_step import HashSource
from pipeline.workflows.install_step import disk_step
from pipeline.workflows.job import Job, build_directory
from pipeline.workflows.record_step import Digests, TakeInventory, WriteDown
from pipeline.workflows.steps import Step, describe_all, execute


def plan_build(job: Job) -> list[Step[Any]]:
    """The steps of a build, in their order; the last one's value is the manifest."""
    disk = disk_step(job)
    files = MakeFiles(job, disk)
    digests = Digests(job, files)
    source = HashSource(job, disk, files)
    contents = TakeInventory(job, files)
    checks: list[BootCheck] = [CheckTriple(job, files, digests)]
    if job.request.wants_disk:
        checks.append(CheckDisk(job, files, digests))
    last = WriteDown(job, disk, files, digests, source=source, contents=contents, checks=checks)
    return [disk, files, digests, source, contents, *checks, last]


def build(request: BuildRequest, progress: Progress, secrets: Secrets) -> Manifest:
    """Build the recipe in build/NAME and return its manifest.

    A boot check that fails leaves the files with a manifest that says so and raises VerifyError.
    """
    directory = build_directory(request)
    workspace = Workspace(directory)
    echo = progress.say if request.verbose else None
    with (
        workspace.open(),
        Runner(directory / "commands.log", secrets, echo) as runner,
    ):
        job = Job(request, workspace, Tools(runner, progress, workspace.scratch))
        if request.fresh:
            remembered = StepName.INSTALL, StepName.IMAGE, StepName.VERIFY, StepName.VERIFY_DISK
            job.workspace.invalidate(*remembered)
        before = _written(directory)
        steps = plan_build(job)
        execute(steps, job.clock)
        manifest: Manifest = steps[-1].value
        if _written(directory) != before or not (directory / REPORT).exists():
            _write_report(directory)
    for check in manifest.failed_checks:
        raise _refused(check, manifest.name, directory)
    return manifest


def _written(directory: Path) -> bytes:
    """The manifest as it stands; nothing without one."""
    try:
        return (directory / FILE).read_bytes()
    except FileNotFoundError:
        return b""


def _write_report(directory: Path) -> None:
    # Imported where it is needed: a build that changes nothing does without the templates.
    from pipeline.builds.report import write_report

    write_report(directory)


def plan(request: BuildRequest, progress: Progress, secrets: Secrets) -> list[Action]:
    """What `build` would do; writes nothing in build/.

    The last action is `reused` when the finished build would stay as it is.
    """
    with tempfile.TemporaryDirectory() as scratch, Runner(secrets=secrets) as runner:
        workspace = Workspace(build_directory(request))
        job = Job(request, workspace, Tools(runner, progress, Path(scratch)))
        found = job.acceleration
        how = Action(f"run guests with {found.accelerator}: {found.reason}")
        return [how, *describe_all(plan_build(job))]


def unchanged(actions: Sequence[Action]) -> bool:
    """Whether the finished build stays as it is."""
    return actions[-1].reused


def _refused(check: CheckReport, name: str, directory: Path) -> VerifyError:
    step = StepName.VERIFY if check.target == "triple" else StepName.VERIFY_DISK
    what = "triple" if check.target == "triple" else "whole disk"
    option = "" if check.target == "triple" else " --whole-disk"
    return VerifyError(
        f"boot the {what}",
        name,
        why="; ".join(f"{a.name}: {a.detail}" for a in check.failures) or "the boot check failed",
        next_step=f"The consoles are in {directory / step}; "
        f"`{COMMAND} console {name}{option}` boots it on this terminal",
    )
