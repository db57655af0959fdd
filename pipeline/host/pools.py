"""Threads that a generator uses: they end with it, and nobody waits for them.

A generator that is given up may be collected anywhere, also in a thread that is just starting. To
wait for other threads there is to wait for locks of the interpreter that this very thread holds:
what `with ThreadPoolExecutor()` does at its end would never return.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """So many threads; at the end what has not begun is dropped, and what has is not waited for."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
