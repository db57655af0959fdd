"""What a stage may tell the user, and the three ways it is shown."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Unit = Literal["bytes", "steps", "seconds"]
"""What a task counts. Seconds are those of a forecast: how far it is, not how long it ran."""

_SILENCE = 3  # intervals after which a plain line says that a silent task still runs


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


def tell(text: str, stream: TextIO | None = None) -> None:
    """A line for people, on standard error by default.

    Where the log it goes to cannot be written any more (full, over a limit), the work goes on
    without words: its exit code still tells how it ended. Raises BrokenPipeError alone.
    """
    target = stream or sys.stderr
    try:
        print(text, file=target, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        # What waits in the buffer would fail again when the interpreter ends, with a status of
        # its own (120).
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())


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
        tell(f"warning: {printable(text)}", self._stream)

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        """Show nothing."""
        yield _QuietMeter()


class _Count:
    """What a task has done, at what rate, and when it will be through."""

    def __init__(self, total: int | None, unit: Unit) -> None:
        self._total, self._unit = total, unit
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._done = 0

    def add(self, amount: int) -> int:
        with self._lock:
            self._done += amount
            return self._done

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    def figures(self) -> str:
        """ "3 of 9", "1.2 MiB of 4.0 MiB, 7 s left, 410.0 KiB/s", or "40 %, about 60 s left".

        Empty before the first of them.
        """
        if not self._done:
            return ""
        if self._unit == "steps":
            return f"{self._done}" + (f" of {self._total}" if self._total else "")
        rate = self._done / max(self.elapsed, 1e-9)
        left = 0.0
        if self._total:
            left = max(self._total - self._done, 0) / max(rate, 1e-3)
        if self._unit == "seconds":
            if not self._total:
                return ""
            share = min(100 * self._done // self._total, 99)
            return f"{share} %, about {human_seconds(left)} left"
        text = human_bytes(self._done)
        if self._total:
            text += f" of {human_bytes(self._total)}, {human_seconds(left)} left"
        return f"{text}, {human_bytes(rate)}/s"


class _PlainMeter:
    def __init__(self, show: PlainProgress, label: str, count: _Count) -> None:
        self._show, self._label, self._count = show, label, count
        self._last = time.monotonic()
        self._ended = threading.Event()

    def advance(self, amount: int) -> None:
        self._count.add(amount)
        if amount:
            self._tell_after(self._show.interval)

    def describe(self, text: str) -> None:
        if text != self._label:
            self._label = text
            self._tell_after(0)

    def beat(self) -> None:
        """Until `end`: say now and then that a silent task still runs."""
        silence = self._show.interval * _SILENCE
        while not self._ended.wait(max(silence / 2, 0.01)):
            self._tell_after(silence, f"after {human_seconds(self._count.elapsed)}")

    def end(self) -> None:
        self._ended.set()

    def _tell_after(self, seconds: float, more: str = "") -> None:
        now = time.monotonic()
        if now - self._last < seconds:
            return
        self._last = now
        figures = ", ".join(text for text in (self._count.figures(), more) if text)
        self._show.say(f"{self._label}: {figures}" if figures else self._label)


class PlainProgress:
    """Plain lines, one a task and one every `interval` seconds (logs, CI)."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self._stream, self.interval = stream, interval

    def say(self, text: str) -> None:
        """Print the line."""
        tell(printable(text), self._stream)

    def warn(self, text: str) -> None:
        """Print the line, marked."""
        self.say(f"warning: {text}")

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        """Print the label when the task starts and its time when it ends."""
        begun = time.monotonic()
        self.say(label)
        meter = _PlainMeter(self, label, _Count(total, unit))
        beats = threading.Thread(target=meter.beat, name="beats", daemon=True)
        beats.start()
        try:
            yield meter
        finally:
            meter.end()
            beats.join()
        self.say(f"{label}: done in {time.monotonic() - begun:.1f} s")


class _TerminalMeter:
    def __init__(self, bars: Bars, task: TaskID, count: _Count) -> None:
        self._bars, self._task, self._count = bars, task, count

    def advance(self, amount: int) -> None:
        done = self._count.add(amount)
        self._bars.update(self._task, completed=done, figures=self._count.figures())

    def describe(self, text: str) -> None:
        self._bars.update(self._task, description=printable(text))


class TerminalProgress:
    """Bars with rate and time left, drawn by rich on standard error.

    stream: a terminal to draw on in its place. Tasks may run side by side and in each other.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._console = Console(
            file=stream or sys.stderr, highlight=False, force_terminal=stream is not None or None
        )
        # One display for all tasks: a terminal has one last line.
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._lock = threading.Lock()
        self._running = 0

    def say(self, text: str) -> None:
        """Print the line above the bars."""
        self._console.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """Print the line above the bars, in yellow."""
        self._console.print(f"warning: {printable(text)}", style="yellow", markup=False)

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        """Draw a bar until the context ends, then a line with its time unless it failed."""
        begun = time.monotonic()
        task = self._bars.add_task(printable(label), total=total, figures="")
        with self._drawing():
            try:
                yield _TerminalMeter(self._bars, task, _Count(total, unit))
            finally:
                self._bars.remove_task(task)
        self.say(f"{label}: {time.monotonic() - begun:.1f} s")

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._bars.start()
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._bars.stop()


class Masked:
    """Another view, without what must not be shown. mask: from a text to the text to show."""

    def __init__(self, inner: Progress, mask: Callable[[str], str]) -> None:
        self._inner, self._mask = inner, mask

    def say(self, text: str) -> None:
        """See Progress."""
        self._inner.say(self._mask(text))

    def warn(self, text: str) -> None:
        """See Progress."""
        self._inner.warn(self._mask(text))

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        """See Progress."""
        with self._inner.task(self._mask(label), total, unit) as meter:
            yield _MaskedMeter(meter, self._mask)


class _MaskedMeter:
    def __init__(self, inner: Meter, mask: Callable[[str], str]) -> None:
        self._inner, self._mask = inner, mask

    def advance(self, amount: int) -> None:
        self._inner.advance(amount)

    def describe(self, text: str) -> None:
        self._inner.describe(self._mask(text))


def human_bytes(count: float) -> str:
    """`count` bytes in the largest binary unit that keeps it above one: 1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """0.35 -> "0.35 s", 75 -> "1 min 15 s", 7260 -> "2 h 1 min"."""
    if 0 < seconds < 9.95:
        return f"{seconds:.2g} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def printable(text: str) -> str:
    """`text` with control characters escaped, so that no guest string can drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
