"""The steps of a build, by name, and what a dry run says of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StepName(StrEnum):
    """What a build does, in its order. A name is also that of the step's folder or cache entry.

    EXTRACT, CUSTOMIZE and ASSEMBLE are parts of IMAGE; DIGESTS, SOURCE and INVENTORY run beside the
    boot checks.
    """

    INSTALL = "install"
    IMAGE = "image"
    EXTRACT = "extract"
    CUSTOMIZE = "customize"
    ASSEMBLE = "disk image"
    DIGESTS = "digests"
    SOURCE = "source digest"
    INVENTORY = "inventory"
    VERIFY = "verify"
    VERIFY_DISK = "verify-disk"


OUTER = (
    StepName.INSTALL,
    StepName.IMAGE,
    StepName.DIGESTS,
    StepName.SOURCE,
    StepName.INVENTORY,
    StepName.VERIFY,
    StepName.VERIFY_DISK,
)
"""Those that are no part of another."""


@dataclass(frozen=True)
class Action:
    """One line of a dry run.

    what: a sentence's predicate. commands: ready to read, with words in capitals for what is made
    on the way. reused: an earlier run did it.
    """

    what: str
    commands: tuple[str, ...] = ()
    reused: bool = False
