"""Kills builds and uploads at seeded points and looks at what is left.

    python -m tests.robustness.faults.kills [--disk DISK] [--points 300] [--seed 1] [--scene build]

Each point: a fresh state, or what the last kill left, the real command killed at one step or
moment, the invariants looked at, and the command run again to its end. The scenes are those of
scenes.py; without a disk they start from a small one made for the purpose.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.robustness.faults.bench import Bench, World, become_subreaper, orderly_end
from tests.robustness.faults.scenes import SCENES

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

    def run(self, bench: Bench) -> int:
        """Run the command and kill it here; its status."""
        if not self.step:
            return bench.run_for(self.seconds, self.number, group=self.group)
        return bench.run(
            self.step, f"kill:{int(self.number)}:{'group' if self.group else 'process'}"
        )


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


def series(bench: Bench, count: int, seed: int, chain: int = 1) -> list[str]:
    """Kill `count` times; the faults found, each with its point. Prints one line a point.

    chain: so many kills, each of a run over what the one before left, come before each rerun.
    """
    orderly_end()
    become_subreaper()
    before = World.now()
    bench.forget()
    begun = time.monotonic()
    found = [f"undisturbed: {fault}" for fault in bench.whole_faults(before, bench.run())]
    seconds, steps = time.monotonic() - begun, len(bench.steps)
    print(f"undisturbed: {steps} steps, {seconds:.1f} s", flush=True)
    if found:
        return found
    for index, point in enumerate(points(count, seed, steps, seconds), 1):
        if (index - 1) % chain == 0:
            bench.forget()
        status = point.run(bench)
        what = bench.steps
        faults = bench.faults(before)
        if status > 0 and status != 128 + point.number:
            faults.append(f"it ended with {status}: {bench.output.read_text()[-600:]}")
        if index % chain == 0 or index == count:
            faults += [f"the rerun: {fault}" for fault in bench.whole_faults(before, bench.run())]
        place = what[point.step - 1] if 0 < point.step <= len(what) else ""
        print(f"{index:4} {point}: {status}, {faults or 'clean'} {place[:90]}", flush=True)
        found += [f"{point} ({place}): {fault}" for fault in faults]
    return found


def campaign(scene: str, disk: Path | None, count: int, seed: int, chain: int = 1) -> list[str]:
    """One series in a directory of its own; the faults found."""
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as directory,
        SCENES[scene](Path(directory), disk) as bench,
    ):
        return series(bench, count, seed, chain)


def main() -> None:
    """Run a series from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disk", type=Path, help="an installed disk to start from")
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scene", choices=SCENES, default="build")
    parser.add_argument("--chain", type=int, default=1, help="kills before each rerun")
    options = parser.parse_args()
    found = campaign(options.scene, options.disk, options.points, options.seed, options.chain)
    print(f"{options.points} points, {len(found)} faults")
    for fault in found:
        print(fault)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
