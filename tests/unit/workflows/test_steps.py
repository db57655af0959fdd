"""One list of steps: executed, described, and stopped by the first error."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from pipeline.core.errors import DiskError
from pipeline.core.steps import Action, StepName
from pipeline.workflows.steps import Clock, Step, describe_all, execute


class Number(Step[int]):
    """Gives a number; known beforehand if `earlier` is one."""

    name = StepName.IMAGE

    def __init__(self, number: int, *inputs: Step[int], earlier: int | None = None) -> None:
        super().__init__(*inputs)
        self.number, self.earlier, self.runs = number, earlier, 0

    def reuse(self) -> int | None:
        return self.earlier

    def run(self) -> int:
        self.runs += 1
        return self.number + sum(int(step.value) for step in self.inputs)

    def describe(self) -> Sequence[Action]:
        return [Action(f"give {self.value}", reused=True) if self.known else Action("count")]


class Beside(Number):
    """Runs beside the others, once the gate is open."""

    name = StepName.DIGESTS
    background = True
    gate = threading.Event()

    def run(self) -> int:
        assert self.gate.wait(30)
        return super().run()


class Opens(Number):
    """Opens the gate."""

    name = StepName.VERIFY

    def run(self) -> int:
        Beside.gate.set()
        return super().run()


class Fails(Number):
    """Raises."""

    name = StepName.VERIFY_DISK

    def run(self) -> int:
        raise DiskError("read", "it", why="it is broken")


def test_values_flow_and_what_is_known_is_not_done_again() -> None:
    first, second = Number(1, earlier=10), Number(2)
    third = Number(3, first, second)
    clock = Clock()
    execute([first, second, third], clock)
    assert third.value == 15
    assert (first.runs, second.runs) == (0, 1)
    assert (first.result.reused, second.result.reused) == (True, False)
    assert clock.steps[StepName.IMAGE].seconds >= 0


def test_a_step_in_the_background_runs_beside_those_after_it() -> None:
    Beside.gate.clear()
    beside = Beside(1)
    last = Number(5, beside)
    execute([beside, Opens(2), last], Clock())
    assert last.value == 6


def test_the_first_error_ends_the_run() -> None:
    after = Number(1)
    with pytest.raises(DiskError, match="broken"):
        execute([Number(1), Fails(2), after], Clock())
    assert after.runs == 0


def test_an_error_in_the_background_reaches_whoever_needs_the_value() -> None:
    class FailsBeside(Fails):
        background = True

    failing = FailsBeside(1)
    with pytest.raises(DiskError, match="broken"):
        execute([failing, Number(1, failing)], Clock())


def test_describing_does_nothing() -> None:
    known, unknown = Number(1, earlier=7), Number(2)
    assert describe_all([known, unknown]) == [Action("give 7", reused=True), Action("count")]
    assert (known.runs, unknown.runs) == (0, 0)
    assert (known.known, unknown.known) == (True, False)
