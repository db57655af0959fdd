"""Judges a running install by what it says and does. No input or output: time is an argument.

Success is positive: virt-install ended with 0, the domain was shut off by the guest itself, and
the nonce that only the last script of the installed system prints was on the console. Exit codes
alone are no proof: virt-install also ends with 0 when qemu is killed or the installer gives up.

Numbers are libvirt's enumerations virDomainState, virDomainShutoffReason,
virDomainEventType, virDomainEventShutdownDetailType and virDomainEventStoppedDetailType.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.builders.installer.console_patterns import BOOT, PANIC, Profile
from pipeline.builders.installer.errors import (
    AbortedError,
    AnswersUnreadError,
    ConsoleFloodError,
    DiskSpaceError,
    FatalMessageError,
    GuestKilledError,
    HangError,
    InstallFailure,
    LibvirtLostError,
    PanicError,
    RebootLoopError,
    TimeLimitError,
    VirtInstallError,
)
from pipeline.builders.installer.preseed import DONE, FAILED, STARTED

_STATE_PAUSED, _STATE_SHUTOFF, _STATE_CRASHED = 3, 5, 6
_PAUSED_IO_ERROR = 5
_OFF_SHUTDOWN, _OFF_DESTROYED, _OFF_CRASHED = 1, 2, 3
_OFF_BY_STOP = {0: _OFF_SHUTDOWN, 1: _OFF_DESTROYED, 2: _OFF_CRASHED}
_LIFECYCLE_STARTED, _LIFECYCLE_STOPPED, _LIFECYCLE_SHUTDOWN, _LIFECYCLE_CRASHED = 2, 5, 6, 8
_SHUTDOWN_BY_HOST = 2
_CONTEXT = 20  # lines kept around what went wrong


@dataclass(frozen=True)
class Limits:
    """Bounds in seconds. wall: the whole install. quiet: without any sign of life.

    first_sign: from the start to the first byte on the console. settle: how long lines are still
    collected after a fatal one. boots: kernels that may start before it is a loop.
    """

    wall: float
    quiet: float
    first_sign: float = 300.0
    settle: float = 3.0
    boots: int = 3


@dataclass(frozen=True)
class Verdict:
    """Why the install failed. lines: of the console, not masked."""

    kind: type[InstallFailure]
    why: str
    lines: tuple[str, ...] = ()
    advice: str = ""


class Judge:
    """Collects what is seen of an install and says when it has failed, and how it ended."""

    def __init__(self, profile: Profile, nonce: str, limits: Limits, now: float) -> None:
        self.limits = limits
        self.phases: list[tuple[float, str]] = []
        self._profile = profile
        self._nonce = nonce
        self._begun = self._active = now
        self._sign: Hashable = None
        self._glimpsed = ""
        self._heard = False
        self._running = False
        self._boots = 0
        self._started = self._done = False
        self._tail: deque[str] = deque(maxlen=_CONTEXT)
        self._trouble: Verdict | None = None
        self._trouble_at = 0.0
        self._around: list[str] = []
        self._stopped = 0
        self._ended_by_host = False

    def elapsed(self, now: float) -> float:
        """Seconds since the install began."""
        return now - self._begun

    @property
    def phase(self) -> str:
        """The phase the installer is in, "" before its first sign."""
        return self.phases[-1][1] if self.phases else ""

    def hear(self, lines: Sequence[str], now: float) -> None:
        """Take lines of the console."""
        self._heard |= bool(lines)
        for line in filter(None, map(self._profile.timeless, lines)):
            self._active = now
            self._tail.append(line)
            if self._trouble is not None:
                self._around.append(line)
            self._marker(line, now)
            self._boots += bool(BOOT.search(line))
            if (name := self._profile.phase(line)) and name != self.phase:
                self.phases.append((now - self._begun, name))
            if PANIC.search(line):
                self._accuse(PanicError, "the guest's kernel panicked", now)
            elif self._profile.is_fatal(line):
                self._accuse(FatalMessageError, f"the installer gave up: {line.strip()}", now)

    def _marker(self, line: str, now: float) -> None:
        if self._nonce not in line:
            return
        self._started |= f"{STARTED} {self._nonce}" in line
        self._done |= f"{DONE} {self._nonce}" in line
        if f"{FAILED} {self._nonce}" in line:
            self._accuse(FatalMessageError, "the installer ran its error scripts", now)

    def _accuse(self, kind: type[InstallFailure], why: str, now: float) -> None:
        # The first accusation names the cause; a panic says more than what led to it.
        if self._trouble is None or (kind is PanicError and self._trouble.kind is not PanicError):
            if self._trouble is None:
                self._around = list(self._tail)
            self._trouble, self._trouble_at = Verdict(kind, why), now

    def glimpse(self, line: str, now: float) -> None:
        """Take the console's unfinished line, say a progress bar: it may be a sign of life."""
        if (text := self._profile.timeless(line)) != self._glimpsed:
            self._glimpsed, self._active = text, now

    def feel(self, sign: Hashable, now: float) -> None:
        """Take counters of disk and network; any change is a sign of life."""
        if sign != self._sign:
            self._sign, self._active = sign, now

    def event(self, event: Mapping[str, Any], now: float) -> None:
        """Take one of virt_install_process.py's events."""
        name = event["event"]
        if name == "lifecycle":
            self._running |= event["kind"] == _LIFECYCLE_STARTED
            if event["kind"] == _LIFECYCLE_SHUTDOWN:
                self._ended_by_host = event["detail"] == _SHUTDOWN_BY_HOST
            if event["kind"] == _LIFECYCLE_STOPPED:
                self._stopped = _OFF_BY_STOP.get(event["detail"], 0)
            if event["kind"] == _LIFECYCLE_CRASHED:
                self._accuse(PanicError, "the guest's kernel reported a panic", now)
        elif name == "io-error":
            self._accuse(DiskSpaceError, _io_error(event["reason"]), now)
        elif name == "state" and event["state"] == _STATE_CRASHED:
            self._accuse(PanicError, "the guest's kernel reported a panic", now)
        elif name == "state" and (event["state"], event["reason"]) == (
            _STATE_PAUSED,
            _PAUSED_IO_ERROR,
        ):
            self._accuse(DiskSpaceError, _io_error(""), now)

    def verdict(self, now: float) -> Verdict | None:
        """Why to give the running guest up now; None to let it run."""
        if self._trouble is not None and now - self._trouble_at >= self.limits.settle:
            return self._with_lines(self._trouble)
        if self._boots > self.limits.boots:
            return self._say(RebootLoopError, f"its kernel started {self._boots} times")
        if now - self._begun >= self.limits.wall:
            where = f", in the phase {self.phase!r}" if self.phase else ""
            return self._say(
                TimeLimitError, f"it did not end within {self.limits.wall:.0f} s{where}"
            )
        if self._running and not self._heard and now - self._begun >= self.limits.first_sign:
            return Verdict(
                HangError,
                f"the guest wrote nothing on its console for {now - self._begun:.0f} s",
                advice="Set IMAGE_PIPELINE_ACCEL=tcg if this host's KVM may be at fault; check "
                "that the recipe's installer_arguments keep the serial console",
            )
        quiet = now - self._active
        if quiet >= self.limits.quiet:
            where = f" in the phase {self.phase!r}" if self.phase else ""
            return self._say(
                HangError, f"no console, disk or network activity for {quiet:.0f} s{where}"
            )
        return None

    def flood(self, size: int) -> Verdict:
        """The verdict on a guest that wrote `size` bytes to its console."""
        return self._say(ConsoleFloodError, f"the guest wrote more than {size >> 20} MiB to it")

    def end(self, exit_event: Mapping[str, Any] | None, lost: str) -> Verdict | None:
        """How it ended, once all lines and events are taken; None means success.

        exit_event: virt_install_process.py's last word, None if it died without one. lost: which
        program died, for the message.
        """
        if self._trouble is not None:
            return self._with_lines(self._trouble)
        if exit_event is None:
            return self._say(LibvirtLostError, f"{lost} died")
        code, state, reason = (exit_event[key] for key in ("code", "state", "reason"))
        if lost:
            return self._say(LibvirtLostError, f"{lost} died")
        # virt-install defines the domain after its start, which forgets why it stopped by then.
        reason = reason or self._stopped
        if state == _STATE_SHUTOFF and reason in (_OFF_DESTROYED, _OFF_CRASHED):
            what = "was destroyed from outside" if reason == _OFF_DESTROYED else "died"
            return self._say(GuestKilledError, f"the virtual machine {what}")
        if self._ended_by_host and code == 0:
            return self._say(GuestKilledError, "qemu was ended by a signal of the host")
        if code != 0 or state != _STATE_SHUTOFF or reason != _OFF_SHUTDOWN:
            if self._running:
                return self._say(
                    LibvirtLostError,
                    f"virt-install ended with {code} and the guest in state {state} ({reason})",
                )
            return Verdict(VirtInstallError, f"virt-install ended with {code} before it ran")
        if not self._done:
            if self._started:
                return self._say(
                    AbortedError, "the guest left before the last %post of its answer file"
                )
            return self._say(
                AnswersUnreadError, "the guest left without having read its answer file"
            )
        return None

    def _say(self, kind: type[InstallFailure], why: str) -> Verdict:
        return Verdict(kind, why, tuple(self._tail))

    def _with_lines(self, verdict: Verdict) -> Verdict:
        return Verdict(verdict.kind, verdict.why, tuple(self._around[: 2 * _CONTEXT]))


def _io_error(reason: str) -> str:
    if reason == "enospc":
        return "the host's file system is full"
    return "the host could not read or write the disk image" + (f" ({reason})" if reason else "")
