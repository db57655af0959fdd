"""How many bytes a process has moved over TCP: the network side of "is the guest alive?".

User-mode networking has no interface on the host to count on; the guest's connections are
sockets of qemu, whose counters ss(8) shows.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.host.programs import Runner

# All TCP sockets, one a line, with inode (-e) and tcp_info (-i), nothing resolved to names.
_SS = ("ss", "--no-header", "--oneline", "--tcp", "--numeric", "--extended", "--info")
_SECONDS = 10
_INODE = re.compile(r"\bino:(\d+)")
_BYTES = re.compile(r"\bbytes_(?:acked|received):(\d+)")


def tcp_bytes(pid: int, run: Runner) -> int | None:
    """Bytes sent and received by the open TCP connections of a process; None if unknown.

    It falls when a connection closes: a change means activity, its size does not matter.
    """
    try:
        inodes = _socket_inodes(pid)
        listing = run.run(_SS, timeout=_SECONDS, noted=False).stdout.decode(errors="replace")
    except (OSError, PipelineError):
        return None
    total = 0
    for line in listing.splitlines():
        found = _INODE.search(line)
        if found and int(found[1]) in inodes:
            total += sum(int(count) for count in _BYTES.findall(line))
    return total


def _socket_inodes(pid: int) -> set[int]:
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(entry.readlink())
            if name.startswith("socket:["):
                inodes.add(int(name[8:-1]))
    return inodes
