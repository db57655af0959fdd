"""The process that cleans up after a killed pipeline: a script, run by programs.py.

It reads one JSON object a line on standard input: {"add": ID, ...} with "group" and "start" (a
process group to kill), "argv" (a command to run) or "remove" (a path to delete), and {"drop": ID}.
When its input ends, however the pipeline ended, it does what was added and not dropped, newest
first, and exits. It sits in a session of its own, so a signal to the pipeline's group misses it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any


def start_time(pid: int) -> int | None:
    """Clock ticks after boot when `pid` started (proc(5), stat field 22); None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 # pathlib would double the start-up
            return int(stat.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def kill_group(group: int, start: int | None) -> None:
    """SIGKILL the group unless its number was given to another process since."""
    # A group number is not reused while a member lives, so a vanished leader is still ours.
    if start_time(group) in (start, None):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def clean(job: dict[str, Any]) -> None:
    """Do one job; a failing one must not stop the others."""
    try:
        if "group" in job:
            kill_group(job["group"], job["start"])
        if "argv" in job:
            subprocess.run(  # noqa: PLW1510 # the pipeline's own cleanup command
                job["argv"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=30,
            )
        if "remove" in job:
            if os.path.isdir(job["remove"]) and not os.path.islink(job["remove"]):  # noqa: PTH112, PTH114
                shutil.rmtree(job["remove"], ignore_errors=True)
            else:
                os.unlink(job["remove"])  # noqa: PTH108
    except (OSError, subprocess.SubprocessError):
        pass


def main() -> None:
    """Collect jobs until the pipeline is gone, then do them."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    jobs: dict[int, dict[str, Any]] = {}
    for line in sys.stdin.buffer:
        try:
            message = json.loads(line)
        except ValueError:  # the pipeline died in mid-line
            continue
        if "add" in message:
            jobs[message["add"]] = message
        else:
            jobs.pop(message.get("drop", -1), None)
    for job in reversed(list(jobs.values())):
        clean(job)


if __name__ == "__main__":
    main()
