"""Server processes: random loopback ports, logs, readiness, and an end in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pipeline.host.cleanup import start_time

# A server that starts in 5 s on an idle core was seen to need 40 s beside three busy guests.
START_SECONDS = 180.0
_STOP_SECONDS = 5.0


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
    """A set-up command to its end, its words in `log`."""
    with log.open("ab") as words:
        status = subprocess.run(
            [os.fspath(word) for word in argv],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            env=_environment(env),
            timeout=START_SECONDS,
        ).returncode
    if status:
        raise RuntimeError(f"{argv}: exit status {status}\n{log.read_text()[-4000:]}")


class Processes:
    """The servers of one cloud. Each leads a session of its own and logs to `directory`.

    tied: they die with the thread that started them; untied ones outlive this process and are
    ended by `stop_recorded`.
    """

    def __init__(self, directory: Path, *, tied: bool) -> None:
        self._directory, self._tied = directory, tied
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def start(
        self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> None:
        words = [os.fspath(word) for word in argv]
        prefix = ["setpriv", "--pdeathsig", "KILL", "--"] if self._tied else []
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*prefix, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(env),
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def wait_for(self, name: str, url: str) -> None:
        """Until `url` answers anything; RuntimeError with the log's end if the server dies."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._running[name].poll() is not None:
                break
            if answers(url):
                return
            time.sleep(0.05)
        raise RuntimeError(f"{name} is not up\n{self.log(name).read_text()[-4000:]}")

    def stop(self, *names: str) -> None:
        """End these servers, or all."""
        for name in names or tuple(self._running):
            process = self._running.pop(name)
            _end(process.pid, process.poll)
            process.wait()

    def record(self) -> dict[str, list[int | None]]:
        """Process ids and start times, for `stop_recorded`."""
        return {name: [pid, start_time(pid)] for name, pid in self.pids().items()}


def stop_recorded(record: Mapping[str, Sequence[int | None]]) -> None:
    """End untied servers; a number that meanwhile belongs to another process is left alone."""
    for pid, begun in record.values():
        if pid is not None and begun is not None and start_time(pid) == begun:
            _end(pid, partial(_gone, pid, begun))


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


def _gone(pid: int, begun: int) -> bool | None:
    return None if start_time(pid) == begun else True


def _end(pid: int, poll: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        deadline = time.monotonic() + _STOP_SECONDS
        while poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """Ours without what would change the servers: OpenStack and AWS settings, Python's switches."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OS_", "AWS_", "PYTHON"))
    }
    return kept | dict(extra or {})
