"""Every error a user can meet: what was attempted, on what, why it failed, what to do next.

Library code raises these; only a command's session (cli/session.py) prints them and ends the
process with their exit code.
"""

from __future__ import annotations

from enum import IntEnum
from os import PathLike, fspath
from typing import ClassVar


class ExitCode(IntEnum):
    """How a command ends; 128+N stands for signal N."""

    DONE = 0
    INTERNAL = 1
    INPUT = 2
    HOST = 3
    INSTALL = 4
    DISK = 5
    VERIFY = 6
    CLOUD = 7
    BUSY = 8


class PipelineError(Exception):
    """A failure with a next step, printed as one paragraph.

    attempted: a verb phrase that follows "Cannot", such as "read the partition table of".
    subject: the file, image or cloud it was done to; empty when the phrase says it all.
    why: the cause, one sentence without its full stop.
    next_step: what the user can do now, an imperative sentence without its full stop.
    """

    exit_code: ClassVar[int] = ExitCode.INTERNAL
    kind: ClassVar[str] = "internal"
    """One word for programs, the same in every release."""

    def __init__(
        self, attempted: str, subject: str | PathLike[str] = "", *, why: str, next_step: str = ""
    ) -> None:
        self.attempted = attempted
        self.subject = fspath(subject)
        self.why = why.rstrip(".")
        self.next_step = next_step.rstrip(".")
        super().__init__(attempted, self.subject, self.why, self.next_step)

    def record(self) -> dict[str, str]:
        """The error for programs: kind, attempted, subject, why and next_step."""
        return {
            "kind": self.kind,
            "attempted": self.attempted,
            "subject": self.subject,
            "why": self.why,
            "next_step": self.next_step,
        }

    def __str__(self) -> str:
        what = f"Cannot {self.attempted}" + (f" {self.subject}" if self.subject else "")
        end = "" if self.why.endswith("?") else "."
        return f"{what}: {self.why}{end}" + (f" {self.next_step}." if self.next_step else "")


class InputError(PipelineError):
    """A recipe, option or file given by the user is wrong; nothing was started."""

    exit_code = ExitCode.INPUT
    kind = "input"


class HostError(PipelineError):
    """This host lacks something: a program, space, permission."""

    exit_code = ExitCode.HOST
    kind = "host"


class ProgramError(PipelineError):
    """An external program failed; `why` ends with what it said."""

    exit_code = ExitCode.HOST
    kind = "program"


class InstallError(PipelineError):
    """The installer failed, hung or lied; subclasses in builders/installer say which."""

    exit_code = ExitCode.INSTALL
    kind = "install"


class DiskError(PipelineError):
    """A disk, volume group or file system is damaged or of a kind that is not supported."""

    exit_code = ExitCode.DISK
    kind = "disk"


class GuestError(PipelineError):
    """The content of the root filesystem cannot be read or edited as asked."""

    exit_code = ExitCode.DISK
    kind = "guest"


class VerifyError(PipelineError):
    """The boot check refused the image."""

    exit_code = ExitCode.VERIFY
    kind = "verify"


class CloudError(PipelineError):
    """A cloud refused, failed or lost something; `subject` names the cloud and the image."""

    exit_code = ExitCode.CLOUD
    kind = "cloud"


class BusyError(PipelineError):
    """Another process holds the build or the catalogue."""

    exit_code = ExitCode.BUSY
    kind = "busy"
