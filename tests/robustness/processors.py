"""Which of qemu's processors is sound without KVM: python -m tests.robustness.processors.

Boots real Debian roots that the product customised, again and again, with each processor, looks at
each console for faults of kernel and programs, and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.verify.machines import MACHINES
from tests.fixtures.disks.debian import Flavour
from tests.fixtures.triples import Files
from tests.fixtures.triples.debian import debian_triple
from tests.fixtures.triples.one_boot import Machine, boot_once

FLAVOURS = (
    Flavour("trixie", "initramfs-tools", "ifupdown"),
    Flavour("forky", "dracut", "systemd-networkd"),
)
# The widest there is, with and without five-level paging; the levels x86-64-v3 and v2 of real ones.
PROCESSORS = (MACHINES["x86_64"].emulated, "max", "EPYC", "Nehalem")
_FAULTS = re.compile(
    rb"Kernel panic|Oops: |BUG: |Call Trace|general protection|segfault at|traps: |soft lockup"
    rb"|bad page|Bad page|invalid opcode|double fault"
)


@dataclass(frozen=True)
class Outcome:
    """One boot. seconds: to SSH, None where it never came. faults: the first lines of any."""

    kernel: str
    processor: str
    seconds: float | None
    faults: tuple[str, ...]


def boot(files: Files, processor: str) -> Outcome:
    """One boot from power-on to power-off."""
    with tempfile.TemporaryDirectory() as place, Runner() as run:
        directory = Path(place)
        (directory / "scratch").mkdir()
        tools = Tools(run, QuietProgress(), directory / "scratch")
        machine = Machine(processor=processor)
        record, _ = boot_once(files, directory / "boot", tools, machine=machine)
        console = (directory / "boot/boot-console.log").read_bytes()
    faults = [
        line.decode(errors="replace").strip()[:150]
        for line in console.splitlines()
        if _FAULTS.search(line)
    ]
    if record.trouble:
        faults.append(record.trouble)
    version = re.search(rb"Linux version (\S+)", console)
    kernel = version[1].decode() if version else "none"
    outcome = Outcome(kernel, processor, record.to_ssh, tuple(faults[:3]))
    print(time.strftime("%H:%M:%S"), outcome, file=sys.stderr, flush=True)
    return outcome


def table(outcomes: list[Outcome]) -> str:
    """The table, a row a kernel and processor."""
    lines = ["| kernel | -cpu | boots | with faults | SSH after, s |", "|---|---|---:|---:|---|"]
    for kernel, processor in dict.fromkeys((o.kernel, o.processor) for o in outcomes):
        these = [o for o in outcomes if (o.kernel, o.processor) == (kernel, processor)]
        times = sorted(o.seconds for o in these if o.seconds is not None)
        span = f"{times[0]:.0f} to {times[-1]:.0f}" if times else "never"
        faulty = sum(1 for o in these if o.faults)
        lines.append(f"| {kernel} | `{processor}` | {len(these)} | {faulty} | {span} |")
    return "\n".join(lines)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boots", type=int, default=3, help="of each kernel and processor")
    parser.add_argument("--at-once", type=int, default=2, help="guests that run at once")
    parser.add_argument("--processor", action="append", help="qemu's -cpu; may be repeated")
    options = parser.parse_args()
    processors = options.processor or list(PROCESSORS)
    with tempfile.TemporaryDirectory() as place:
        made = [debian_triple(Path(place) / str(flavour), flavour)[0] for flavour in FLAVOURS]
        work = [(f, p) for _ in range(options.boots) for p in processors for f in made]
        with ThreadPoolExecutor(options.at_once) as pool:
            outcomes = list(pool.map(lambda pair: boot(*pair), work))
    print(table(sorted(outcomes, key=lambda o: (o.kernel, processors.index(o.processor)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
