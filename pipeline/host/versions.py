"""Versions of the external programs a build used, for its manifest."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence

from pipeline.core.errors import PipelineError
from pipeline.host.programs import Runner

_COMMANDS = {
    "apt": ("apt-get", "--version"),
    "dnf": ("dnf", "--version"),
    "e2fsprogs": ("e2fsck", "-V"),
    "qemu": ("qemu-system-x86_64", "--version"),
    "virt-install": ("virt-install", "--version"),
}
_VERSION = re.compile(r"\d+(?:\.\d+)+")


def tool_versions(run: Runner, names: Sequence[str]) -> dict[str, str]:
    """Versions by name, Python's too; "" for a program that does not tell. names: of _COMMANDS."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            done = run.run(_COMMANDS[name], timeout=60)
        except PipelineError:
            versions[name] = ""
        else:
            found = _VERSION.search((done.stdout + done.stderr).decode(errors="replace"))
            versions[name] = found[0] if found else ""
    return versions
