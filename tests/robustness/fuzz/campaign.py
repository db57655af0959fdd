"""What every fuzzer does around its cases: bound them, run them, count ends, keep faults."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

MEMORY = 256 << 20
"""Address space beyond what the harness has when it starts; a case needs a few MiB."""


class Faulty(Exception):
    """The pipeline did what it must not."""


class AnyCase(Protocol):
    """Something to run again. seed: what it is a change of."""

    @property
    def seed(self) -> str: ...

    def to_json(self) -> str: ...


_Case = TypeVar("_Case", bound=AnyCase)


class AnyHarness(Protocol[_Case]):
    """Makes cases and runs them, each giving one word or raising."""

    def cases(self, count: int, seed: int) -> Iterator[_Case]: ...

    def run(self, case: _Case) -> str: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Faulty when it takes longer."""

    def expired(number: int, frame: FrameType | None) -> None:
        raise Faulty(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """Make a case that asks for much memory fail instead of the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, -1))


def limited(
    open_harness: Callable[[Path], AnyHarness[_Case]],
) -> Callable[[Path], AnyHarness[_Case]]:
    """The same, with this process's memory bounded once the seeds are made."""

    def opened(folder: Path) -> AnyHarness[_Case]:
        harness = open_harness(folder)
        limit_memory()
        return harness

    return opened


def campaign(
    harness: AnyHarness[_Case], count: int, seed: int, keep: Path | None = None
) -> tuple[Counter[str], list[str]]:
    """Run `count` cases; how they ended, and a line on each fault."""
    ends: Counter[str] = Counter()
    faults: list[str] = []
    for number, case in enumerate(harness.cases(count, seed)):
        try:
            end = harness.run(case)
        except Exception as error:
            end = "FAULT"
            faults.append(f"{case.seed}, case {number}: {type(error).__name__}: {error}"[:600])
            if keep:
                digest = hashlib.sha256(case.to_json().encode()).hexdigest()[:12]
                (keep / f"{case.seed}-{digest}.json").write_text(case.to_json() + "\n")
        ends[f"{case.seed}: {end}"] += 1
    return ends, faults


def report(
    open_harness: Callable[[Path], AnyHarness[_Case]],
    count: int,
    seed: int,
    keep: Path | None = None,
) -> list[str]:
    """A campaign in a directory of its own, its table printed; the faults."""
    begun = time.monotonic()
    memory = resource.getrlimit(resource.RLIMIT_AS)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        harness = open_harness(Path(folder))
        try:
            ends, faults = campaign(harness, count, seed, keep)
        finally:
            harness.close()
            resource.setrlimit(resource.RLIMIT_AS, memory)
    for end, number in sorted(ends.items()):
        print(f"{number:8} {end}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    seconds = time.monotonic() - begun
    print(f"{count} cases, {len(faults)} faults, {seconds:.0f} s, peak memory {peak} MiB")
    return faults


def main(doc: str | None, open_harness: Callable[[Path], AnyHarness[_Case]]) -> int:
    """Run a campaign from the command line; the exit code."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2011)
    parser.add_argument("--keep", type=Path, help="where to write the cases that are faults")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)

    faults = report(limited(open_harness), options.count, options.seed, options.keep)
    print("\n".join(faults))
    return 1 if faults else 0
