"""Which ids of this host a guest's files may have: ranges that belong to nobody's own files.

Sources: subuid(5), newuidmap(1), user_namespaces(7); systemd's "Users, Groups, UIDs and GIDs".
"""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import HostError
from pipeline.core.resources import COMMAND
from pipeline.host.programs import Runner
from pipeline.host.requirements import find

WHOLE = 65536
"""Ids that a system needs: 0 to 65534, nobody's, and 65535."""
_LEAST = 1000  # the ids of packages; a guest with fewer cannot be installed
_FOREIGN = 0x7FFE0000  # systemd's range for trees of foreign systems, whose owner is no user here
_FILES = {"uid": Path("/etc/subuid"), "gid": Path("/etc/subgid")}


_SETTINGS = (
    ("user/max_user_namespaces", "0", WHOLE),
    ("kernel/unprivileged_userns_clone", "0", 1),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", 0),
)
"""Of /proc/sys: the value that forbids user namespaces, and one that allows them."""


@dataclass(frozen=True)
class Range:
    """Ids of the host from `first`, `count` of them."""

    first: int
    count: int


def ordinary_range(kind: str, run: Runner) -> Range:
    """The calling user's subordinate ids, "uid" or "gid"; HostError where there are none."""
    me = os.getuid() if kind == "uid" else os.getgid()
    entries = own_entries(_FILES[kind]) or _asked(kind, run)
    usable = [entry for entry in entries if not entry.first <= me < entry.first + entry.count]
    best = max(usable, key=lambda entry: min(entry.count, WHOLE), default=Range(0, 0))
    if best.count < _LEAST:
        user, option = _user() or str(os.getuid()), f"--add-sub{kind}s"
        raise HostError(
            "isolate programs of packages",
            why=f"{_FILES[kind]} gives {user} {best.count} ids"
            if best.count
            else f"{_FILES[kind]} gives {user} no ids",
            next_step=f"As root: usermod {option} {_free(_FILES[kind])} {user}",
        )
    return Range(best.first, min(best.count, WHOLE))


def root_range() -> Range:
    """For root: its subordinate ids, or the range of foreign systems, or, where this is a container
    that has neither, the ids that are there."""
    there = [
        Range(int(first), int(count))
        for first, _, count in (
            line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()
        )
    ]
    wanted = [*own_entries(_FILES["uid"]), Range(_FOREIGN, WHOLE)]
    groups = [*own_entries(_FILES["gid"]), Range(_FOREIGN, WHOLE)]
    for entry in wanted:
        fits = any(
            part.first <= entry.first and entry.first + WHOLE <= part.first + part.count
            for part in there
        )
        if fits and entry.count >= WHOLE and entry in groups:
            return Range(entry.first, WHOLE)
    count = next((part.count for part in there if part.first == 0), 0)
    if count < _LEAST:
        raise HostError(
            "isolate programs of packages",
            why=f"this container has {count} ids, a system needs {WHOLE}",
            next_step=f"Start the container with a larger range of ids, or run {COMMAND} on the"
            " host as an ordinary user",
        )
    return Range(0, min(count, WHOLE))


def own_entries(path: Path) -> list[Range]:
    """The lines of subuid(5) for the calling user, by name or by number."""
    mine = {str(os.getuid()), _user()} - {""}
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            name, _, numbers = line.strip().partition(":")
            first, _, count = numbers.partition(":")
            if name in mine and first.isdecimal() and count.isdecimal():
                found.append(Range(int(first), int(count)))
    return found


def remedy(step: str) -> str:
    """What mends a step of the isolation that failed, from what this host's settings are."""
    for name, bad, good in _SETTINGS:
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == bad:
                return f"As root: sysctl {name.replace('/', '.')}={good}"
    if "map" in step:
        return "As root: apt-get install --reinstall uidmap; look at /etc/subuid and"
        " /etc/subgid"
    if "overlayfs" in step:
        return "Use a directory on ext4, XFS or btrfs, and Linux 5.11 or newer"
    if "emulator" in step:
        return "As root: apt-get install qemu-user-static binfmt-support; or use Linux 6.7 or newer"
    return "Run it on a host, or in a container that may make user namespaces and mounts"


def _asked(kind: str, run: Runner) -> list[Range]:
    """What getsubids(1) says, which also asks a directory service."""
    name = _user()
    if not name or not find("getsubids"):
        return []
    argv = ["getsubids", *(["-g"] if kind == "gid" else []), name]
    lines = run.run(argv, timeout=30, ok=range(256), noted=False).text.splitlines()
    words = [line.split() for line in lines]  # "0: user 100000 65536"
    return [Range(int(w[-2]), int(w[-1])) for w in words if len(w) == 4 and w[-1].isdecimal()]


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _free(path: Path) -> str:
    """A range behind all that is given to anybody, as usermod(8) takes it."""
    end = 100000
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            words = line.strip().split(":")
            if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
                end = max(end, int(words[1]) + int(words[2]))
    return f"{end}-{end + WHOLE - 1}"
