"""Runs the product's own command line and ends it at a chosen step: a program, run by kills.py.

usage: trampoline.py LOG POINT SIGNAL SCOPE -- INVOKE ARGUMENTS

Every step the interpreter announces to an audit hook (PEP 578) and that changes something outside
the process is counted: renames, deletions, files opened for writing, programs started, requests
sent. LOG gets one line a step. Just before step POINT (0: never) the process, or with SCOPE
"group" its whole process group, gets SIGNAL.
"""

from __future__ import annotations

import os
import sys
import threading
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


def step(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether the event changes something outside the process."""
    if event == "open":
        flags = arguments[2] if len(arguments) > 2 else 0
        return isinstance(flags, int) and bool(flags & _WRITING)
    return event in STEPS


def main() -> None:
    """Install the hook, then become `invoke`."""
    log, point, number, scope = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    lock = threading.Lock()
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not step(event, arguments):
            return
        with lock:
            count += 1
            here = count
        os.write(lines, f"{event} {arguments[:2]!r}\n".replace("\\n", " ").encode())
        if here == point:
            if scope == "group":
                os.killpg(os.getpgrp(), number)
            else:
                os.kill(os.getpid(), number)

    from invoke.main import program

    sys.addaudithook(hook)
    program.run(["invoke", *sys.argv[6:]])


if __name__ == "__main__":
    main()
