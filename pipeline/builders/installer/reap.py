"""Kills the qemu of one build: imported by domain.py, and run by the supervisor as a script.

usage: reap.py UUID

libvirt starts qemu in a session of its own, so neither the death of virt-install nor a signal to
its process group ends it. Each build's domain has a random UUID, which qemu gets as an argument.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path


def is_guest(pid: int, uuid: str) -> bool:
    """Whether the process is a qemu that was given `-uuid UUID`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    wanted = uuid.encode()
    return b"qemu" in words[0] and any(
        words[n : n + 2] == [b"-uuid", wanted] for n in range(len(words))
    )


def guest_pids(uuid: str) -> list[int]:
    """Process ids of the build's qemu; libvirt's forks of it may show up for a moment too."""
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in numbers if is_guest(pid, uuid)]


def reap(uuid: str) -> bool:
    """SIGKILL them; whether there were any. A process descriptor keeps the number from reuse."""
    found = False
    for pid in guest_pids(uuid):
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if is_guest(pid, uuid):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    found = True
            finally:
                os.close(descriptor)
    return found


if __name__ == "__main__":
    reap(sys.argv[1])
