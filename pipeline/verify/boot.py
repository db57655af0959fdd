"""One life of a guest, from power-on to power-off, and the record of it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pipeline.core.text import printable
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.blocks.superblock import recognise
from pipeline.host.files import write_scratch
from pipeline.host.programs import Runner
from pipeline.host.retry import Pauses, pause, poll
from pipeline.verify import probe, ssh
from pipeline.verify.console_log import Sign, Transcript
from pipeline.verify.metadata import Metadata, Request
from pipeline.verify.metadata_server import exchange_command, serving
from pipeline.verify.qemu_command import Wiring
from pipeline.verify.running_guest import Guest, running

_POLL = 0.25  # seconds between looks at a guest that boots
_GRACE = 60.0  # seconds; least time a guest gets from one milestone to the next
_QUIET = 2.0  # least seconds without a request after which the key script is taken as done
_RESTLESS = 30.0  # seconds after the first key when it is taken as done in any case
_TRY_AGAIN = 5.0  # seconds between logins that were refused
_STARVED = "IO-APIC + timer doesn't work"
_STARVED_TRIES = 4  # each costs a second or two
_UNASKED = 15.0  # seconds a second boot may take to ask again before it is taken as content


@dataclass(frozen=True)
class Plan:
    """What one boot is for. title: the assertion it decides. metadata: None for a guest without.

    login: whether a key is expected to let us in; without, an SSH server's greeting is enough.
    """

    name: str
    title: str
    argv: Callable[[Wiring], list[str]]
    metadata: Metadata | None
    login: bool = True
    again: bool = False


@dataclass(frozen=True)
class Session:
    """What the boots of one check share. seconds: bound of one boot to SSH."""

    runner: Runner
    keys: ssh.KeyRing
    user: str
    scratch: Path
    evidence: Path
    seconds: float
    cancelled: Callable[[], bool]

    @property
    def patience(self) -> int:
        """Seconds for one key exchange: a guest that boots slowly computes slowly."""
        return max(30, int(self.seconds / 10))


@dataclass(frozen=True)
class Record:
    """What came of a boot. Times in seconds after its start.

    trouble: why it ended before its goal, empty when it reached it. power_off: how it went down
    after the button was pressed, None when it did not or was not asked to. clean: whether the
    file system was left clean, None when that cannot be told.
    """

    name: str
    title: str
    began: bool
    prompted: bool
    to_banner: float | None
    to_ssh: float | None
    trouble: str
    late: bool
    facts: probe.Facts | None
    host_keys: frozenset[str]
    requests: tuple[Request, ...]
    key_served: bool
    signs: tuple[Sign, ...]
    tail: tuple[str, ...]
    power_off: str | None
    power_off_seconds: float
    clean: bool | None
    evidence: tuple[Path, ...]

    @property
    def reached(self) -> bool:
        """Whether the boot came to its goal."""
        return not self.trouble


class _Attempt:
    """The wait for SSH in one boot."""

    def __init__(
        self, guest: Guest, console: Transcript, plan: Plan, session: Session, known_hosts: Path
    ) -> None:
        self._console = console
        self._guest, self._plan, self._session = guest, plan, session
        self._known_hosts = known_hosts
        self.to_banner: float | None = None
        self.to_ssh: float | None = None
        self.facts: probe.Facts | None = None
        self.late = False
        self._prompt_at: float | None = None
        self._served_at = 0.0
        self._next_login = 0.0
        self._refusal = ""
        self._end = ""

    def run(self) -> str:
        """Wait; the trouble, or nothing when the goal was reached."""
        poll(self._over, seconds=math.inf, pauses=Pauses(_POLL))
        return self._end

    def _over(self) -> bool:
        """Whether the wait has its end, in trouble or at the goal."""
        self._end = self._trouble()
        if self._end:
            return True
        if self.to_banner is None:
            if self._guest.banner():
                self.to_banner = self._guest.seconds
            return False
        return not self._plan.login or (self._ripe() and self._login())

    def _trouble(self) -> str:
        guest, now = self._guest, self._guest.seconds
        if self._session.cancelled():
            return "cancelled"
        how = guest.ended()
        if how is not None:
            return f"the guest went down by itself after {now:.0f} s ({how})"
        sign = self._console.final
        if sign is not None:
            pause(1)  # the lines after it belong to the evidence
            return sign.line
        if now > self._session.seconds:
            self.late = True
            return self._refusal or f"not there within {self._session.seconds:.0f} s"
        if self._console.prompted and self._prompt_at is None:
            self._prompt_at = now
        return self._stuck(now)

    def _stuck(self, now: float) -> str:
        """Whether the next milestone is overdue: each may take as long as all before it."""
        metadata = self._plan.metadata
        if self.to_banner is None:
            # The prompt does not wait for the server, which waits for its host keys: on a slow
            # guest those take longer than the whole boot to the prompt.
            if self._prompt_at is not None and now > max(
                self._prompt_at + _GRACE, 3 * self._prompt_at
            ):
                return "it shows a login prompt and no SSH server answers"
            return ""
        overdue = now - self.to_banner > max(_GRACE, self.to_banner)
        if not overdue or not self._plan.login or metadata is None:
            return ""
        if not metadata.key_served:
            asked = "asked, and got none" if metadata.requests else "never asked for one"
            return f"no key: {asked} for {now - self.to_banner:.0f} s after SSH was up"
        served = max(r.seconds for r in metadata.requests)
        if now - served > max(_GRACE, self.to_banner):
            return self._refusal or "SSH does not let the key in"
        return ""

    def _ripe(self) -> bool:
        """Whether the key script is likely done, so that a login shows its whole work."""
        metadata, now = self._plan.metadata, self._guest.seconds
        if now < self._next_login:
            return False
        if metadata is None:
            return True
        if metadata.key_served:
            self._served_at = self._served_at or now
            if metadata.quiet_seconds > quiet_enough(metadata.requests):
                return True
            # Some agents never stop asking.
            return now - self._served_at > max(_RESTLESS, self.to_banner or 0.0)
        if self._plan.again:
            return now - (self.to_banner or now) > _UNASKED
        return False

    def _login(self) -> bool:
        session = self._session
        begun = time.monotonic()
        left = max(10.0, session.seconds - self._guest.seconds)
        said = ssh.remote(
            session.runner,
            ssh.ssh_argv(
                session.user,
                self._guest.port,
                session.keys,
                self._known_hosts,
                "exec sh -s",
                patience=session.patience,
            ),
            probe.script(int(left / 2)),  # each of its tries takes more than a second
            seconds=left + 30,
            stop=lambda: (
                session.cancelled()
                or self._guest.ended() is not None
                or self._console.final is not None
            ),
        )
        self.facts = probe.read_facts(said.stdout)
        if self.facts is not None:
            self.to_ssh = self._guest.seconds - (time.monotonic() - (said.answered or begun))
            return True
        words = said.stderr.strip().splitlines()
        self._refusal = f"SSH: {words[-1][:200]}" if words else "SSH: the login came to nothing"
        self._next_login = self._guest.seconds + _TRY_AGAIN
        return False


def quiet_enough(requests: Sequence[Request]) -> float:
    """Seconds of silence after which a guest that asked like this has no more to ask.

    Twice its longest pause so far: a starved guest pauses for many seconds between two requests.
    """
    times = [request.seconds for request in requests]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    return min(max(_QUIET, 2 * max(pauses, default=0.0)), _GRACE)


def boot(plan: Plan, session: Session, overlay: Path) -> Record:
    """Run one boot and take its evidence; whatever the guest does is in the record.

    A guest that this host starved before it touched its disk is booted again.
    """
    return unless_starved(lambda: _boot(plan, session, overlay))


def unless_starved(attempt: Callable[[], Record]) -> Record:
    """The first record that does not show a starved guest, else the last of a few.

    Linux looks at its start for ten ticks of the timer in a tenth of a second by the processor's
    clock (timer_irq_works, arch/x86/kernel/apic/io_apic.c). By the clock of a host with more to do
    than processors it misses them, and panics before it has seen a disk; machine.GUEST_TIME gives
    emulated guests a clock of their own, so this is for the others.
    """
    for _ in range(_STARVED_TRIES - 1):
        record = attempt()
        if _STARVED not in record.trouble:
            return record
    return attempt()


def _boot(plan: Plan, session: Session, overlay: Path) -> Record:
    log = session.evidence / f"{plan.name}-console.log"
    picture = session.evidence / f"{plan.name}-screen.png"
    with contextlib.ExitStack() as stack:
        exchange = ""
        if plan.metadata is not None:
            socket = session.scratch / f"{plan.name}.sock"
            stack.enter_context(serving(plan.metadata, socket))
            exchange = exchange_command(socket)
        console = stack.enter_context(contextlib.closing(Transcript(log)))
        guest = stack.enter_context(running(session.runner, plan.argv, overlay, exchange, console))
        attempt = _Attempt(
            guest, console, plan, session, session.scratch / f"{plan.name}.known_hosts"
        )
        trouble = attempt.run()
        host_keys: frozenset[str] = frozenset()
        power_off, seconds = None, 0.0
        evidence = [log]
        if trouble:
            if guest.picture(picture):
                evidence.append(picture)
        elif plan.login:
            host_keys = ssh.host_keys(
                session.runner, guest.port, session.cancelled, patience=session.patience
            )
            begun = guest.seconds
            power_off = guest.power_off(max(_GRACE, session.seconds / 2), session.cancelled)
            seconds = guest.seconds - begun
            if power_off is None and guest.picture(picture):
                evidence.append(picture)
    metadata = plan.metadata
    if metadata is not None:
        evidence.append(_note_requests(metadata, session.evidence / f"{plan.name}-metadata.log"))
    return Record(
        name=plan.name,
        title=plan.title,
        began=console.began,
        prompted=console.prompted,
        to_banner=attempt.to_banner,
        to_ssh=attempt.to_ssh,
        trouble=trouble,
        late=attempt.late,
        facts=attempt.facts,
        host_keys=host_keys,
        requests=metadata.requests if metadata else (),
        key_served=bool(metadata and metadata.key_served),
        signs=console.signs,
        tail=console.tail,
        power_off=power_off,
        power_off_seconds=seconds,
        clean=left_clean(session.runner, overlay) if power_off == "guest-shutdown" else None,
        evidence=tuple(evidence),
    )


def _note_requests(metadata: Metadata, log: Path) -> Path:
    lines = [
        f"{r.seconds:8.2f} s  {r.status}  {r.method} {r.path}{'  with token' * r.token}"
        for r in metadata.requests
    ]
    write_scratch(log, printable("\n".join(lines)) + "\n")
    return log


def left_clean(runner: Runner, overlay: Path) -> bool | None:
    """Whether an ext2, 3 or 4 file system that fills the disk was unmounted; None for others.

    It was not where its journal must be replayed. Raises what the reading raises: a check that was
    not made has not passed.
    """
    head = overlay.with_suffix(".superblock")
    try:
        runner.run(
            [
                *("qemu-img", "dd", "-f", "qcow2", "-O", "raw"),
                *(f"if={overlay}", f"of={head}", "bs=4096", "count=1"),
            ],
            timeout=60,
        )
        with RawFile(head) as source:
            found = recognise(source)
    finally:
        head.unlink(missing_ok=True)
    return not found.dirty if found is not None and found.type.startswith("ext") else None
