"""The stage's public functions."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import VerifyError
from pipeline.model import Acceleration
from pipeline.stage import Tools
from pipeline.verify.report import Triple, VerifyReport, WholeDisk

_EARLY = "the boot check is not in this revision yet"


def verify(
    triple: Triple,
    *,
    acceleration: Acceleration,
    minutes_per_boot: int,
    evidence: Path,
    tools: Tools,
    keep: bool = False,
) -> VerifyReport:
    """Boot the triple four times and report; a failing assertion does not raise.

    minutes_per_boot: how long one boot may take to reach SSH. evidence: a directory for console
    logs and screen pictures, made if missing. keep: leave the overlays in `evidence` too.
    Raises HostError or ProgramError when this host cannot run the check.
    """
    raise VerifyError("boot", triple.machine, why=_EARLY)


def verify_disk(
    disk: WholeDisk,
    *,
    acceleration: Acceleration,
    minutes_per_boot: int,
    evidence: Path,
    tools: Tools,
    keep: bool = False,
) -> VerifyReport:
    """As `verify`, for a disk that boots through its own boot loader under each firmware."""
    raise VerifyError("boot", disk.disk, why=_EARLY)


def plan(triple: Triple | WholeDisk, acceleration: Acceleration) -> list[str]:
    """The qemu command lines `verify` would run, ready to read; for dry runs."""
    raise VerifyError("plan the boots of", why=_EARLY)


def console(
    triple: Triple | WholeDisk,
    *,
    acceleration: Acceleration,
    tools: Tools,
    overlay: Path | None = None,
) -> int:
    """An interactive boot: the guest's serial console on this terminal; qemu's exit status.

    overlay: a kept overlay to go on from; None for a fresh one that is thrown away.
    """
    raise VerifyError("boot", why=_EARLY)
