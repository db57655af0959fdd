"""How much memory there is for programs and the page cache."""

from __future__ import annotations

import contextlib
from pathlib import Path

_SHARE = 8
_CGROUPS = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUP = Path("/proc/self/cgroup")


def available() -> int:
    """Bytes: MemAvailable (proc(5)), or the limit of the own control group if that is less.

    Source of the limit: memory.max of Linux, Documentation/admin-guide/cgroup-v2.rst.
    """
    facts = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
    return min([int(facts["MemAvailable"].split()[0]) << 10, *_limits()])


def _limits() -> list[int]:
    """memory.max of the own control group, and of the topmost one that a container sees."""
    groups = {_CGROUPS}
    with contextlib.suppress(OSError):
        for line in _OWN_GROUP.read_text().splitlines():
            if line.startswith("0::/"):
                groups.add(_CGROUPS / line.removeprefix("0::/"))
    found = []
    for group in groups:
        # "max", or no such file, is no limit.
        with contextlib.suppress(OSError, ValueError):
            found.append(int((group / "memory.max").read_text()))
    return found


def outgrows_cache(size: int) -> bool:
    """Whether a file of `size` bytes is better read and written past the page cache.

    Kept there, a file of more than an eighth of the memory displaces what is of more use, itself in
    the end; and in a virtual machine whose host takes unused memory back, fresh pages cost more
    than the disk does.
    """
    try:
        return size > available() // _SHARE
    except (OSError, KeyError, ValueError):  # without /proc nobody can tell
        return False
