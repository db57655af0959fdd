"""Runs the product's own command line and does something to it at a chosen step: see bench.py.

usage: trampoline.py LOG POINT DEED -- INVOKE ARGUMENTS

Every step the interpreter announces to an audit hook (PEP 578) and that changes something outside
the process is counted: renames, deletions, files opened for writing, programs started, requests
sent. LOG gets one line a step. Just before step POINT (0: never) DEED is done:

    kill:NUMBER:process     the process gets the signal
    kill:NUMBER:group       its whole process group gets it
    fill:DIRECTORY:BYTES    the file system of the directory is filled but for that many bytes
    inodes:DIRECTORY        the tmpfs mounted there takes no further file
    descriptors:COUNT       the process may open that many more files
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

STEPS = frozenset(
    {
        "fcntl.flock",
        "http.client.send",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.symlink",
        "os.truncate",
        "shutil.rmtree",
        "socket.connect",
        "subprocess.Popen",
    }
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
HOG = ".hog"


def step(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether the event changes something outside the process."""
    if event == "open":
        flags = arguments[2] if len(arguments) > 2 else 0
        return isinstance(flags, int) and bool(flags & _WRITING)
    return event in STEPS


def do(deed: str) -> None:
    """Do what the module's text says."""
    kind, *words = deed.split(":")
    if kind == "kill":
        (os.killpg if words[1] == "group" else os.kill)(os.getpid(), int(words[0]))
    elif kind == "fill":
        status = os.statvfs(words[0])
        room = status.f_bavail * status.f_frsize - int(words[1])
        if room > 0:
            hog = os.open(f"{words[0]}/{HOG}", os.O_WRONLY | os.O_CREAT, 0o600)
            os.posix_fallocate(hog, 0, room)
            os.close(hog)
    elif kind == "inodes":
        status = os.statvfs(words[0])
        used = status.f_files - status.f_ffree
        subprocess.run(["mount", "-o", f"remount,nr_inodes={used}", words[0]], check=True)
    elif kind == "descriptors":
        used = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(words[0]), hard))
    else:
        raise ValueError(deed)


def main() -> None:
    """Install the hook, then become `invoke`."""
    log, point, deed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    # Whoever starts the harness in the background hands down ignored signals.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    lock = threading.Lock()
    busy = threading.local()
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not step(event, arguments) or getattr(busy, "doing", False):
            return
        with lock:
            count += 1
            here = count
        # A limit on the size of files is meant for the run, whose next call would fail with this.
        with contextlib.suppress(OSError):
            os.write(lines, f"{event} {arguments[:2]!r}\n".replace("\\n", " ").encode())
        if here == point:
            busy.doing = True
            try:
                do(deed)
            finally:
                busy.doing = False

    from invoke.main import program

    sys.addaudithook(hook)
    program.run(["invoke", *sys.argv[5:]])


if __name__ == "__main__":
    main()
