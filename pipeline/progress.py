"""What a stage may tell the user, and the three ways it is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol, TextIO

Unit = Literal["bytes", "steps"]


class Meter(Protocol):
    """One running task. Safe to call from any thread."""

    def advance(self, amount: int) -> None:
        """Count `amount` more bytes or steps as done."""

    def describe(self, text: str) -> None:
        """Replace the task's label, say by the installer's phase."""


class Progress(Protocol):
    """The user's view of a run."""

    def say(self, text: str) -> None:
        """One line of ordinary information."""

    def warn(self, text: str) -> None:
        """One line the user should act on; the run goes on."""

    def task(
        self, label: str, total: int | None = None, unit: Unit = "bytes"
    ) -> AbstractContextManager[Meter]:
        """Show a task until the context ends; `total` None when the end is unknown."""


class _QuietMeter:
    def advance(self, amount: int) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


class QuietProgress:
    """Shows warnings only (`--quiet`, `--json`, tests)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Show the warning on standard error."""
        print(f"warning: {printable(text)}", file=self._stream or sys.stderr, flush=True)

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        """Show nothing."""
        yield _QuietMeter()


class _PlainMeter:
    def __init__(self, show: PlainProgress, label: str, total: int | None, unit: Unit) -> None:
        self._show, self._label, self._total, self._unit = show, label, total, unit
        self._done = 0
        self._begun = self._last = time.monotonic()

    def advance(self, amount: int) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= self._show.interval:
            self._last = now
            self._show.say(f"{self._label}: {self._figures(now)}")

    def describe(self, text: str) -> None:
        if text != self._label:
            self._label = text
            self._show.say(text)

    def _figures(self, now: float) -> str:
        rate = self._done / max(now - self._begun, 1e-9)
        if self._unit == "steps":
            return f"{self._done}" + (f" of {self._total}" if self._total else "")
        text = human_bytes(self._done)
        if self._total:
            left = (self._total - self._done) / max(rate, 1)
            text += f" of {human_bytes(self._total)}, {left:.0f} s left"
        return f"{text}, {human_bytes(rate)}/s"


class PlainProgress:
    """Plain lines, one a task and one every `interval` seconds (logs, CI)."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self._stream, self.interval = stream, interval

    def say(self, text: str) -> None:
        """Print the line."""
        print(printable(text), file=self._stream or sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print the line, marked."""
        self.say(f"warning: {text}")

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        """Print the label when the task starts and its time when it ends."""
        begun = time.monotonic()
        self.say(label)
        yield _PlainMeter(self, label, total, unit)
        self.say(f"{label}: done in {time.monotonic() - begun:.1f} s")


class _TerminalMeter:
    def __init__(self, bar: object, task: object) -> None:
        self._bar, self._task = bar, task

    def advance(self, amount: int) -> None:
        self._bar.advance(self._task, amount)  # type: ignore[attr-defined] # rich is imported late

    def describe(self, text: str) -> None:
        self._bar.update(  # type: ignore[attr-defined] # rich is imported late
            self._task, description=printable(text)
        )


class TerminalProgress:
    """Bars with rate and time left, drawn by rich on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import (
            Progress as Bars,
        )

        self._console = Console(stderr=True, highlight=False)
        self._columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars_type = Bars

    def say(self, text: str) -> None:
        """Print the line above the bars."""
        self._console.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """Print the line above the bars, in yellow."""
        self._console.print(f"warning: {printable(text)}", style="yellow", markup=False)

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        """Draw a bar until the context ends."""
        begun = time.monotonic()
        with self._bars_type(*self._columns, console=self._console, transient=True) as bars:
            task = bars.add_task(printable(label), total=total, figures="")
            yield _TerminalMeter(bars, task)
        self.say(f"{label}: {time.monotonic() - begun:.1f} s")


def human_bytes(count: float) -> str:
    """`count` bytes in the largest binary unit that keeps it above one: 1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def printable(text: str) -> str:
    """`text` with control characters escaped, so that no guest string can drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
