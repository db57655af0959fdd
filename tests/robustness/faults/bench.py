"""A place where the product's real commands are run, disturbed, and looked at afterwards.

The process that uses it is a child subreaper (prctl(2)), so that a process that outlives the
pipeline, in whatever session, becomes its child and is seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from pipeline.core.resources import PROJECT

ROOT = PROJECT
_TRAMPOLINE = Path(__file__).with_name("trampoline.py")
_PR_SET_CHILD_SUBREAPER = 36
SETTLE = 40.0  # s until everything must be gone: the supervisor's own bounds, doubled
_RUN = 900.0  # s for one whole command on a busy host
SEPARATE = ("build", "catalogue", "tmp", "run")


def nothing() -> list[str]:
    """A look that finds nothing."""
    return []


@dataclass
class Bench:
    """A directory that holds everything one series of runs may touch.

    arguments: of `invoke`. environment: added to this process's own. reset: puts back what lies
    outside the directory. look: faults found outside of it after any run; look_whole: after one
    that succeeded. keep: the build stays from point to point. logs: where this process keeps what
    the runs said, the directory itself by default.
    """

    directory: Path
    arguments: Sequence[str]
    name: str = "demo"
    environment: dict[str, str] = field(default_factory=dict)
    reset: Callable[[], None] = lambda: None
    look: Callable[[], list[str]] = nothing
    look_whole: Callable[[], list[str]] = nothing
    keep: bool = False
    logs: Path = Path()

    def __post_init__(self) -> None:
        if self.logs == Path():
            self.logs = self.directory
        for word in (*SEPARATE, "config"):
            (self.directory / word).mkdir(parents=True, exist_ok=True)
        # The runtime directory holds sockets of the user's daemons: nobody else may enter.
        (self.directory / "run").chmod(0o700)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "AWS_", "EC2_"))}
        self.environment = {
            **clean,
            "IMAGE_PIPELINE_BUILD": str(self.directory / "build"),
            "IMAGE_PIPELINE_CATALOGUE": str(self.directory / "catalogue"),
            "IMAGE_PIPELINE_CONFIG": str(self.directory / "config"),
            "TMPDIR": str(self.directory / "tmp"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            **self.environment,
        }

    @property
    def output(self) -> Path:
        """What the last run said."""
        return self.logs / "output.log"

    @property
    def steps(self) -> list[str]:
        """The last run's steps; none if it ended before the first."""
        try:
            return (self.logs / "steps.log").read_text().splitlines()
        except FileNotFoundError:
            return []

    def start(
        self, step: int = 0, deed: str = "", *, wrap: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start the command; `deed` is done to it just before `step`. wrap: a program around it."""
        log = self.logs / "steps.log"
        log.unlink(missing_ok=True)
        command = [*wrap, sys.executable, "-P", str(_TRAMPOLINE), str(log), str(step), deed]
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [*command, "--", "--search-root", str(ROOT), *self.arguments],
                cwd=self.logs,
                env=self.environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def run(self, step: int = 0, deed: str = "", *, wrap: Sequence[str] = ()) -> int:
        """Run the command to its end; its status."""
        known = frozenset(_children())
        process = self.start(step, deed, wrap=wrap)
        try:
            return wait(process, _RUN, known)
        finally:
            end(process)

    def run_for(self, seconds: float, number: signal.Signals, *, group: bool) -> int:
        """Run the command and send it a signal after some seconds; its status."""
        known = frozenset(_children())
        process = self.start()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return wait(process, seconds, known)
            (os.killpg if group else os.kill)(process.pid, number)
            return wait(process, _RUN, known)
        finally:
            end(process)

    def faults(self, before: World) -> list[str]:
        """What a run left that it must not leave."""
        found = [f"process left: {line}" for line in settled_descendants(before.processes)]
        found += [f"left in TMPDIR: {p.name}" for p in (self.directory / "tmp").iterdir()]
        after = World.now()
        for what, left in (
            ("mount", after.mounts - before.mounts),
            ("loop device", after.loops - before.loops),
        ):
            # Others work on this machine too: only what names our directory can be ours.
            found += [f"{what} left: {line}" for line in left if str(self.directory) in line]
        found += manifest_faults(self.directory / "build" / self.name)
        found += catalogue_faults(self.directory / "catalogue")
        return found + self.look()

    def whole_faults(self, before: World, status: int) -> list[str]:
        """What is wrong after a run that had to succeed."""
        found = self.faults(before)
        build = self.directory / "build" / self.name
        if status != 0:
            found.append(f"it ended with {status}: {self.output.read_text()[-600:]}")
        elif not (build / "manifest.json").exists():
            found.append("there is no manifest")
        return found + self.look_whole() if status == 0 else found

    def forget(self) -> None:
        """Back to nothing built and nothing registered; caches stay."""
        for word in SEPARATE[1:] if self.keep else SEPARATE:
            shutil.rmtree(self.directory / word, ignore_errors=True)
            (self.directory / word).mkdir(mode=0o700)
        self.reset()


def wait(process: subprocess.Popen[bytes], seconds: float, known: frozenset[int]) -> int:
    """Its status; TimeoutExpired when it runs on. What it orphans is reaped as init does it: until
    then libvirt takes a guest that has ended for one that runs. known: our other children.
    """
    limit = time.monotonic() + seconds
    while (status := process.poll()) is None:
        if time.monotonic() > limit:
            raise subprocess.TimeoutExpired(process.args, seconds)
        for pid in set(_children()) - known - {process.pid}:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)
    return status


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, task.read_text().split())


def end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that it is gone."""
    if process.poll() is None:
        process.kill()
        process.wait()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_faults(build: Path) -> list[str]:
    """Whatever a manifest says that is not so; nothing when there is none."""
    if not (build / "manifest.json").exists():
        return []
    manifest = json.loads((build / "manifest.json").read_text())
    found = []
    for record in manifest["artifacts"]:
        path = build / record["file"]
        if not path.exists() or sha256(path) != record["sha256"]:
            found.append(f"the manifest's {record['role']} is not {path.name}")
    return found


def catalogue_faults(catalogue: Path) -> list[str]:
    """Whatever a reader of the published catalogue would trip over."""
    index = catalogue / "streams" / "v1" / "index.json"
    if not index.exists():
        return []
    found = []
    for entry in json.loads(index.read_text())["index"].values():
        products = json.loads((catalogue / entry["path"]).read_text())["products"]
        for product in products.values():
            for date, version in product["versions"].items():
                for item in version["items"].values():
                    path = catalogue / item["path"]
                    if not path.exists() or path.stat().st_size != item["size"]:
                        found.append(f"catalogue {date}: {item['path']} is not whole")
                    elif sha256(path) != item["sha256"]:
                        found.append(f"catalogue {date}: {item['path']} has another sha256")
                if len(version["items"]) < 3:
                    found.append(f"catalogue {date}: {sorted(version['items'])} is no triple")
    return found


@dataclass(frozen=True)
class World:
    """What a run could leave outside its own directory. processes: ids of this one's descendants,
    servers that a scene started.
    """

    mounts: frozenset[str]
    loops: frozenset[str]
    processes: frozenset[int]

    @classmethod
    def now(cls) -> World:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        mounts = [" ".join(line.split()[:3]) for line in lines]  # without options
        backing = Path("/sys/block").glob("loop*/loop/backing_file")
        processes = frozenset(pid for pid, _ in _descendants(os.getpid(), frozenset()))
        return cls(frozenset(mounts), frozenset(p.read_text() for p in backing), processes)


def become_subreaper() -> None:
    """Orphans of every run become children of this process (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def orderly_end() -> None:
    """Let SIGTERM end the harness through its contexts, which unmount and stop servers."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def settled_descendants(known: frozenset[int]) -> list[str]:
    """Command lines of unknown descendants that are still there when all should be gone."""
    limit = time.monotonic() + SETTLE
    while True:
        left = list(_descendants(os.getpid(), known))
        for pid, _ in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if not left or time.monotonic() > limit:
            break
        time.sleep(0.05)
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [command for _, command in left]


def _descendants(pid: int, known: frozenset[int]) -> Iterator[tuple[int, str]]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                if child in known:
                    continue
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                    yield child, b" ".join(words).decode(errors="replace")[:300]
                    yield from _descendants(child, known)
