"""Runs external programs; nothing else of ours starts one.

Argument lists only, standard input from /dev/null, a minimal environment, every command logged
ready to paste, quiet unless it fails. Each program leads a process group of its own that ends
with the pipeline, even when the pipeline is killed: setpriv(1) arms PR_SET_PDEATHSIG for the
program itself and the supervisor (cleanup.py) ends the rest of its group.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pipeline.core.errors import HostError, ProgramError
from pipeline.core.secrets import Secrets
from pipeline.host.cleanup import start_time
from pipeline.host.files import naming
from pipeline.host.requirements import require

# For callers of `Runner.start`, who have no other business with subprocess.
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
TimeoutExpired = subprocess.TimeoutExpired

_KEPT_ENVIRONMENT = ("HOME", "PATH", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "USER")
_TAIL = 2000  # characters of a failing program's words that fit a terminal screen
_FULL = 256 << 10  # bytes free; less than any image needs to grow by
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL: qemu flushes and exits within one


@dataclass(frozen=True)
class Completed:
    """A program that ran to its end."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def text(self) -> str:
        """Standard output as text; undecodable bytes become U+FFFD."""
        return self.stdout.decode(errors="replace")


def _environment() -> dict[str, str]:
    """What programs get to know of this process's environment: nothing secret."""
    environment = {k: os.environ[k] for k in _KEPT_ENVIRONMENT if k in os.environ}
    # Administration tools live in sbin, which an ordinary user's PATH leaves out.
    environment["PATH"] = f"{environment.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    environment["LC_ALL"] = "C.UTF-8"
    return environment


