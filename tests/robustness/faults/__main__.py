"""The long fault runs: python -m tests.robustness.faults [HARNESS ...] [--points N] [--seed S].

Without names: all that need no disk of an install. Each harness prints a line a point, then all
of them one table; the exit code is 1 if any found a fault.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.robustness.faults import kills, scarcity
from tests.robustness.fuzz import fuzz_disk, fuzz_guest
from tests.robustness.fuzz.campaign import limited, report


@dataclass(frozen=True)
class Order:
    """What was asked for.

    disk: an installed disk, or None for a small one. chain: kills before each rerun. keep: where
    mutations that are faults go.
    """

    points: int
    seed: int
    disk: Path | None
    chain: int
    keep: Path | None


@dataclass(frozen=True)
class Harness:
    """text: one line for people. points: unless asked otherwise. run: the faults it found."""

    text: str
    points: int
    run: Callable[[Order], list[str]]
    usual: bool = True


def _kill(scene: str, order: Order) -> list[str]:
    return kills.campaign(scene, order.disk, order.points, order.seed, order.chain)


def _starve(order: Order) -> list[str]:
    return scarcity.series(order.disk, order.points, order.seed)


def _fuzz_disks(order: Order) -> list[str]:
    return report(limited(fuzz_disk.Harness), order.points, order.seed, order.keep)


def _fuzz_guests(order: Order) -> list[str]:
    return report(limited(fuzz_guest.Harness), order.points, order.seed, order.keep)


HARNESSES: Mapping[str, Harness] = {
    "kills": Harness("a build from a disk and its upload, killed", 300, partial(_kill, "build")),
    "glance": Harness("an upload to a real Glance, killed", 60, partial(_kill, "glance")),
    "ec2": Harness("an upload to an S3-backed EC2 cloud, killed", 60, partial(_kill, "ec2")),
    "scarcity": Harness("disks full or broken, limits reached", 200, _starve),
    "disks": Harness("mutated disks", 10_000, _fuzz_disks),
    "guests": Harness("mutated guests", 10_000, _fuzz_guests),
    "boot": Harness("the boot check, killed", 20, partial(_kill, "boot"), usual=False),
    "install": Harness("an install, killed", 20, partial(_kill, "install"), usual=False),
}


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.faults", description=__doc__)
    usual = [name for name, harness in HARNESSES.items() if harness.usual]
    parser.add_argument("names", nargs="*", help=f"of {', '.join(HARNESSES)}")
    parser.add_argument("--points", type=int, default=0, help="in place of each one's own number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--disk", type=Path, help="an installed disk, which is only read")
    parser.add_argument("--chain", type=int, default=1, help="kills before each rerun")
    parser.add_argument("--keep", type=Path, help="where to write the mutations that are faults")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    unknown = set(options.names) - set(HARNESSES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; known: {', '.join(HARNESSES)}")
    table, found = [], []
    for name in options.names or usual:
        harness = HARNESSES[name]
        order = Order(
            options.points or harness.points,
            options.seed,
            options.disk,
            options.chain,
            options.keep,
        )
        print(f"{name}: {harness.text}, {order.points} points, seed {order.seed}", flush=True)
        begun = time.monotonic()
        faults = harness.run(order)
        seconds = time.monotonic() - begun
        table.append(f"{name:10} {order.points:7} {len(faults):7} {seconds:9.0f}")
        found += [f"{name}: {fault}" for fault in faults]
    print(f"\n{'harness':10} {'points':>7} {'faults':>7} {'seconds':>9}")
    print("\n".join([*table, *found]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
