"""All that the product needs of a host, gathered from the rooms that declare it."""

from __future__ import annotations

import importlib
import textwrap

from pipeline.host.requirements import Requirement, declare

ROOMS = (
    "pipeline.host.requirements",
    "pipeline.host.isolation",
    "pipeline.host.emulation",
    "pipeline.builders.installer.domain",
    "pipeline.builders.demo.contents",
    "pipeline.builders.packages.apt.config",
    "pipeline.builders.packages.dnf.backend",
    "pipeline.convert.extract",
    "pipeline.disk.foreign.server",
    "pipeline.convert.grub",
    "pipeline.guest.access.libguestfs",
    "pipeline.guest.boot.ramdisk",
    "pipeline.guest.customize.selinux",
    "pipeline.verify.check",
    "pipeline.workflows.requirements",
)
"""The modules that declare what they need; a test holds that these are all."""
_ALWAYS = ("util-linux", "coreutils")  # essential packages of Debian, never to be installed
_HEAD = """\
# What `./invoke` installs with apt on its first run, one name a line.
# Written by `./invoke docs` from what the rooms of pipeline/ declare; do not edit.
"""

REQUIRES = declare(
    Requirement(
        "python",
        "Python and the certificates of the system",
        packages=("python3-venv", "ca-certificates"),
    )
)


def requirements() -> tuple[Requirement, ...]:
    """Every room's needs, in the order of the rooms."""
    modules = [importlib.import_module(room) for room in ROOMS]
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Requirement)
    )


def packages(requirement: Requirement) -> tuple[str, ...]:
    """The Debian packages of a requirement, each once, in its order."""
    named = (
        *requirement.programs.values(),
        *requirement.unchecked.values(),
        *requirement.packages,
    )
    return tuple(dict.fromkeys(name for name in named if name not in _ALWAYS))


def debian_packages() -> str:
    """setup/debian-packages.txt: every package once, below what it is for, but those on demand."""
    seen: set[str] = set()
    text = [_HEAD.rstrip()]
    for requirement in requirements():
        if requirement.on_demand:
            continue
        new = [name for name in packages(requirement) if name not in seen]
        if new:
            text.append(
                "\n".join(
                    textwrap.wrap(requirement.why, 98, initial_indent="# ", subsequent_indent="# ")
                )
            )
            text += new
            seen.update(new)
    return "\n".join(text) + "\n"
