"""What a stage may tell the user, and the three ways it is shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from pipeline.core.text import printable

if TYPE_CHECKING:
    pass

Unit = Literal["bytes", "steps", "seconds"]
"""What a task counts. Seconds are those of a forecast: how far it is, not how long it ran."""


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
