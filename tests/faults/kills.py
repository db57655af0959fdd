"""Kills build and upload at seeded points and looks at what is left.

    python -m tests.faults.kills --disk DISK --points 300 --seed 1

Each point: a fresh or half-done state, the real command killed at one step or moment, the
invariants looked at, and the command run again to its end. The harness is a child subreaper
(prctl(2)), so that a process that outlives the pipeline in whatever session becomes its child
and is seen.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_TRAMPOLINE = Path(__file__).with_name("trampoline.py")
_PR_SET_CHILD_SUBREAPER = 36
_SETTLE = 40.0  # s until everything must be gone: the warden's own bounds, doubled
_RUN = 900.0  # s for one whole command on a busy host
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Point:
    """Where a run is ended: before a numbered step, or after some seconds when `step` is 0."""

    number: signal.Signals
    group: bool
    step: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        where = f"step {self.step}" if self.step else f"{self.seconds:.2f} s"
        return f"{self.number.name}{' to the group' if self.group else ''} at {where}"


@dataclass
class Bench:
    """A directory that holds everything one series of runs may touch."""

    directory: Path
    arguments: list[str]
    name: str = "demo"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word in ("build", "catalogue", "cache", "config", "tmp", "run"):
            (self.directory / word).mkdir(exist_ok=True)
        # The runtime directory holds sockets of the user's daemons: nobody else may enter.
        (self.directory / "run").chmod(0o700)
        self.environment = {
            **os.environ,
            **self.environment,
            "IMAGE_PIPELINE_BUILD": str(self.directory / "build"),
            "IMAGE_PIPELINE_CATALOGUE": str(self.directory / "catalogue"),
            "IMAGE_PIPELINE_CONFIG": str(self.directory / "config"),
            "TMPDIR": str(self.directory / "tmp"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
        }

    @property
    def log(self) -> Path:
        return self.directory / "steps.log"

    @property
    def output(self) -> Path:
        return self.directory / "output.log"

    def start(self, point: Point | None) -> subprocess.Popen[bytes]:
        self.log.unlink(missing_ok=True)
        step = str(point.step if point else 0)
        number = str(int(point.number if point else signal.SIGKILL))
        scope = "group" if point and point.group else "process"
        command = [sys.executable, "-P", str(_TRAMPOLINE), str(self.log), step, number, scope]
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [*command, "--", "--search-root", str(ROOT), *self.arguments],
                cwd=self.directory,
                env=self.environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def run(self, point: Point | None = None) -> int:
        """Run the command, killed at `point` if there is one; its status."""
        process = self.start(point)
        try:
            if point is not None and not point.step:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(point.seconds)
                send = os.killpg if point.group else os.kill
                send(process.pid, point.number)
            return process.wait(_RUN)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def faults(self, before: World) -> list[str]:
        """What a run left that it must not leave."""
        found = [f"process left: {line}" for line in settled_descendants()]
        found += [f"left in TMPDIR: {p.name}" for p in (self.directory / "tmp").iterdir()]
        after = World.now()
        for what, left in (
            ("mount", after.mounts - before.mounts),
            ("loop device", after.loops - before.loops),
        ):
            # Others work on this machine too: only what names our directory can be ours.
            found += [f"{what} left: {line}" for line in left if str(self.directory) in line]
        found += self._build_faults()
        found += catalogue_faults(self.directory / "catalogue")
        return found

    def _build_faults(self) -> list[str]:
        build = self.directory / "build" / self.name
        if not (build / "manifest.json").exists():
            return []
        manifest = json.loads((build / "manifest.json").read_text())
        found = []
        for role in ("machine", "kernel", "ramdisk"):
            path = build / manifest[role]["file"]
            if not path.exists() or sha256(path) != manifest[role]["sha256"]:
                found.append(f"the manifest's {role} is not {path.name}")
        return found

    def forget(self) -> None:
        """Back to nothing built and nothing registered; caches stay."""
        for word in ("build", "catalogue", "tmp", "run"):
            shutil.rmtree(self.directory / word, ignore_errors=True)
            (self.directory / word).mkdir(mode=0o700)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """What a run could leave outside its own directory."""

    mounts: frozenset[str]
    loops: frozenset[str]

    @classmethod
    def now(cls) -> World:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        backing = Path("/sys/block").glob("loop*/loop/backing_file")
        return cls(frozenset(mounts), frozenset(p.read_text() for p in backing))


def become_subreaper() -> None:
    """Orphans of every run become children of this process (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def settled_descendants() -> list[str]:
    """Command lines of descendants that are still there when all should be gone."""
    end = time.monotonic() + _SETTLE
    while True:
        _reap()
        left = list(_descendants(os.getpid()))
        if not left or time.monotonic() > end:
            break
        time.sleep(0.05)
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [command for _, command in left]


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants(pid: int) -> Iterator[tuple[int, str]]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for word in task.read_text().split():
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{word}/cmdline").read_bytes().split(b"\0")
                    yield int(word), b" ".join(words).decode(errors="replace")[:300]
                    yield from _descendants(int(word))


def points(count: int, seed: int, steps: int, seconds: float) -> list[Point]:
    """`count` different places to kill a run of that many steps and that length."""
    rng = random.Random(seed)
    chosen = []
    for index in range(count):
        number = SIGNALS[index % len(SIGNALS)]
        group = rng.random() < 0.4
        if rng.random() < 0.75:
            chosen.append(Point(number, group, step=rng.randint(1, steps)))
        else:
            chosen.append(Point(number, group, seconds=rng.uniform(0.1, seconds)))
    return chosen


def series(bench: Bench, count: int, seed: int) -> list[str]:
    """Kill `count` times; the faults found, each with its point. Prints one line a point."""
    become_subreaper()
    before = World.now()
    begun = time.monotonic()
    status = bench.run()
    if status != 0:
        return [f"the undisturbed run ended with {status}: {bench.output.read_text()[-800:]}"]
    seconds = time.monotonic() - begun
    steps = len(bench.log.read_text().splitlines())
    print(f"undisturbed: {steps} steps, {seconds:.1f} s", flush=True)
    found = [f"undisturbed: {fault}" for fault in bench.faults(before)]
    for index, point in enumerate(points(count, seed, steps, seconds), 1):
        bench.forget()
        status = bench.run(point)
        what = bench.log.read_text().splitlines()
        faults = bench.faults(before)
        again = bench.run()
        if again != 0:
            faults.append(f"the rerun ended with {again}: {bench.output.read_text()[-600:]}")
        faults += [f"after the rerun: {fault}" for fault in bench.faults(before)]
        place = what[point.step - 1] if 0 < point.step <= len(what) else ""
        print(f"{index:4} {point}: {status}, {faults or 'clean'} {place[:90]}", flush=True)
        found += [f"{point} ({place}): {fault}" for fault in faults]
    return found


def main() -> None:
    """Run a series from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disk", type=Path, help="start from this disk in place of an install")
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verify", action="store_true", help="also boot the result each time")
    options = parser.parse_args()
    arguments = ["build", "demo"]
    if options.disk:
        arguments += ["--disk", str(options.disk.absolute())]
    if not options.verify:
        arguments += ["--no-verify", "upload", "--unverified"]
    else:
        arguments += ["upload"]
    with tempfile.TemporaryDirectory(prefix="kills-") as directory:
        found = series(Bench(Path(directory), arguments), options.points, options.seed)
    print(f"{options.points} points, {len(found)} faults")
    for fault in found:
        print(fault)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
