"""Running contenders side by side: in processes of their own, alternating, with all they cost.

Ratios within a round are what to compare; seconds depend on the host and on what else it does,
which is why the share of the processors that others took is measured too.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import resource
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MIB, GIB = 1 << 20, 1 << 30
_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

Work = Callable[[Path], Mapping[str, float] | None]
"""A contender: works in an empty directory, and may report figures of its own."""


@dataclass(frozen=True)
class Options:
    """What the command line says.

    sizes: GiB of files on the disks. rounds: of each comparison. quick: leave out what takes
    minutes a run. directory: where the disks and images lie.
    """

    sizes: tuple[float, ...]
    rounds: int
    quick: bool
    directory: Path


@dataclass(frozen=True)
class Cost:
    """One run, or the medians of several.

    seconds: wall. cpu: seconds of user and system time of all processes. memory: bytes that all
    processes together had to themselves at the worst moment seen. read, written: bytes that all
    processes asked of read(2), write(2), copy_file_range(2) and their kin (rchar and wchar of
    proc(5)). allocated: bytes the results take. others: processors kept busy by anything else
    meanwhile. ratio: seconds over those of the base in the same round. report: the contender's own
    figures. best: seconds of the fastest run.
    """

    seconds: float
    cpu: float
    memory: int
    read: int
    written: int
    allocated: int
    others: float
    ratio: float = 1.0
    report: Mapping[str, float] = field(default_factory=dict)
    best: float = 0.0


class _Sampler(threading.Thread):
    """Watches the private memory of a process and its descendants, twenty times a second."""

    def __init__(self, child: int) -> None:
        super().__init__(daemon=True)
        self._child, self._ended = child, threading.Event()
        # What the forked child shares with this process is not its own.
        self._base = _private(os.getpid())
        self._own = _read(f"/proc/{os.getpid()}/cmdline")
        self._peak = 0

    def run(self) -> None:
        """Sample until stopped."""
        while not self._ended.wait(0.05):
            self._peak = max(self._peak, sum(self._each()))

    def stop(self) -> int:
        """End, and tell the peak in bytes."""
        self._ended.set()
        self.join()
        return self._peak

    def _each(self) -> Iterator[int]:
        yield max(0, _private(self._child) - self._base)
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = _read(f"{entry}/stat").rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1]) if fields else 0
        for pid, parent in parents.items():
            above = parent
            while above not in (0, self._child):
                above = parents.get(above, 0)
            # Between fork and exec a child still looks like its parent, whose memory it shares.
            if above == self._child and _read(f"/proc/{pid}/cmdline") != self._own:
                yield _private(pid)


def _private(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", _read(f"/proc/{pid}/status"))
    return int(found[1]) * 1024 if found else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # it ended
        return ""


def busy_seconds() -> float:
    """Processor seconds this host spent on anything since it booted (proc(5), /proc/stat)."""
    fields = [int(word) for word in _read("/proc/stat").split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


def measure(name: str, work: Work, directory: Path, cold: Sequence[Path] = ()) -> Cost:
    """Run a contender in a process of its own until its results are on the storage (fsync).

    cold: files that are out of the page cache when it begins. SystemExit when it fails.
    """
    os.sync()  # what the one before left to be written back is not this one's to wait for
    for path in cold:
        _drop_from_cache(path)
    with tempfile.TemporaryDirectory(dir=directory) as text:
        out = Path(text)
        reader, writer = os.pipe()
        busy = busy_seconds()
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            _run_and_leave(work, out, writer)
        os.close(writer)
        sampler = _Sampler(child)
        sampler.start()
        try:
            _, status = os.waitpid(child, 0)
        except BaseException:
            os.killpg(child, signal.SIGTERM)
            os.waitpid(child, 0)
            raise
        seconds = time.monotonic() - begun
        busy = busy_seconds() - busy
        memory = sampler.stop()
        with os.fdopen(reader) as pipe:
            figures = json.loads(pipe.read() or "{}")
        if status:
            raise SystemExit(f"{name} failed")
        return Cost(
            seconds,
            figures["cpu"],
            memory,
            figures["rchar"],
            figures["wchar"],
            sum(path.stat().st_blocks * 512 for path in _files(out)),
            max(0.0, busy - figures["cpu"]) / seconds,
            report=figures["report"],
        )


def _drop_from_cache(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _run_and_leave(work: Work, out: Path, writer: int) -> None:
    status = 1
    # With what it starts it is a group, so that an interrupted benchmark leaves nothing running.
    os.setpgid(0, 0)
    try:
        report = work(out) or {}
        for path in _files(out):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        usage = [resource.getrusage(who) for who in _WHO]
        # The kernel adds what a child read and wrote to its parent when it is waited for.
        lines = (line.split(": ") for line in _read("/proc/self/io").splitlines())
        figures = {
            "cpu": sum(u.ru_utime + u.ru_stime for u in usage),
            "report": report,
        } | {name: int(value) for name, value in lines if name in ("rchar", "wchar")}
        os.write(writer, json.dumps(figures).encode())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _files(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()]


def alternate(
    contenders: Mapping[str, Work],
    rounds: int,
    directory: Path,
    *,
    base: str,
    cold: Sequence[Path] = (),
    once: Mapping[str, Work] | None = None,
) -> dict[str, Cost]:
    """Medians of alternating runs; ratios are medians of those within each round.

    base: whose seconds the ratios divide by. once: contenders that take minutes, and run in the
    first round only.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    slow = once or {}
    for number in range(rounds):
        # Each round in another order: what runs after a large writer suffers from its write-back.
        here = {**contenders, **(slow if number == 0 else {})}
        for name in random.Random(number).sample(list(here), len(here)):
            cost = measure(name, here[name], directory, cold)
            costs.setdefault(name, []).append(cost)
            print(f"  round {number + 1}: {name}: {cost.seconds:.2f} s", flush=True)
    bases = [cost.seconds for cost in costs[base]]
    return {name: _median(costs[name], bases) for name in (*contenders, *slow)}


