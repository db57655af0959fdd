"""What a run tells while it works: one stream of records, whatever shows them.

Steps speak through `Progress`; `EventStream` makes records of that, masks what must not be shown,
and hands them to one sink. The sinks of the command line are in cli/console.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TextIO

from pipeline.core.text import printable

Unit = Literal["bytes", "steps", "seconds"]
"""What a task counts. Seconds are those of a forecast: how far it is, not how long it ran."""

EventKind = Literal["say", "warn", "begin", "advance", "describe", "end", "error"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    kind: "say", "warn" and "error" are lines of their own; the others belong to the task numbered
    `task` (from 1). text: the line, or the task's label. total: what the task will count to, None
    when nobody knows, with `unit`. done: what it has counted. at: monotonic seconds. failed: of
    "end", whether an error ended the task. record: of "error", its fields for programs.
    """

    kind: EventKind
    text: str = ""
    task: int = 0
    total: int | None = None
    unit: Unit = "bytes"
    done: int = 0
    at: float = 0.0
    failed: bool = False
    record: Mapping[str, str | int] = field(default_factory=dict)


class Sink(Protocol):
    """Shows or keeps events; safe to call from any thread."""

    def take(self, event: Event) -> None:
        """Take the next event."""


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


class EventStream:
    """`Progress` as a stream of events. mask: from a text to the text that may be shown."""

    def __init__(self, sink: Sink, mask: Callable[[str], str] = str) -> None:
        self._sink, self._mask = sink, mask
        self._numbers = itertools.count(1)

    def say(self, text: str) -> None:
        """See Progress."""
        self._sink.take(Event("say", self._mask(text), at=time.monotonic()))

    def warn(self, text: str) -> None:
        """See Progress."""
        self._sink.take(Event("warn", self._mask(text), at=time.monotonic()))

    def fail(self, text: str, record: Mapping[str, str | int]) -> None:
        """One failure. record: PipelineError.record() and the exit code."""
        shown = {
            name: self._mask(value) if isinstance(value, str) else value
            for name, value in record.items()
        }
        self._sink.take(Event("error", self._mask(text), at=time.monotonic(), record=shown))

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        """See Progress."""
        meter = _StreamMeter(self._sink, self._mask, next(self._numbers), total, unit)
        meter.emit("begin", label)
        failed = True
        try:
            yield meter
            failed = False
        finally:
            meter.emit("end", failed=failed)


class _StreamMeter:
    def __init__(  # private: the stream makes them
        self,
        sink: Sink,
        mask: Callable[[str], str],
        number: int,
        total: int | None,
        unit: Unit,
    ) -> None:
        self._sink, self._mask = sink, mask
        self._number, self._total, self._unit = number, total, unit
        self._lock = threading.Lock()
        self._label, self._done = "", 0

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
        self.emit("advance")

    def describe(self, text: str) -> None:
        self.emit("describe", text)

    def emit(self, kind: EventKind, text: str = "", *, failed: bool = False) -> None:
        if text:
            self._label = self._mask(text)
        self._sink.take(
            Event(
                kind,
                self._label,
                self._number,
                self._total,
                self._unit,
                self._done,
                time.monotonic(),
                failed,
            )
        )


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


class QuietSink:
    """Shows warnings and errors only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def take(self, event: Event) -> None:
        """Show it on standard error if it is a warning or an error."""
        if event.kind == "warn":
            tell(f"warning: {printable(event.text)}", self._stream)
        elif event.kind == "error":
            tell(printable(event.text), self._stream)


class QuietProgress(EventStream):
    """Shows warnings only (`--quiet`, `--json`, tests)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(QuietSink(stream))
