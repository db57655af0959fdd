"""The guest's serial console: kept on disk within bounds, and read for signs of trouble.

Everything here comes from the guest: lines are cut, control sequences removed, and nothing is acted
on but the fixed signs below. systemd names a unit by its description, its name or both, as its
StatusUnitFormat= has it (systemd-system.conf(5)); each sign knows all three.

Source: systemd's status messages as seen on consoles.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.core.text import without_escapes
from pipeline.verify import assertion_names

_MAX_BYTES = 8 << 20  # a noisy boot writes some hundred KiB
_MAX_LINE = 400
_KEPT = 40  # lines shown after a failure: a panic's trace fits
_MAX_SIGNS = 200
_PROMPT = re.compile(r"\blogin: ?$")
_DROPPED = dict.fromkeys(map(ord, "\r\x00\x07"))
_DEVICE = r"dev-(?!tty|hvc)"
# A name cut in its middle has lost its end; a swap's or a mount's would still be told by its last
# letter, and their jobs do not wait for anything.
_CUT = r"(?:\.d[evic]*)?(?:\.\.\.|…)(?!\S*[pt]/start)\S*"
_JOB = (
    rf"(?:A start job is running for (?:/dev/(?!tty|hvc)|{_DEVICE})"
    rf"|Job {_DEVICE}\S+?(?:\.device/start|{_CUT}) running)"
)
# A sound guest that is slow waits for its disk too: Debian 14 did for 7 s, one of a quarter of that
# speed for 31 s. systemd allows a device of fstab a minute and a half.
_LONG = r".{0,300}\(\d+(?:min|h)[^/]* / "
_WAITS = _JOB + _LONG
# systemd tells each device in full once, when it begins to wait for it.
_EXPECTED = re.compile(r"Expecting device (?:\S+ - )?(/dev/(?!tty|hvc)\S+?)\.{3}$")
_MAX_EXPECTED = 100
# The two ends of a ramdisk that runs systemd, as dracut's does.
_RAMDISK_RUNS = re.compile(
    r"Running in init(?:rd|ial RAM disk)|Booting initrd of|Welcome to .*\(Initramfs\)"
)
_RAMDISK_ENDS = re.compile(r"Switching root|Switch Root|initrd-switch-root|Welcome to ")


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
        (assertion_names.ROOT, r"^ *(?:\(initramfs\)(?: |$)|dracut:/#)", True),
        (assertion_names.ROOT, r"Could not boot\.|/run/initramfs/rdsosreport", True),
        (assertion_names.ROOT, r"Failed to mount (?:/sysroot|sysroot\.mount)", True),
        (
            assertion_names.ROOT,
            r"Dependency failed for (?:/sysroot|sysroot\.mount|[Ii]nitrd)",
            True,
        ),
        (assertion_names.ROOT, r"dracut-initqueue.{0,40} timeout", False),
        # Only the ramdisk of dracut waits for its device, the root's, without a limit.
        (
            assertion_names.ROOT,
            rf"{_WAITS}no limit",
            True,
        ),
        (assertion_names.ROOT, r"bad geometry: block count|can't find ext[234] filesystem", False),
        (
            assertion_names.FSTAB,
            r"You are in (?:emergency|rescue) mode|Give root password for maint",
            True,
        ),
        (assertion_names.FSTAB, r"Reached target (?:emergency\.target|Emergency Mode)", True),
        (assertion_names.FSTAB, r"Cannot open access to console, the root account is locked", True),
        # Not any path: a unit may be described by its script's, such as /etc/rc.local.
        (assertion_names.FSTAB, _WAITS, True),
        (assertion_names.FSTAB, rf"Job {_DEVICE}\S+\.device/start (?:timed out|failed)", False),
        # A starved guest may wait for the serial port of its login prompt: no entry of fstab.
        (assertion_names.FSTAB, r"Timed out waiting for device(?!.{0,60}\b(?:tty|hvc))", False),
        (assertion_names.FSTAB, r"Failed to mount [/\w]", False),
        (
            assertion_names.FSTAB,
            r"Dependency failed for (?:/(?!etc/)|Local File|Swap|dev-|(?:local-fs|swap)\.target"
            r"|\S+\.(?:mount|swap)\b)",
            False,
        ),
        (
            assertion_names.FSTAB,
            r"^ *(?:mount|swapon): .{0,200}(?:failed|No such|not exist|can't find)",
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
            r"can't (?:run|open) '|^ *init: .{1,80} (?:respawning too fast|terminated with)",
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
        self._expected: dict[str, None] = {}
        self._partial_signed = self._partial_kept = False
        self._began = self._prompted = self._in_ramdisk = False
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
                before = len(self._signs)
                self._partial_signed = self._look(_clean(self._partial), whole=False)
                self._partial_kept = len(self._signs) > before
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
        # What was told of the line's beginning is told of the whole.
        partial = self._signs.pop() if self._partial_signed and self._partial_kept else None
        if partial is None and self._partial_signed:
            return
        if not self._look(line) and partial is not None:
            self._signs.append(partial)

    def _look(self, line: str, *, whole: bool = True) -> bool:
        """Whether a line is a sign; the rest of one that is not whole may yet say otherwise."""
        self._prompted = self._prompted or bool(_PROMPT.search(line))
        if (expected := _EXPECTED.search(line)) and len(self._expected) < _MAX_EXPECTED:
            self._expected[expected[1]] = None
        if _RAMDISK_RUNS.search(line):
            self._in_ramdisk = True
        elif _RAMDISK_ENDS.search(line):
            self._in_ramdisk = False
        for assertion, pattern, final in _SIGNS:
            if (whole or final) and pattern.search(line):
                if self._in_ramdisk and assertion == assertion_names.FSTAB:
                    assertion = assertion_names.ROOT  # noqa: PLW2901 # all it mounts is the root
                if len(self._signs) < _MAX_SIGNS or final:
                    self._signs.append(Sign(assertion, _with_device(line, self._expected), final))
                return True
        return False


def _with_device(line: str, expected: Iterable[str]) -> str:
    """The line, and the device it waits for as it is written elsewhere: systemd escapes it.

    expected: paths that were told in full; one of them is taken for a name that is cut.
    """
    found = re.search(rf" ({_DEVICE}[^\s/]+)", line)
    if found is None or not re.search(rf"{_JOB}|waiting for device", line):
        return line
    name, end, *_ = *re.split(r"(\.d[evic]*(?:\.\.\.|…|$)|\.\.\.|…)", found[1], maxsplit=1), ""
    path = re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name.replace("-", "/"))
    path = "/" + "".join(c if c.isprintable() else "?" for c in path)
    if end in ("...", "…"):
        start = re.sub(r"\\x?[0-9a-f]?$", "", path)
        path = next((full for full in expected if full.startswith(start)), f"{start}…")
    return line if path in line else f"{line} [{path}]"


def _clean(raw: bytes) -> str:
    text = without_escapes(raw[: 16 * _MAX_LINE].decode(errors="replace")).translate(_DROPPED)
    return "".join(c if c.isprintable() else " " for c in text)[:_MAX_LINE].rstrip()
