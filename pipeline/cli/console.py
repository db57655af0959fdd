"""Sinks of a run's events: a terminal, plain lines, JSON lines."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from pipeline.core.events import Event, EventStream, tell
from pipeline.core.text import human_bytes, human_seconds, printable

if TYPE_CHECKING:
    from rich.progress import TaskID

_SILENCE = 3  # intervals after which a plain line says that a silent task still runs
_JSON_SECONDS = 1.0  # between two records of one task's count


def figures(event: Event, begun: float) -> str:
    """ "3 of 9", "1.2 MiB of 4.0 MiB, 7 s left, 410.0 KiB/s", or "40 %, about 60 s left".

    begun: when the task began, monotonic seconds. Empty before the task counted anything.
    """
    done, total = event.done, event.total
    if not done:
        return ""
    if event.unit == "steps":
        return f"{done}" + (f" of {total}" if total else "")
    rate = done / max(event.at - begun, 1e-9)
    left = max(total - done, 0) / max(rate, 1e-3) if total else 0.0
    if event.unit == "seconds":
        if not total:
            return ""
        return f"{min(100 * done // total, 99)} %, about {human_seconds(left)} left"
    text = human_bytes(done)
    if total:
        text += f" of {human_bytes(total)}, {human_seconds(left)} left"
    return f"{text}, {human_bytes(rate)}/s"


@dataclass
class _Task:
    """A task that plain lines tell of. told: when a line was last shown."""

    last: Event
    begun: float
    told: float
    ended: threading.Event = field(default_factory=threading.Event)
    beats: threading.Thread | None = None


class PlainSink:
    """Plain lines, one a task and one every `interval` seconds (logs, CI)."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self._stream, self._interval = stream, interval
        self._tasks: dict[int, _Task] = {}
        self._lock = threading.Lock()

    def take(self, event: Event) -> None:
        """Print a line, or note the count until the next line is due."""
        if event.kind in ("say", "warn", "error"):
            mark = "warning: " if event.kind == "warn" else ""
            self._print(f"{mark}{event.text}")
        elif event.kind == "begin":
            self._begin(event)
        elif event.kind == "end":
            self._end(event)
        else:
            self._note(event)

    def _begin(self, event: Event) -> None:
        task = _Task(event, event.at, event.at)
        self._tasks[event.task] = task
        self._print(event.text)
        task.beats = threading.Thread(target=self._beat, args=(task,), name="beats", daemon=True)
        task.beats.start()

    def _note(self, event: Event) -> None:
        task = self._tasks[event.task]
        before, task.last = task.last, event
        if event.kind == "describe":
            if event.text != before.text:
                self._tell_after(task, 0)
        elif event.done > before.done:
            self._tell_after(task, self._interval)

    def _end(self, event: Event) -> None:
        task = self._tasks.pop(event.task)
        task.ended.set()
        if task.beats is not None:
            task.beats.join()
        if not event.failed:
            self._print(f"{event.text}: done in {event.at - task.begun:.1f} s")

    def _beat(self, task: _Task) -> None:
        """Until the task ends: say now and then that a silent task still runs."""
        silence = self._interval * _SILENCE
        while not task.ended.wait(max(silence / 2, 0.01)):
            self._tell_after(task, silence, f"after {human_seconds(time.monotonic() - task.begun)}")

    def _tell_after(self, task: _Task, seconds: float, more: str = "") -> None:
        now = time.monotonic()
        with self._lock:
            if now - task.told < seconds:
                return
            task.told = now
        words = ", ".join(text for text in (figures(task.last, task.begun), more) if text)
        self._print(f"{task.last.text}: {words}" if words else task.last.text)

    def _print(self, text: str) -> None:
        tell(printable(text), self._stream)


class TerminalSink:
    """Bars with rate and time left, drawn by rich on standard error.

    stream: a terminal to draw on in its place. Tasks may run side by side and in each other.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._stream = stream
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
        self._tasks: dict[int, tuple[TaskID, float]] = {}

    def take(self, event: Event) -> None:
        """Draw a bar until its task ends, then a line with its time unless it failed."""
        if event.kind == "error":  # as it is: rich would break its lines
            tell(printable(event.text), self._stream)
        elif event.kind == "say":
            self._console.print(printable(event.text), markup=False)
        elif event.kind == "warn":
            text = f"warning: {printable(event.text)}"
            self._console.print(text, style="yellow", markup=False)
        elif event.kind == "begin":
            self._begin(event)
        elif event.kind == "end":
            self._end(event)
        else:
            task, begun = self._tasks[event.task]
            self._bars.update(
                task,
                completed=event.done,
                description=printable(event.text),
                figures=figures(event, begun),
            )

    def _begin(self, event: Event) -> None:
        with self._lock:
            task = self._bars.add_task(printable(event.text), total=event.total, figures="")
            self._tasks[event.task] = (task, event.at)
            if len(self._tasks) == 1:
                self._bars.start()

    def _end(self, event: Event) -> None:
        with self._lock:
            task, begun = self._tasks.pop(event.task)
            self._bars.remove_task(task)
            if not self._tasks:
                self._bars.stop()
        if not event.failed:
            text = f"{event.text}: {event.at - begun:.1f} s"
            self._console.print(printable(text), markup=False)


class JsonLinesSink:
    """One JSON object a line on standard error, for programs (IMAGE_PIPELINE_PROGRESS=json)."""

    def __init__(self, stream: TextIO | None = None, interval: float = _JSON_SECONDS) -> None:
        self._stream, self._interval = stream, interval
        self._lock = threading.Lock()
        self._begun: dict[int, float] = {}
        self._told: dict[int, float] = {}

    def take(self, event: Event) -> None:
        """Write the event; of a task's counts at most one every `interval` seconds."""
        record: dict[str, object] = {"event": event.kind, "text": event.text, **event.record}
        with self._lock:
            if event.kind == "begin":
                self._begun[event.task] = self._told[event.task] = event.at
            if event.kind == "advance":
                if event.at - self._told[event.task] < self._interval:
                    return
                self._told[event.task] = event.at
            if event.task:
                record |= {"task": event.task, "done": event.done, "total": event.total}
                record |= {"unit": event.unit}
            if event.kind == "end":
                seconds = round(event.at - self._begun.pop(event.task), 3)
                self._told.pop(event.task)
                record |= {"seconds": seconds, "failed": event.failed}
        tell(json.dumps(record), self._stream)


class PlainProgress(EventStream):
    """Plain lines (logs, CI)."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        super().__init__(PlainSink(stream, interval))


class TerminalProgress(EventStream):
    """Bars on a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(TerminalSink(stream))
