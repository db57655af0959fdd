"""A plan is data: one list of steps, which a dry run describes and a build executes.

A step says what it needs (the steps before it), how an earlier run's result is found again, what
it would do, and does it. There is no second description of a build.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from pipeline.builds.manifest import StepRecord
from pipeline.core.steps import Action, StepName

T = TypeVar("T")


@dataclass(frozen=True)
class StepResult(Generic[T]):
    """What a step gave. seconds: how long it took; reused: whether an earlier run had done it."""

    value: T
    seconds: float = 0.0
    reused: bool = False


@dataclass
class Clock:
    """When each step began and how long it took, for the manifest."""

    begun: float = field(default_factory=time.monotonic)
    steps: dict[str, StepRecord] = field(default_factory=dict)

    def note(self, name: StepName, begun: float, *, reused: bool) -> float:
        """Write down a step that began at `begun` (monotonic seconds) and ends now."""
        seconds = round(time.monotonic() - begun, 3)
        self.steps[name] = StepRecord(
            seconds=seconds, reused=reused, begun=round(begun - self.begun, 3)
        )
        return seconds

    @contextmanager
    def part(self, name: StepName) -> Iterator[None]:
        """Time a part of a step."""
        begun = time.monotonic()
        yield
        self.note(name, begun, reused=False)


class Step(ABC, Generic[T]):
    """One step of a plan."""

    name: ClassVar[StepName | None] = None
    """What the manifest calls it; None for one that is not timed."""
    background: ClassVar[bool] = False
    """Whether it runs beside the steps after it, until one of them needs it."""

    def __init__(self, *inputs: Step[Any]) -> None:
        self.inputs = inputs
        self._future: Future[StepResult[T]] = Future()

    @property
    def value(self) -> T:
        """What the step gave; waits for a step in the background, raises what it raised."""
        return self._future.result().value

    @property
    def result(self) -> StepResult[T]:
        """The value and how it came about."""
        return self._future.result()

    @property
    def known(self) -> bool:
        """Whether the step has its value: in a dry run, before anything is done."""
        return self._future.done()

    def reuse(self) -> T | None:
        """The result of an earlier run, if it would be the same now."""
        return None

    def wanted(self) -> bool:
        """Whether there is anything to do or to reuse; the value of an unwanted step is None."""
        return True

    @abstractmethod
    def run(self) -> T:
        """Do it."""

    @abstractmethod
    def describe(self) -> Sequence[Action]:
        """What `run` would do, or what is reused. Call it through `describe_all`."""

    def foresee(self) -> T | None:
        """For a dry run: the value, where it is known before anything is done."""
        return self.reuse()

    def settle(self, value: T, *, seconds: float = 0.0, reused: bool = False) -> None:
        """Give the step its value."""
        self._future.set_result(StepResult(value, seconds, reused))

    def fail(self, error: BaseException) -> None:
        """Have whoever needs the step's value get this error."""
        self._future.set_exception(error)


def execute(steps: Sequence[Step[Any]], clock: Clock) -> None:
    """Run the steps in their order; those in the background beside the ones that follow.

    The first error ends the run; it is raised once no step is at work any more.
    """
    with ThreadPoolExecutor(thread_name_prefix="step") as pool:
        for step in steps:
            if step.background:
                pool.submit(_execute, step, clock)
            else:
                _execute(step, clock)
                _ = step.result  # raises what the step raised


def _execute(step: Step[Any], clock: Clock) -> None:
    begun = time.monotonic()
    try:
        if not step.wanted():
            step.settle(None)
            return
        value = step.reuse()
        reused = value is not None
        if not reused:
            value = step.run()
        seconds = clock.note(step.name, begun, reused=reused) if step.name else 0.0
        step.settle(value, seconds=seconds, reused=reused)
    except BaseException as error:
        step.fail(error)


def describe_all(steps: Sequence[Step[Any]]) -> list[Action]:
    """What `execute` would do now; nothing is changed."""
    actions: list[Action] = []
    for step in steps:
        if not step.wanted():
            step.settle(None)
        elif (value := step.foresee()) is not None:
            step.settle(value, reused=True)
        actions += step.describe()
    return actions
