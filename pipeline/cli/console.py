"""Sinks of a run's progress: plain lines and a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID
from pipeline.core.events import Meter, Unit, tell
from pipeline.core.text import human_bytes, human_seconds, printable

_SILENCE = 3  # intervals after which a plain line says that a silent task still runs


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
