"""Takes what a program that nobody vouches for writes, and no more than is good."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from pathlib import Path
from typing import IO, cast

from pipeline.host.files import naming
from pipeline.host.programs import Program, TimeoutExpired

_PIECE = 1 << 16
_KEPT = 1 << 16  # bytes of a stream that are kept beside a log


class TooMuchError(Exception):
    """The program wrote more than it may. `args` are the bytes allowed."""


def collect(
    program: Program, input: bytes | None, *, timeout: float, most: int, log: Path | None = None
) -> tuple[bytes, bytes]:
    """Standard output and standard error of a program, both started as pipes, until it closes them.

    input: is written to its standard input, which then is a pipe too. most: bytes of both together.
    log: gets all of it, in the order it came; only the end of each stream is returned then.
    TimeoutExpired after `timeout` seconds, TooMuchError past `most`.
    """
    process = program.process
    streams = [cast(IO[bytes], stream) for stream in (process.stdout, process.stderr)]
    kept, total = {stream.fileno(): bytearray() for stream in streams}, 0
    end = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(log.open("ab", buffering=0)) if log else None
        selector = stack.enter_context(selectors.DefaultSelector())
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        rest = memoryview(input or b"")
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutExpired(program.argv, timeout)
            for key, _ in selector.select(left):
                if key.fileobj is process.stdin:
                    rest = _feed(process.stdin, rest, selector)
                    continue
                piece = os.read(key.fd, _PIECE)
                if not piece:
                    selector.unregister(key.fileobj)
                    continue
                total += len(piece)
                if total > most:
                    raise TooMuchError(most)
                kept[key.fd] += piece
                if file is not None and log is not None:
                    with naming(log):
                        file.write(piece)
                    del kept[key.fd][:-_KEPT]
    process.wait(max(end - time.monotonic(), 0.1))
    stdout, stderr = (bytes(kept[stream.fileno()]) for stream in streams)
    return stdout, stderr


def _feed(stdin: IO[bytes], rest: memoryview, selector: selectors.BaseSelector) -> memoryview:
    """Write what fits; close the stream after the last byte, or when nobody reads it."""
    try:
        written = os.write(stdin.fileno(), rest[:_PIECE]) if rest else 0
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        written = len(rest)
    rest = rest[written:]
    if not rest:
        selector.unregister(stdin)
        stdin.close()
    return rest
