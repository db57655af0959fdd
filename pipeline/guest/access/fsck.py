"""What the file system checkers find, told apart from their not being able to look.

An exit status alone is no verdict: xfs_repair leaves with the status of damage when it does not
know a feature, e2fsck with that of an operational error when a file system is newer than itself,
and with that of a clean one when it corrected something and began again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DiskError, HostError
from pipeline.guest.access.paths import shown
from pipeline.host.context import Tools
from pipeline.host.programs import refuse_full

_MENDED, _DAMAGED, _CANNOT = 1 | 2, 4, 8  # of e2fsck's exit status (e2fsck(8))
_TOO_NEW = (  # in whole sentences of e2fsck and xfs_repair
    "unsupported feature",
    "newer version of e2fsck",
    "unknown compat/rocompat/incompat features",
    "unsupported filesystem features",
)
_PREENS = "-p"
_WORDS = 600


@dataclass(frozen=True)
class Finding:
    """mended: something was corrected. damaged: something is wrong now. words: the checker's."""

    mended: bool
    damaged: bool
    words: str


def e2fsck(image: Path, tools: Tools, *options: str, timeout: float) -> Finding:
    """Run e2fsck with these options on an ext file system.

    Raises DiskError when this host's e2fsck is too old for it or cannot open it, HostError when
    it does not work.
    """
    argv: list[str | Path] = ["e2fsck", *options, image.absolute()]
    status, lines = _said(argv, tools, timeout)
    words = _shown(lines)
    if status & _DAMAGED or not status & ~_MENDED:
        # Preening says one line, of sums, about a file system that it leaves as it is.
        mended = bool(status & _MENDED) or (_PREENS in options and len(lines) > 1)
        return Finding(mended, bool(status & _DAMAGED), words)
    if status & _CANNOT:
        raise DiskError(
            "check the file system in",
            image,
            why=f"e2fsck cannot open it: {words}",
            next_step="Repair it on the disk itself (e2fsck -f), look at what was lost, try again",
        )
    raise _failed("e2fsck", image, status, words)


def xfs_repair(image: Path, tools: Tools, *, timeout: float) -> Finding:
    """Have xfs_repair look at an XFS without changing it; raises what `e2fsck` does."""
    argv: list[str | Path] = ["xfs_repair", "-n", "-f", image.absolute()]
    status, lines = _said(argv, tools, timeout)
    words = _shown(lines)
    if status not in (0, 1, 2):  # 2: a log that was not replayed (xfs_repair(8))
        raise _failed("xfs_repair", image, status, words)
    return Finding(mended=False, damaged=status != 0, words=words)


def _said(argv: list[str | Path], tools: Tools, timeout: float) -> tuple[int, list[str]]:
    """Exit status and lines; DiskError if the program does not know the file system."""
    done = tools.run.run(argv, timeout=timeout, ok=range(256))
    lines = (done.stdout or done.stderr).decode(errors="replace").split("\n")
    # e2fsck writes its own version to standard error, and its errors.
    words = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode and any(mark in " ".join(words.split()) for mark in _TOO_NEW):
        raise DiskError(
            "check the file system in",
            argv[-1],
            why=f"it has features that this host's {argv[0]} does not know: "
            f"{_shown(words.splitlines())}",
            next_step=f"Build on a host with a newer {argv[0]}, or install on a file system made "
            "without them",
        )
    if done.returncode & ~_MENDED:
        refuse_full(done.argv)
        lines = words.split("\n")
    return done.returncode, [line for line in lines if line.strip()]


def _shown(lines: Iterable[str]) -> str:
    """The end of what a program said, in one line."""
    return shown(" ".join(" ".join(lines).split())[-_WORDS:])


def _failed(program: str, image: Path, status: int, words: str) -> HostError:
    return HostError(
        "check the file system in",
        image,
        why=f"{program} did not finish (exit status {status}): {words}",
        next_step=f"Run {program} on it by hand to see what is in its way",
    )
