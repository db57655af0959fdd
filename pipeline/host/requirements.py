"""What the product needs of this host: each room declares its own needs, and all read one list.

`doctor`, `setup/debian-packages.txt` (and with it the set-up and the container), and the table in
docs/reference/configuration.md are made from what is declared here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.core.errors import HostError

_SYSTEM = "/usr/sbin:/sbin"


@dataclass(frozen=True)
class Requirement:
    """What one room needs.

    area: the task it is for, one or two words. why: a phrase for the list of packages. programs:
    each program's name -> the Debian package that brings it. packages: further Debian packages.
    needed: every build needs it; otherwise some builds do. unchecked: programs that come with
    others, so that `doctor` need not look for them. on_demand: large and seldom needed, so that the
    set-up leaves it to the user; the error that names it comes when it is missed.
    """

    area: str
    why: str
    programs: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    needed: bool = True
    unchecked: Mapping[str, str] = field(default_factory=dict)
    on_demand: bool = False


_DECLARED: list[Requirement] = []


def declare(requirement: Requirement) -> Requirement:
    """Make it known; a room calls this once, when it is imported."""
    if requirement not in _DECLARED:
        _DECLARED.append(requirement)
    return requirement


def package_of(program: str) -> str:
    """The Debian package that brings a program; "" where no room that was imported needs it."""
    for requirement in _DECLARED:
        found = requirement.programs.get(program) or requirement.unchecked.get(program)
        if found:
            return found
    return ""


def find(program: str, path: str | None = None) -> str:
    """The program's path, "" without one; /usr/sbin counts too, as ordinary users lack it."""
    where = path or f"{os.environ.get('PATH', '')}:{_SYSTEM}"
    return shutil.which(program, path=where) or ""


def require(program: str, path: str | None = None) -> None:
    """HostError that names the package unless `program` can be run."""
    if not find(program, path):
        package = package_of(program)
        raise HostError(
            "run",
            program,
            why="the program is not installed",
            next_step=f"Install it: apt-get install {package}" if package else "Install it",
        )


REQUIRES = declare(
    Requirement(
        "programs",
        "starting programs so that they end with the pipeline",
        programs={"setpriv": "util-linux"},
        unchecked={"blkid": "util-linux", "mkswap": "util-linux"},
    )
)
