"""The guest's serial console: kept on disk within bounds, and read for signs of trouble.

Everything here comes from the guest: lines are cut, colours removed, and nothing is acted on but
the fixed signs below.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.verify import assertion_names

_MAX_BYTES = 8 << 20  # a noisy boot writes some hundred KiB
_MAX_LINE = 400
_KEPT = 40  # lines shown after a failure: a panic's trace fits
_MAX_SIGNS = 200
_PROMPT = re.compile(r"\blogin: ?$")
_ESCAPE = re.compile(rb"\x1b(?:\[[0-9;?]{0,20}[@-~]|[()][A-Z0-9]|[=>78cDEHMNOZ])|[\r\x00\x07]")


@dataclass(frozen=True)
class Sign:
    """A console line that speaks against an assertion. final: the boot cannot recover."""

    assertion: str
    line: str
    final: bool


_SIGNS: tuple[tuple[str, re.Pattern[str], bool], ...] = tuple(
    (assertion, re.compile(pattern), final)
    for assertion, pattern, final in (
        (
            assertion_names.RAMDISK,
            r"Initramfs unpacking failed|invalid magic at start of compressed",
            False,
        ),
        (
            assertion_names.MODULES,
            r"version magic '|disagrees about version of|[Ii]nvalid module format",
            False,
        ),
        (
            assertion_names.MODULES,
            r"modprobe: .{1,200}(?:not found in|can't change directory|can't open)",
            False,
        ),
        (assertion_names.ROOT, r"VFS: (?:Unable to mount root|Cannot open root device)", True),
        (assertion_names.ROOT, r"ALERT!\s+.{1,100} does not exist", True),
        (assertion_names.ROOT, r"^\(initramfs\)(?: |$)|^dracut:/#", True),
        (
            assertion_names.ROOT,
            r"Could not boot\.|Failed to mount /sysroot|/run/initramfs/rdsosreport",
            True,
        ),
        (assertion_names.ROOT, r"bad geometry: block count|can't find ext[234] filesystem", False),
        (
            assertion_names.FSTAB,
            r"You are in (?:emergency|rescue) mode|Give root password for maint",
            True,
        ),
        # Not any path: a unit may be described by its script's, such as /etc/rc.local.
        (assertion_names.FSTAB, r"A start job is running for (?:/dev/|dev-)(?!tty|hvc)", True),
        # A starved guest may wait for the serial port of its login prompt: no entry of fstab.
        (assertion_names.FSTAB, r"Timed out waiting for device(?!.{0,60}\b(?:tty|hvc))", False),
        (assertion_names.FSTAB, r"Failed to mount [/\w]", False),
        (assertion_names.FSTAB, r"Dependency failed for (?:/(?!etc/)|Local File|Swap|dev-)", False),
        (
            assertion_names.FSTAB,
            r"^(?:mount|swapon): .{0,200}(?:failed|No such|not exist|can't find)",
            False,
        ),
        (assertion_names.PANIC, r"Kernel panic - not syncing", True),
        (
            assertion_names.PANIC,
            r"(?:^|\] )(?:BUG: |kernel BUG at|Oops: |general protection fault)",
            False,
        ),
        (
            assertion_names.PANIC,
            r"(?:^|\] )(?:watchdog: BUG|INFO: task .{1,60} blocked for more)",
            False,
        ),
        # fd0: old kernels probe a floppy drive that answers and has no disk.
        (assertion_names.IO, r"(?:I/O error|end_request: I/O error)(?!.{0,40}\bfd0)", False),
        (
            assertion_names.IO,
            r"EXT[234]-fs error|XFS .{0,40}[Cc]orruption|JBD2: .{0,60}error",
            False,
        ),
        (assertion_names.INIT, r"\[FAILED\] Failed to (?!mount)\w+", False),
        (
            assertion_names.INIT,
            r"can't (?:run|open) '|^init: .{1,80} (?:respawning too fast|terminated with)",
            False,
        ),
    )
)


class Transcript:
    """Collects one guest's console. Fed by one thread, asked by another."""

    def __init__(self, log: Path) -> None:
        self._log: BinaryIO = log.open("wb")
        self._written = 0
        self._partial = b""
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._signs: list[Sign] = []
        self._partial_signed = False
        self._began = self._prompted = False
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> None:
        """Take what the guest wrote next."""
        with self._lock:
            if self._written < _MAX_BYTES:
                self._log.write(data[: _MAX_BYTES - self._written])
                self._log.flush()
                self._written += len(data)
            *whole, self._partial = (self._partial + data).split(b"\n")
            for raw in whole:
                self._take(raw)
                self._partial_signed = False
            # A prompt has no line end; and a line without one must not grow for ever.
            if not self._partial_signed:
                self._partial_signed = self._look(_clean(self._partial), whole=False)
            self._partial = self._partial[-16 * _MAX_LINE :]

    def close(self) -> None:
        """Close the log."""
        with self._lock:
            if self._partial:
                self._take(self._partial)
            self._partial = b""
            self._log.close()

    @property
    def began(self) -> bool:
        """Whether the kernel has said its version."""
        with self._lock:
            return self._began

    @property
    def prompted(self) -> bool:
        """Whether a login prompt has been shown."""
        with self._lock:
            return self._prompted

    @property
    def signs(self) -> tuple[Sign, ...]:
        """Signs of trouble, oldest first."""
        with self._lock:
            return tuple(self._signs)

    @property
    def final(self) -> Sign | None:
        """The first sign after which the boot cannot recover."""
        return next((sign for sign in self.signs if sign.final), None)

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines."""
        with self._lock:
            return tuple(self._lines)

    def _take(self, raw: bytes) -> None:
        line = _clean(raw)
        if not line:
            return
        self._lines.append(line)
        if "Linux version " in line:
            self._began = True
        if not self._partial_signed:
            self._look(line)

    def _look(self, line: str, *, whole: bool = True) -> bool:
        """Whether a line is a sign; the rest of one that is not whole may yet say otherwise."""
        self._prompted = self._prompted or bool(_PROMPT.search(line))
        for assertion, pattern, final in _SIGNS:
            if (whole or final) and pattern.search(line):
                if len(self._signs) < _MAX_SIGNS or final:
                    self._signs.append(Sign(assertion, line, final))
                return True
        return False


def _clean(raw: bytes) -> str:
    text = _ESCAPE.sub(b"", raw[: 4 * _MAX_LINE]).decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text)[:_MAX_LINE].rstrip()