class _Supervisor:
    """The pipeline's end of cleanup.py, started when first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ids = itertools.count()
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def add(self, job: Mapping[str, object]) -> int:
        with self._lock:
            if self._process is None:
                script = Path(__file__).with_name("cleanup.py")
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(script)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    cwd="/",
                    env=_environment(),
                )
            number = next(self._ids)
            self._tell({"add": number, **job})
            return number

    def drop(self, number: int) -> None:
        with self._lock:
            self._tell({"drop": number})

    def close(self) -> None:
        """End the supervisor; jobs not dropped are done before this returns."""
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(OSError):
                    self._process.communicate(timeout=60)
                self._process = None

    def _tell(self, message: Mapping[str, object]) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()


class Program:
    """A running program; leaving the context ends it and its whole process group."""

    def __init__(
        self,
        argv: Sequence[str],
        shown: str,
        process: subprocess.Popen[bytes],
        runner: Runner,
        *,
        noted: bool = True,
    ) -> None:
        self.argv = tuple(argv)
        self._shown = shown
        self.process = process
        self._runner = runner
        self._begun = time.monotonic()
        self._job = runner.supervisor.add({"group": process.pid, "start": start_time(process.pid)})
        self._logged = not noted

    @property
    def pid(self) -> int:
        """The program's process id and process group."""
        return self.process.pid

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        return self.process.poll()

    def wait(self, timeout: float) -> int:
        """Exit status; subprocess.TimeoutExpired after `timeout` seconds."""
        return self.process.wait(timeout)

    def stop(self, grace: float = _GRACE) -> int:
        """SIGTERM to the group, SIGKILL after `grace` seconds; the exit status."""
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
        # Children may outlive their leader: the group is killed in any case.
        self._signal(signal.SIGKILL)
        status = self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._runner.supervisor.drop(self._job)
        if not self._logged:
            self._logged = True
            self._runner.record(self._shown, status, time.monotonic() - self._begun)
        return status

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Runner:
    """Starts programs for one build. Safe to use from several threads.

    log: a file that gets one line a program, masked and ready to paste; None for none.
    echo: is given the same line when the program starts.
    """

    def __init__(
        self,
        log: Path | None = None,
        secrets: Secrets | None = None,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        self.secrets = secrets or Secrets()
        self.supervisor = _Supervisor()
        self._log = log
        self._echo = echo
        self._lock = threading.Lock()

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float,
        input: bytes | None = None,  # subprocess's own word for it
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ok: Collection[int] = (0,),
        attempted: str = "",
        noted: bool = True,
    ) -> Completed:
        """Run to the end, at most `timeout` seconds, and return what it said.

        env: added to the minimal environment. ok: exit statuses that are no failure.
        attempted: the verb phrase of the error, "run NAME" by default. noted: False keeps a
        program that is asked again and again out of the log.
        Raises ProgramError for any other status and for a time-out, HostError when it is missing
        or a file system it worked on is full.
        """
        begun = time.monotonic()
        with self.start(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            noted=noted,
        ) as program:
            try:
                stdout, stderr = program.process.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                raise self._failure(
                    program.argv, attempted, f"it did not end within {timeout:.0f} s"
                ) from None
            status = program.process.returncode
        if status not in ok:
            refuse_full(program.argv)
            words = (stderr.strip() or stdout.strip()).decode(errors="replace")[-_TAIL:]
            raise self._failure(program.argv, attempted, f"exit status {status}: {words}")
        return Completed(program.argv, status, stdout, stderr, time.monotonic() - begun)

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        noted: bool = True,
    ) -> Program:
        """Start a program to be used as a context manager.

        Start it from a thread that outlives it: the kernel sends the parent-death signal when
        the starting *thread* ends (prctl(2), PR_SET_PDEATHSIG).
        """
        words = [os.fspath(word) for word in argv]
        environment = _environment() | dict(env or {})
        require(words[0], environment["PATH"])
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *words],
            env=environment,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        shown = shell_line(words, env or {}, cwd)
        if self._echo is not None and noted:
            self._echo(f"$ {self.secrets.mask(shown)}")
        return Program(words, shown, process, self, noted=noted)

    @contextlib.contextmanager
    def cleanup(
        self, *, argv: Sequence[str] | None = None, remove: Path | None = None
    ) -> Iterator[None]:
        """Have the supervisor run `argv` and delete `remove` if the pipeline dies in this context.

        In an orderly end, by exception or not, the caller cleans up itself.
        """
        job: dict[str, object] = {}
        if argv is not None:
            job["argv"] = list(argv)
        if remove is not None:
            job["remove"] = str(remove.absolute())
        number = self.supervisor.add(job)
        try:
            yield
        finally:
            self.supervisor.drop(number)

    def record(self, shown: str, status: int, seconds: float) -> None:
        """Add a finished program to the log, as `shell_line` writes it."""
        if self._log is None:
            return
        line = self.secrets.mask(shown)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._lock, naming(self._log), self._log.open("a") as log:
            log.write(f"# {stamp} status {status} {seconds:.2f} s\n{line}\n")

    def close(self) -> None:
        """End the supervisor."""
        self.supervisor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _failure(self, argv: Sequence[str], attempted: str, why: str) -> ProgramError:
        command = self.secrets.mask(shlex.join(argv))
        return ProgramError(
            attempted or f"run {Path(argv[0]).name}",
            why=self.secrets.mask(why),
            next_step=f"The command was: {command}",
        )


def refuse_full(argv: Sequence[str]) -> None:
    """HostError if a file in a failed command's words lies on a full file system.

    Programs have many words for a write that failed, some of which speak of damage.
    """
    for word in argv[1:]:
        if not (word.startswith("/") and os.path.exists(word)):  # noqa: PTH110 # a plain word
            continue
        free = shutil.disk_usage(word).free
        if free < _FULL:
            raise HostError(
                f"go on: {Path(argv[0]).name} failed on",
                word,
                why=f"its file system is full, {free >> 10} KiB are free",
                next_step="Free some space there, or set IMAGE_PIPELINE_BUILD to a larger one",
            )


def shell_line(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> str:
    """The command as a shell takes it, with the directory and the variables that it had."""
    words = ["env", *(f"{name}={value}" for name, value in env.items()), *argv] if env else argv
    line = shlex.join(words)
    return f"(cd {shlex.quote(str(cwd))} && {line})" if cwd else line
