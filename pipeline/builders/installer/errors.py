"""Ways an install can fail. Each says what happened, where the evidence lies and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import InstallError

_SHOWN = 5  # lines of the console in a message; the rest is in the file


class InstallFailure(InstallError):
    """An install that was started and did not succeed.

    evidence: existing files, the console log first. lines: the console's last words, masked.
    """

    advice = "Read the console log"

    def __init__(
        self,
        recipe: str,
        why: str,
        *,
        evidence: Sequence[Path] = (),
        lines: Sequence[str] = (),
        advice: str = "",
    ) -> None:
        self.evidence = tuple(evidence)
        self.lines = tuple(lines)
        tail = [line.strip() for line in lines if line.strip()][-_SHOWN:]
        said = f"; the console said: {' | '.join(tail)}" if tail else ""
        where = f" (evidence: {', '.join(map(str, evidence))})" if evidence else ""
        super().__init__(
            "install", recipe, why=why + said, next_step=(advice or self.advice) + where
        )


class AbortedError(InstallFailure):
    """The guest left by itself, by power-off or reboot, before the last %post had run."""

    advice = "Look in the console log for the step that failed and correct the answer file"


class AnswersUnreadError(AbortedError):
    """The guest left, or waits, without ever having read the answer file."""

    advice = (
        "Check the recipe's answers_argument and installer_arguments, and that the tree is of the "
        "release the recipe names"
    )


class FatalMessageError(InstallFailure):
    """The installer said that it cannot go on."""

    advice = "Correct what the installer complains about"


class PanicError(InstallFailure):
    """The guest's kernel panicked."""

    advice = "Try more memory_mib, another tree, or IMAGE_PIPELINE_ACCEL=tcg"


class HangError(InstallFailure):
    """No console output, disk or network activity for the recipe's quiet_minutes."""

    advice = (
        "See the screen picture: a dialog there waits for an answer the answer file lacks; raise "
        "quiet_minutes if the installer is merely slow"
    )


class TimeLimitError(InstallFailure):
    """The install did not end within install_minutes."""

    advice = "Raise install_minutes if the phases were still advancing"


class RebootLoopError(InstallFailure):
    """The guest restarted again and again without finishing."""

    advice = "Read the console log from its last restart on"


class GuestKilledError(InstallFailure):
    """qemu ended, or was destroyed, from outside the guest."""

    advice = "See the host's log for the out-of-memory killer; lower memory_mib or free memory"


class LibvirtLostError(InstallFailure):
    """virt-install or libvirt died while the guest ran."""

    advice = "Try again; if it happens again, see the virt-install log"


class VirtInstallError(InstallFailure):
    """virt-install refused or failed to start the guest."""

    advice = "See the virt-install log"


class DiskSpaceError(InstallFailure):
    """The guest was paused because the host could not write its disk."""

    advice = "Free space where the build lies, or set IMAGE_PIPELINE_BUILD to a larger file system"


class EmptyDiskError(InstallFailure):
    """The installer reported success and left a disk without a partition table or content."""

    advice = "Check that the answer file installs to the first virtio disk (vda)"


class ConsoleFloodError(InstallFailure):
    """The guest wrote more to its console than any installer does."""

    advice = "Read the console log for the message that repeats"
