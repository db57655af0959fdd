"""Every error a user can meet: what was attempted, on what, why it failed, what to do next.

Library code raises these; only the front door (frontdoor.py) prints them and chooses the exit code.
"""

from __future__ import annotations

from os import PathLike, fspath


class PipelineError(Exception):
    """A failure with a next step, printed as one paragraph.

    attempted: a verb phrase that follows "Cannot", such as "read the partition table of".
    subject: the file, image or cloud it was done to; empty when the phrase says it all.
    why: the cause, one sentence without its full stop.
    next_step: what the user can do now, an imperative sentence without its full stop.
    """

    exit_code = 1

    def __init__(
        self, attempted: str, subject: str | PathLike[str] = "", *, why: str, next_step: str = ""
    ) -> None:
        self.attempted = attempted
        self.subject = fspath(subject)
        self.why = why.rstrip(".")
        self.next_step = next_step.rstrip(".")
        super().__init__(attempted, self.subject, self.why, self.next_step)

    def __str__(self) -> str:
        what = f"Cannot {self.attempted}" + (f" {self.subject}" if self.subject else "")
        end = "" if self.why.endswith("?") else "."
        return f"{what}: {self.why}{end}" + (f" {self.next_step}." if self.next_step else "")


class InputError(PipelineError):
    """A recipe, option or file given by the user is wrong; nothing was started."""

    exit_code = 2


class HostError(PipelineError):
    """This host lacks something: a program, space, permission."""

    exit_code = 3


class ProgramError(PipelineError):
    """An external program failed; `why` ends with what it said."""

    exit_code = 3


class InstallError(PipelineError):
    """The installer failed, hung or lied; subclasses in pipeline/install say which."""

    exit_code = 4


class DiskError(PipelineError):
    """A disk, volume group or file system is damaged or of a kind that is not supported."""

    exit_code = 5


class GuestError(PipelineError):
    """The content of the root filesystem cannot be read or edited as asked."""

    exit_code = 5


class VerifyError(PipelineError):
    """The boot check refused the image set."""

    exit_code = 6


class CloudError(PipelineError):
    """A cloud refused, failed or lost something; `subject` names the cloud and the image."""

    exit_code = 7


class BusyError(PipelineError):
    """Another process holds the build or the catalogue."""

    exit_code = 8