def _median(runs: Sequence[Cost], bases: Sequence[float]) -> Cost:
    # A contender of the first round only has that round's base.
    ratios = [run.seconds / floor for run, floor in zip(runs, bases, strict=False)]
    return Cost(
        statistics.median(run.seconds for run in runs),
        statistics.median(run.cpu for run in runs),
        max(run.memory for run in runs),
        round(statistics.median(run.read for run in runs)),
        round(statistics.median(run.written for run in runs)),
        runs[0].allocated,
        statistics.median(run.others for run in runs),
        statistics.median(ratios),
        {
            key: statistics.median(run.report.get(key, 0.0) for run in runs)
            for key in runs[0].report
        },
        min(run.seconds for run in runs),
    )


def cost_table(costs: Mapping[str, Cost], base: str) -> str:
    """The costs as a Markdown table; `base` names what the ratios divide by."""
    rows = [
        [name]
        + [f"{value:.2f}" for value in (cost.seconds, cost.best, cost.ratio, cost.cpu)]
        + [str(count >> 20) for count in (cost.memory, cost.read, cost.written, cost.allocated)]
        for name, cost in costs.items()
    ]
    head = ["way", "s", "best s", f"x {base}", "CPU s"]
    sizes = ("memory", "read", "written", "results take")
    return markdown([*head, *(f"{word}, MiB" for word in sizes)], rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all but the first column to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def circumstances(costs: Mapping[str, Cost], rounds: int) -> str:
    """One sentence on how often and beside what the figures were taken."""
    others = statistics.median(cost.others for cost in costs.values())
    return (
        f"{rounds} rounds in changing order, medians; other work kept {others:.1f} of "
        f"{len(os.sched_getaffinity(0))} processors busy meanwhile (write-back by the kernel "
        f"counts as such), load average {os.getloadavg()[0]:.1f} at the end."
    )


def host(directory: Path) -> str:
    """The host in one line."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=True
    ).stdout.strip()
    model = re.search(r"model name\s*: (.+)", _read("/proc/cpuinfo"))
    return (
        f"{len(os.sched_getaffinity(0))} processors ({model[1] if model else platform.machine()}), "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, files on "
        f"{kind}"
    )
