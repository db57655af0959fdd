"""The boot check's public functions: run the boots, judge them, report."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.core.checks import Assertion, Triple, VerifyReport, WholeDisk
from pipeline.core.errors import HostError, InputError
from pipeline.core.events import Meter
from pipeline.core.image import Acceleration
from pipeline.host.context import Tools
from pipeline.host.files import naming
from pipeline.host.requirements import Requirement, declare, require
from pipeline.verify.assertions import Boots, Expected, judge
from pipeline.verify.boot import Plan, Record, Session, boot
from pipeline.verify.boot_plan import Part, argv_for, firmware, metadata, parts
from pipeline.verify.machines import machine_of
from pipeline.verify.qemu_command import PLANNED, Wiring, readable
from pipeline.verify.ssh import make_keys

REQUIRES = declare(
    Requirement(
        "verify",
        "booting what was made, and logging in",
        programs={"ssh": "openssh-client", "ssh-keygen": "openssh-client"},
        packages=("ovmf",),
        unchecked={"ssh-keyscan": "openssh-client"},
    )
)

REQUIRES_AARCH64 = declare(
    Requirement(
        "verify aarch64",
        "booting images of aarch64",
        programs={"qemu-system-aarch64": "qemu-system-arm"},
        packages=("qemu-efi-aarch64",),
        needed=False,
    )
)

_PIECE = 64 << 10  # bytes of the firmware's variables that are looked at together
_SHOWN = 25  # console lines in a report: a screenful


def verify(
    target: Triple | WholeDisk,
    *,
    acceleration: Acceleration,
    minutes_per_boot: int,
    evidence: Path,
    tools: Tools,
    keep: bool = False,
) -> VerifyReport:
    """Boot a triple as Nova would, or a disk by its own boot loader, several times, and report.

    A failing assertion does not raise. minutes_per_boot: how long one boot may take to reach SSH.
    evidence: a directory for console logs and screen pictures, made if missing. keep: leave the
    overlays in `evidence` too. Raises InputError for a missing file, HostError or ProgramError
    when this host cannot run the check.
    """
    if isinstance(target, Triple):
        _require(target.machine, target.kernel, target.ramdisk)
        size = target.machine.stat().st_size
    else:
        _require(target.disk)
        size = None
    require(machine_of(target.hardware).qemu)
    evidence.mkdir(parents=True, exist_ok=True)
    chains = _chains(parts(target))
    for part in parts(target):
        for old in evidence.glob(f"{part.role}-*"):
            old.unlink()
    cancel = threading.Event()
    overlays = Path(tempfile.mkdtemp(prefix="verify-", dir=tools.scratch))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, overlays, ignore_errors=True)
        scratch = stack.enter_context(private_directory(tools))
        keys = make_keys(tools.run, scratch)
        seconds = minutes_per_boot * 60.0
        session = Session(tools.run, keys, target.user, scratch, evidence, seconds, cancel.is_set)
        total = sum(len(chain) for chain in chains)
        meter = stack.enter_context(tools.progress.task("boot check", total, "steps"))
        check = _Check(target, acceleration, session, tools, overlays, meter)
        records = _together([partial(check.chain, chain) for chain in chains], cancel)
        boots = Boots(
            records["first"],
            records["other"],
            records.get("again"),
            records.get("bare"),
            with_bare=any(part.role == "bare" for part in parts(target)),
        )
        expected = Expected(size, target.selinux_type, keys.public, seconds)
        kept = _keep(overlays, evidence) if keep else ()
    return _report(boots, judge(boots, expected), kept)


def plan(triple: Triple | WholeDisk, acceleration: Acceleration) -> list[str]:
    """The qemu command lines `verify` would run, ready to read; for dry runs."""
    lines = []
    for part in parts(triple):
        exchange = PLANNED.exchange if part.has_metadata else ""
        wiring = Wiring(PLANNED.overlay, PLANNED.qmp, PLANNED.serial, exchange)
        lines.append(readable(argv_for(triple, part, acceleration, None)(wiring)))
    return lines


def backing(target: Triple | WholeDisk) -> tuple[Path, str]:
    """The image below the overlay and its format."""
    if isinstance(target, Triple):
        return target.machine, "raw"
    return target.disk, target.format


def make_overlay(target: Triple | WholeDisk, overlay: Path, tools: Tools) -> Path:
    """An empty qcow2 overlay: what the guest writes never reaches the image."""
    image, kind = backing(target)
    tools.run.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", image.absolute(), overlay],
        timeout=60,
        attempted="make a throw-away overlay for the boot check",
    )
    return overlay


def firmware_variables(target: Triple | WholeDisk, part: Part, directory: Path) -> Path | None:
    """A private copy of the firmware's variable store for a boot under UEFI."""
    machine = machine_of(target.hardware)
    if isinstance(target, Triple):
        if not machine.needs_firmware:
            return None
    elif firmware(target, part) == "bios":
        return None
    uefi = machine.uefi
    for file in (uefi.code, uefi.variables):
        if not file.is_file():
            raise HostError(
                "boot under UEFI with",
                file,
                why="the firmware is not installed",
                next_step=f"Install it: apt-get install {uefi.package}",
            )
    copy = directory / f"{part.role}-variables.fd"
    # aarch64's has 64 MiB of nothing but zeros, and packages keep no holes.
    with naming(copy), uefi.variables.open("rb") as source, copy.open("wb") as store:
        while data := source.read(_PIECE):
            if data != bytes(len(data)):
                store.write(data)
            else:
                store.seek(len(data), os.SEEK_CUR)
        store.truncate()
    return copy


