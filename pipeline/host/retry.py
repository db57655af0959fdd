"""Waiting: for something to be there, and before a failed action is tried again.

The one place that sleeps, but for builders/installer/virt_install_process.py: a script that runs on
another Python, without anything of ours. Every wait ends: by what it waits for, by its time, by
`stop`, or by an exception out of its heartbeat, which is how an interrupted build leaves a wait.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_BEAT = 1.0  # seconds; the longest sleep between two heartbeats

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pauses:
    """Seconds between attempts: `first`, then `factor` times the last, at most `longest`.

    jitter: each is shortened at random by up to this part, so that many clients that failed
    together do not come back together.
    """

    first: float
    longest: float = math.inf
    factor: float = 1.0
    jitter: float = 0.0

    def after(self, attempts: int) -> float:
        """The pause after so many attempts, from 1."""
        # A hundred doublings are beyond any limit, a thousand beyond what a float can hold.
        seconds = min(self.longest, self.first * self.factor ** min(attempts - 1, 100))
        return seconds * random.uniform(1.0 - self.jitter, 1.0)  # noqa: S311 # no secret


def pause(seconds: float, heartbeat: Callable[[], None] = lambda: None) -> None:
    """Sleep, with a heartbeat at the begin and each second; it may raise."""
    end = time.monotonic() + seconds
    heartbeat()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _BEAT))
        heartbeat()


def poll(
    look: Callable[[], _T],
    *,
    seconds: float,
    pauses: Pauses,
    until: Callable[[_T], bool] = bool,
    stop: Callable[[], bool] = lambda: False,
    heartbeat: Callable[[], None] = lambda: None,
) -> _T:
    """What `look` gives as soon as `until` takes it, else its last answer before the wait ended.

    until: without one, what is true counts.
    It ends once `seconds` are over or `stop` says so; `look` has the last word in both cases.
    """
    end = time.monotonic() + seconds
    for attempts in itertools.count(1):
        found = look()
        left = end - time.monotonic()
        if until(found) or left <= 0:
            return found
        if stop():
            return look()
        pause(min(pauses.after(attempts), left), heartbeat)
    raise AssertionError("the count has no end")


def retry(
    action: Callable[[], _T],
    *,
    tries: float = math.inf,
    pauses: Pauses,
    again: Callable[[Exception], bool],
    heartbeat: Callable[[], None] = lambda: None,
) -> _T:
    """The action's result; after an exception that `again` admits it is tried again.

    The exception of the last of `tries`, or one that is not admitted, is raised.
    """
    for attempts in itertools.count(1):
        try:
            return action()
        except Exception as error:
            if attempts >= tries or not again(error):
                raise
        pause(pauses.after(attempts), heartbeat)
    raise AssertionError("the count has no end")
