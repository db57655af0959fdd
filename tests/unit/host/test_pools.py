"""Threads of a generator: given up at any moment, it ends at once."""

from __future__ import annotations

import threading
from collections.abc import Generator

from pipeline.host.pools import threads


def test_a_generator_that_is_given_up_waits_for_nothing() -> None:
    begun, go = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go.wait(60)

    def numbers() -> Generator[int, None, None]:
        with threads(1, "test") as pool:
            pool.submit(block)
            yield 1
            yield 2

    given = numbers()
    assert next(given) == 1
    assert begun.wait(60)
    given.close()  # with a pool that is waited for this returns after a minute
    assert not go.is_set()
    go.set()


def test_what_has_not_begun_is_dropped() -> None:
    begun, go = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go.wait(60)

    with threads(1, "test") as pool:
        pool.submit(block)
        later = pool.submit(lambda: 1)
        assert begun.wait(60)
    assert later.cancelled()
    go.set()
