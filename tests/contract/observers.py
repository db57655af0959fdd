"""Views of progress that let a test stop, kill or time a run at a named point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.core.events import Meter, Unit


class Observed:
    """Progress that calls `at(number, text)` on every call, counted from 0."""

    def __init__(self, at: Callable[[int, str], None]) -> None:
        self._at = at
        self.calls = 0

    def note(self, text: str) -> None:
        number, self.calls = self.calls, self.calls + 1
        self._at(number, text)

    def say(self, text: str) -> None:
        self.note(f"say {text}")

    def warn(self, text: str) -> None:
        self.note(f"warn {text}")

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        self.note(f"task {label}")
        yield _ObservedMeter(self, label)


class _ObservedMeter:
    def __init__(self, progress: Observed, label: str) -> None:
        self._progress, self._label = progress, label

    def advance(self, amount: int) -> None:
        self._progress.note(f"advance {self._label}")

    def describe(self, text: str) -> None:
        self._progress.note(f"describe {text}")
