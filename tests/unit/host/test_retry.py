"""Waits end, and their pauses are what they are said to be."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.host.retry import Pauses, pause, poll, retry

SHORT = Pauses(0.001)


def in_turn(*answers: object) -> Callable[[], object]:
    left = list(answers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_wait_ends_with_what_it_waited_for() -> None:
    assert poll(in_turn(None, False, "there"), seconds=60, pauses=SHORT) == "there"


def test_what_counts_can_be_said() -> None:
    answers = in_turn("pending", None, "failed", "available")
    wanted = ("available", "failed")
    assert poll(answers, until=lambda s: s in wanted, seconds=60, pauses=SHORT) == "failed"
    assert poll(in_turn("pending"), until=lambda s: s in wanted, seconds=0.02, pauses=SHORT) == (
        "pending"
    )


def test_a_wait_ends_with_its_time_and_the_last_answer() -> None:
    begun = time.monotonic()
    assert poll(in_turn(None, 0), seconds=0.05, pauses=SHORT) == 0
    assert poll(in_turn(None, "late"), seconds=0.05, pauses=Pauses(60)) == "late"
    assert 0.1 <= time.monotonic() - begun < 5
    assert poll(in_turn("there"), seconds=0, pauses=SHORT) == "there"


def test_a_wait_that_is_stopped_looks_once_more() -> None:
    assert poll(in_turn(None, "at the end"), seconds=60, pauses=SHORT, stop=lambda: True) == (
        "at the end"
    )
    assert poll(in_turn(None), seconds=60, pauses=SHORT, stop=lambda: True) is None


def test_an_interrupted_user_does_not_wait() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pause(60, interrupted)
    with pytest.raises(KeyboardInterrupt):
        poll(in_turn(None), seconds=60, pauses=Pauses(60), heartbeat=interrupted)
    assert time.monotonic() - begun < 5


def test_a_long_pause_has_a_heartbeat_each_second() -> None:
    beats: list[float] = []
    pause(2.2, lambda: beats.append(time.monotonic()))
    assert len(beats) == 4
    assert beats[-1] - beats[0] >= 2.2


def test_an_action_is_tried_again_for_what_may_pass() -> None:
    tried: list[int] = []

    def action() -> str:
        tried.append(1)
        if len(tried) < 3:
            raise TimeoutError
        return "done"

    assert retry(action, tries=3, pauses=SHORT, again=lambda _: True) == "done"
    assert len(tried) == 3


@pytest.mark.parametrize(("tries", "again", "times"), [(2, True, 2), (9, False, 1)])
def test_the_last_failure_is_told(tries: int, again: bool, times: int) -> None:
    tried: list[int] = []

    def action() -> None:
        tried.append(1)
        raise TimeoutError(len(tried))

    with pytest.raises(TimeoutError, match=str(times)):
        retry(action, tries=tries, pauses=SHORT, again=lambda _: again)
    assert len(tried) == times


def test_pauses_grow_to_their_limit() -> None:
    pauses = Pauses(first=1, longest=30, factor=2)
    assert [pauses.after(n) for n in (1, 2, 3, 6, 5000)] == [1, 2, 4, 30, 30]
    assert [Pauses(0.25).after(n) for n in (1, 2, 5000)] == [0.25] * 3


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_only_shortens(attempts: int, jitter: float) -> None:
    pauses = Pauses(first=1, longest=30, factor=2, jitter=jitter)
    longest = min(30.0, 2.0 ** min(attempts - 1, 10))
    assert (1 - jitter) * longest - 1e-9 <= pauses.after(attempts) <= longest
