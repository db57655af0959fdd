"""The boot check by itself, on a finished build, a registered triple, or files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline import verify
from pipeline.builds.history import directory_of
from pipeline.builds.manifest import (
    Manifest,
    read_manifest,
    write_manifest,
)
from pipeline.builds.report import write_report
from pipeline.builds.workspace import LOCK, Workspace
from pipeline.catalogue.lookup import local_files
from pipeline.core import settings
from pipeline.core.checks import CheckTarget, Triple, VerifyReport, WholeDisk
from pipeline.core.errors import BusyError, InputError
from pipeline.core.events import Progress
from pipeline.core.hardware import Hardware
from pipeline.core.image import TRIPLE, Acceleration, Role
from pipeline.core.resources import COMMAND
from pipeline.core.secrets import Secrets
from pipeline.core.steps import StepName
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.host.locks import exclusive
from pipeline.host.programs import Runner

_ID = re.compile(r"^ami-[0-9a-f]{17}$")
_MINUTES = 20  # a systemd guest without acceleration on a busy host
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Target:
    """What to boot.

    build: the finished build it belongs to, whose manifest gets the outcome. manifest: what that
    was when the files were looked up.
    """

    name: str
    boots: Triple | WholeDisk
    build: Path | None = None
    manifest: Manifest | None = None

    @property
    def step(self) -> StepName:
        """The step of a build that makes this check: where its consoles lie and what it stamps."""
        return StepName.VERIFY if isinstance(self.boots, Triple) else StepName.VERIFY_DISK

    @property
    def evidence(self) -> Path:
        """Where consoles and pictures of this check go unless the user says otherwise."""
        return (self.build or Path(self.name)) / self.step


def find_target(word: str, *, whole_disk: bool, user: str) -> Target:
    """A build's name, or an id of the local catalogue. InputError when it is neither.

    whole_disk: boot the build's bootable disk through its own boot loader. user: who gets the SSH
    key; "" for the build's own.
    """
    if _ID.match(word):
        found = local_files(word)
        return _target(
            found.name,
            found.files,
            found.command_line,
            user or "root",
            Hardware.of(found.properties, found.architecture),
            whole_disk=whole_disk,
        )
    directory = directory_of(settings.build_dir(), word)
    manifest = read_manifest(directory)
    images = manifest.image(directory)
    files = {str(a.role): a.path for a in images.artifacts if a.format == "raw"}
    user = user or manifest.customization.user
    hardware = images.hardware
    target = _target(word, files, images.command_line, user, hardware, whole_disk=whole_disk)
    return Target(target.name, target.boots, directory, manifest)


def _target(  # what a boot is made of
    name: str,
    files: dict[str, Path],
    command_line: str,
    user: str,
    hardware: Hardware,
    *,
    whole_disk: bool,
) -> Target:
    if whole_disk or "machine" not in files:
        if "disk" not in files:
            raise InputError(
                "boot the whole disk of",
                name,
                why="it has none",
                next_step=f"Run `{COMMAND} build {name} --disk-image`",
            )
        return Target(name, WholeDisk(files["disk"], user=user, hardware=hardware))
    return Target(
        name,
        Triple(
            files["machine"],
            files["kernel"],
            files["ramdisk"],
            command_line,
            user=user,
            hardware=hardware,
        ),
    )


def check(
    target: Target,
    evidence: Path,
    progress: Progress,
    secrets: Secrets,
    *,
    keep: bool,
    echo: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Boot it and report; a build gets the outcome into its manifest.

    echo: is given every program as it starts.
    """

    def look(tools: Tools, acceleration: Acceleration) -> VerifyReport:
        return verify.verify(
            target.boots,
            acceleration=acceleration,
            minutes_per_boot=_MINUTES,
            evidence=evidence,
            tools=tools,
            keep=keep,
        )

    report = _with_tools(look, target, progress, secrets, echo)
    if target.build is not None:
        record(target, report)
    return report


def record(target: Target, outcome: VerifyReport) -> None:
    """Write the outcome down for the build that was booted; after a failure it is booted again.

    BusyError when another run put other files in its place meanwhile.
    """
    assert target.build is not None
    assert target.manifest is not None
    of: CheckTarget = "triple" if isinstance(target.boots, Triple) else "disk"
    roles = TRIPLE if of == "triple" else (Role.DISK,)
    with exclusive(target.build / LOCK, f"the build {target.name}"):
        manifest = read_manifest(target.build)
        if _booted(manifest) != _booted(target.manifest):
            raise BusyError(
                f"write down the boot check of {target.name}",
                why="another run replaced its files while they were booted",
                next_step=f"Run `{COMMAND} verify {target.name}` again",
            )
        if not outcome.passed:
            Workspace(target.build).invalidate(target.step)
        report = outcome.record(of, manifest.digests(*roles))
        write_manifest(manifest.with_check(report), target.build)
        write_report(target.build)


def _booted(manifest: Manifest) -> tuple[dict[str, str], str]:
    """What a boot check speaks of."""
    return manifest.digests(), manifest.boot.command_line


def console(target: Target, progress: Progress, secrets: Secrets) -> int:
    """Boot it on this terminal; what the guest writes is thrown away."""
    return _with_tools(
        lambda tools, acceleration: verify.console(
            target.boots, acceleration=acceleration, tools=tools
        ),
        target,
        progress,
        secrets,
    )


def _with_tools(
    body: Callable[[Tools, Acceleration], _Result],
    target: Target,
    progress: Progress,
    secrets: Secrets,
    echo: Callable[[str], None] | None = None,
) -> _Result:
    with (
        tempfile.TemporaryDirectory(prefix="boot-check-") as scratch,
        Runner(None, secrets, echo) as run,
    ):
        tools = Tools(run, progress, Path(scratch))
        architecture = target.boots.hardware.architecture
        return body(tools, hypervisor.acceleration(tools, architecture=architecture))