@contextlib.contextmanager
def private_directory(tools: Tools) -> Iterator[Path]:
    """A short path for sockets (sun_path has 108 bytes, unix(7)) and keys, gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix="boot-check-"))
    try:
        with tools.run.cleanup(remove=directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class _Check:
    target: Triple | WholeDisk
    acceleration: Acceleration
    session: Session
    tools: Tools
    overlays: Path
    meter: Meter

    def chain(self, chain: tuple[Part, ...]) -> dict[str, Record]:
        """One after the other while they reach SSH: a boot that fails makes the rest moot."""
        records: dict[str, Record] = {}
        for part in chain:
            record = self._boot(part)
            records[part.role] = record
            self.meter.advance(1)
            if record.to_banner is None:
                break
        return records

    def _boot(self, part: Part) -> Record:
        overlay = self.overlays / f"{part.identity}.qcow2"
        if not overlay.exists():
            make_overlay(self.target, overlay, self.tools)
        variables = firmware_variables(self.target, part, self.session.scratch)
        planned = Plan(
            name=part.role,
            title=part.title,
            argv=argv_for(self.target, part, self.acceleration, variables),
            metadata=metadata(part, self.session.keys.public, self.target.hardware),
            login=part.has_metadata,
            again=part.role == "again",
        )
        record = boot(planned, self.session, overlay)
        self.tools.progress.say(f"boot check, {part.purpose}: {_outcome(record)}")
        return record


def _chains(boots: tuple[Part, ...]) -> list[tuple[Part, ...]]:
    """Two chains for two processors: the boots of the first identity, and the others."""
    first = boots[0].identity
    return [
        tuple(part for part in boots if part.identity == first),
        tuple(part for part in boots if part.identity != first),
    ]


def _together(
    chains: list[Callable[[], dict[str, Record]]], cancel: threading.Event
) -> dict[str, Record]:
    """Run the chains at once. An error in one, or an interrupt here, ends them all."""
    records: dict[str, Record] = {}
    with ThreadPoolExecutor(len(chains), "boot-check") as pool:
        futures = [pool.submit(chain) for chain in chains]
        try:
            for future in as_completed(futures):
                records |= future.result()
        except BaseException:
            cancel.set()
            raise
    return records


def _report(
    boots: Boots, assertions: tuple[Assertion, ...], kept: tuple[Path, ...]
) -> VerifyReport:
    passed = all(assertion.passed for assertion in assertions)
    return VerifyReport(
        passed=passed,
        assertions=assertions,
        seconds_to_ssh=boots.first.to_ssh,
        evidence=tuple(path for record in boots.all() for path in record.evidence),
        console_lines=() if passed else _lines(boots),
        overlays=kept,
        boot_seconds={
            record.name: round(seconds, 1)
            for record in boots.all()
            if (seconds := record.to_ssh or record.to_banner) is not None
        },
    )


def _lines(boots: Boots) -> tuple[str, ...]:
    """The console lines that matter: signs of trouble, or how the failed boot ended."""
    failed = [record for record in boots.all() if not record.reached] or boots.all()
    signs = {sign.line: None for record in failed for sign in record.signs}
    tail = [line for line in failed[0].tail if line not in signs]
    room = max(_SHOWN - len(signs), _SHOWN // 2)
    return (*list(signs)[:_SHOWN], *tail[-room:])


def _outcome(record: Record) -> str:
    if record.trouble:
        return record.trouble
    if record.to_ssh is not None:
        return f"SSH after {record.to_ssh:.1f} s, down in {record.power_off_seconds:.1f} s"
    return f"SSH answers after {record.to_banner:.1f} s"


def _keep(overlays: Path, evidence: Path) -> tuple[Path, ...]:
    role = {"a": "first", "b": "other", "c": "bare"}
    return tuple(
        Path(shutil.move(overlay, evidence / f"{role[overlay.stem]}-overlay.qcow2"))
        for overlay in sorted(overlays.glob("*.qcow2"))
    )


def _require(*files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise InputError(
                "boot", file, why="there is no such file", next_step="Build it, or check its path"
            )
