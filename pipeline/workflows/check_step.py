"""The boot checks of a build: of the triple as Nova would boot it, and of the whole disk."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import verify
from pipeline.core.checks import CheckReport, CheckTarget, Triple, WholeDisk
from pipeline.core.image import SUFFIXES, TRIPLE, Role
from pipeline.core.steps import Action, StepName
from pipeline.host.fingerprint import code_of, step_key
from pipeline.workflows.image_step import MadeFiles
from pipeline.workflows.job import Job
from pipeline.workflows.record_step import Digests
from pipeline.workflows.steps import Step


class BootCheck(Step[CheckReport | None]):
    """Boots exactly the files that were made; None when nobody booted them and nobody shall."""

    target: CheckTarget
    step: StepName
    roles: tuple[Role, ...]

    def __init__(self, job: Job, files: Step[MadeFiles], digests: Digests) -> None:
        super().__init__(files, digests)
        self.job = job
        self.files = files
        self.digests = digests

    @property
    def key(self) -> str:
        """Digest of the files' key, what the guest is given, and the code that judges it."""
        recipe = self.job.request.recipe
        inputs = {
            "image": self.files.value.key,
            "command line": recipe.command_line,
            "user": recipe.user,
        }
        return step_key(self.step, inputs, code_of(__name__))

    def reuse(self) -> CheckReport | None:
        """The check of an earlier run that passed on exactly these files."""
        if not self.files.known:
            return None
        return self.job.workspace.lookup(self.step, self.key, CheckReport)

    def wanted(self) -> bool:
        """Whether the user wants a check, or an earlier run made it."""
        return self.job.request.verify or self.reuse() is not None

    def run(self) -> CheckReport:
        """Boot, and keep the outcome if it passed: a failure's cause may lie in the host."""
        made = self.files.value
        outcome = verify.verify(
            self._boots(made.files),
            acceleration=self.job.acceleration,
            minutes_per_boot=self.job.request.recipe.verify_minutes,
            evidence=self.job.directory / self.step,
            tools=self.job.tools,
        )
        digests = {str(r): a.sha256 for r, a in self.digests.value.items() if r in self.roles}
        report = outcome.record(self.target, digests)
        if report.passed:
            self.job.workspace.remember(self.step, self.key, [], report)
        return report

    def _boots(self, files: dict[Role, str]) -> Triple | WholeDisk:
        directory, recipe = self.job.directory, self.job.request.recipe
        if self.target == "disk":
            return WholeDisk(directory / files[Role.DISK], user=recipe.user)
        return Triple(
            machine=directory / files[Role.MACHINE],
            kernel=directory / files[Role.KERNEL],
            ramdisk=directory / files[Role.RAMDISK],
            command_line=recipe.command_line,
            user=recipe.user,
        )

    def _named(self) -> Triple | WholeDisk:
        """What would be booted, by the files' final names."""
        return self._boots({role: self.job.name + end for role, end in SUFFIXES.items()})

    def describe(self) -> Sequence[Action]:
        """The boots, or that they need not be repeated."""
        if self.known and self.value is not None:
            return [Action("repeat no boot check: it passed on exactly these bytes", reused=True)]
        if self.known:
            skip = "skip the boot check: `upload` will want --unverified"
            return [Action(skip)] if self.target == "triple" else []
        return [Action(self._what(), tuple(verify.plan(self._named(), self.job.acceleration)))]

    def _what(self) -> str:
        minutes = self.job.request.recipe.verify_minutes
        aids = "overlays by qemu-img, keys by ssh-keygen, a look inside by ssh and ssh-keyscan"
        return f"boot the three files, at most {minutes} min a boot ({aids})"


class CheckTriple(BootCheck):
    """The three files, as a cloud boots them."""

    name = step = StepName.VERIFY
    target = "triple"
    roles = TRIPLE


class CheckDisk(BootCheck):
    """The whole disk by its own boot loader, under BIOS and UEFI."""

    name = step = StepName.VERIFY_DISK
    target = "disk"
    roles = (Role.DISK,)

    def _what(self) -> str:
        return "boot the whole disk by its own boot loader"
