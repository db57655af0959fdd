"""The client against servers that lie: an error in words, in bounded time, never other bytes."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.core.errors import DiskError
from pipeline.disk.foreign.nbd import NbdSource

SIZE = 1 << 20
GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
_Answer = Callable[[int, int, int, int], bytes]
"""(type, cookie, offset, length) of a request -> what the server sends."""


def chunk(cookie: int, kind: int, content: bytes, *, done: bool = True) -> bytes:
    head = struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, len(content))
    return head + content


def right(kind: int, cookie: int, offset: int, length: int) -> bytes:
    """Ones in the second half of the disk, a hole before it."""
    half = SIZE // 2
    if kind == 7:
        extents = []
        if offset < half:
            extents.append((min(half, offset + length) - offset, 3))
        if offset + length > half:
            extents.append((offset + length - max(offset, half), 0))
        content = struct.pack(">I", 1) + b"".join(struct.pack(">II", *e) for e in extents)
        return chunk(cookie, 5, content)
    if kind == 0:
        holes = max(0, min(half, offset + length) - offset)
        out = b""
        if holes:
            content = struct.pack(">QI", offset, holes)
            out = chunk(cookie, 2, content, done=holes == length)
        if holes < length:
            data = struct.pack(">Q", offset + holes) + b"\1" * (length - holes)
            out += chunk(cookie, 1, data)
        return out
    return struct.pack(">IIQ", 0x67446698, 0, cookie)


def option_reply(option: int, kind: int, content: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(content)) + content


def handshake(option: int) -> bytes:
    if option == 10:
        meta = struct.pack(">I", 1) + b"base:allocation"
        return option_reply(10, 4, meta) + option_reply(10, 1)
    if option == 7:
        info = struct.pack(">HQH", 0, SIZE, 1)
        return option_reply(7, 3, info) + option_reply(7, 1)
    return option_reply(option, 1)


@contextmanager
def server(
    answer: _Answer = right,
    options: Callable[[int], bytes] = handshake,
    greeting: bytes = GREETING,
) -> Iterator[socket.socket]:
    here, there = socket.socketpair()

    def take(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = there.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def serve() -> None:
        try:
            there.sendall(greeting)
            take(4)
            while True:
                _, option, length = struct.unpack(">QII", take(16))
                take(length)
                there.sendall(options(option))
                if option == 7:
                    break
            while True:
                _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", take(28))
                if kind == 2:
                    break
                if kind == 1:
                    take(length)
                there.sendall(answer(kind, cookie, offset, length))
        except (EOFError, OSError):
            pass
        finally:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield here
    finally:
        here.close()
        thread.join(60)
        assert not thread.is_alive()


def test_content_and_holes_come_as_they_are() -> None:
    with server() as connection:
        disk = NbdSource(connection, "disk")
        assert disk.size == SIZE
        runs = [(r.offset, r.length, r.at) for r in disk.runs(0, SIZE)]
        assert runs == [(SIZE // 2, SIZE // 2, None)]
        assert disk.read(0, SIZE) == bytes(SIZE // 2) + b"\1" * (SIZE // 2)
        assert disk.read(SIZE // 2 - 3, 5) == b"\0\0\0\1\1"
        with pytest.raises(DiskError):
            disk.read(SIZE - 1, 2)
        disk.close()


LIES: dict[str, _Answer] = {
    "another request": lambda k, c, o, n: chunk(c + 1, 1, struct.pack(">Q", o) + bytes(n)),
    "too short": lambda k, c, o, n: chunk(c, 1, struct.pack(">Q", o) + bytes(n - 1)),
    "too long": lambda k, c, o, n: chunk(c, 1, struct.pack(">Q", o) + bytes(n + 1)),
    "other place": lambda k, c, o, n: chunk(c, 1, struct.pack(">Q", o + 512) + bytes(n)),
    "huge": lambda k, c, o, n: struct.pack(">IHHQI", 0x668E33EF, 1, 1, c, 0xFFFFFFFF),
    "no magic": lambda k, c, o, n: bytes(64),
    "an error": lambda k, c, o, n: chunk(c, 1 << 15 | 1, struct.pack(">IH", 5, 0)),
    "nothing": lambda k, c, o, n: chunk(c, 0, b""),
    "no end": lambda k, c, o, n: chunk(c, 0, b"", done=False) * 70000,
    "extents of nothing": lambda k, c, o, n: chunk(c, 5, struct.pack(">III", 1, 0, 0)),
    "a hole too large": lambda k, c, o, n: chunk(c, 2, struct.pack(">QI", o, 0xFFFFFFFF)),
    "silence": lambda k, c, o, n: b"",
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_lie_is_an_error(lie: str) -> None:
    with server(LIES[lie]) as connection:
        disk = NbdSource(connection, "disk", 2)
        for ask in (lambda: disk.read(0, 4096), lambda: list(disk.runs(0, SIZE))):
            with pytest.raises(DiskError):
                ask()


@pytest.mark.parametrize(
    ("options", "greeting"),
    [
        (handshake, bytes(18)),
        (handshake, GREETING[:10]),
        (handshake, GREETING[:16] + b"\0\0"),
        (lambda o: option_reply(o, 1 << 31 | 1, b"no"), GREETING),
        (lambda o: option_reply(o, 1), GREETING),
        (lambda o: option_reply(o + 1, 1), GREETING),
        (lambda o: option_reply(o, 2) * 100, GREETING),
        (lambda o: struct.pack(">QIII", 0x3E889045565A9, o, 3, 0xFFFFFFFF), GREETING),
    ],
)
def test_a_handshake_that_is_none_is_an_error(
    options: Callable[[int], bytes], greeting: bytes
) -> None:
    with server(options=options, greeting=greeting) as connection, pytest.raises(DiskError):
        NbdSource(connection, "disk", 2)


def test_mutated_answers_never_end_otherwise_than_in_words() -> None:
    dice = random.Random(5)

    def mutated(kind: int, cookie: int, offset: int, length: int) -> bytes:
        answer = bytearray(right(kind, cookie, offset, length))
        for _ in range(dice.randrange(1, 4)):
            answer[dice.randrange(min(len(answer), 40))] = dice.randrange(256)
        return bytes(answer[: dice.choice([len(answer), dice.randrange(len(answer))])])

    for _ in range(60):
        with server(mutated) as connection:
            disk = NbdSource(connection, "disk", 0.2)
            try:
                assert len(disk.read(0, 8192)) == 8192
                assert all(0 <= r.offset < SIZE for r in disk.runs(0, SIZE))
            except DiskError:
                continue
