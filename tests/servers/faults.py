"""A proxy that breaks things: stands before a real server and fails chosen requests as told.

HTTP/1.1, one request a connection, bodies passed on piece by piece. Each request is numbered from
0 and shown to `choose`, which returns a Fault or None.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

_PIECE = 64 << 10
_SECONDS = 120.0
_HOLD_SECONDS = 4.0  # longer than the time-outs that the tests give a stalled write

Kind = Literal[
    "refuse",  # close at once, nothing read
    "reset",  # reset the connection after `after` bytes of the request's body
    "stall",  # read nothing more after `after` bytes of the body, and keep the connection
    "trickle",  # pass `after` bytes a second
    "status",  # read the whole request, pass nothing on, answer `status`
    "lose",  # pass the request on and reset the connection instead of answering
    "truncate",  # pass it on, answer with half of the body
    "replace",  # pass it on, answer with `old` replaced by `new`, of the same length
    "flip",  # pass it on with one byte of the request's body changed
]


@dataclass(frozen=True)
class Fault:
    """What happens to a request; `kind` says which fields count."""

    kind: Kind
    after: int = 0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"broken by the test"
    old: bytes = b""
    new: bytes = b""


@dataclass(frozen=True)
class Request:
    """What `choose` may look at. length: of the body in bytes, None when chunked."""

    number: int
    method: str
    path: str
    length: int | None


Choose = Callable[[Request], Fault | None]


class FaultProxy:
    """A running proxy. `choose` may be replaced at any time."""

    def __init__(self, target: str) -> None:
        place = urlsplit(target)
        assert place.hostname and place.port
        self.target = (place.hostname, place.port)
        self.choose: Choose = lambda _request: None
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def note(self, method: str, path: str, length: int | None) -> tuple[Request, Fault | None]:
        with self._lock:
            request = Request(len(self.requests), method, path, length)
            self.requests.append(request)
        return request, self.choose(request)

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    request_queue_size = 64
    proxy: FaultProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what many tests are about."""


class _Handler(socketserver.BaseRequestHandler):
    request: socket.socket
    server: _Server

    def handle(self) -> None:
        client = self.request
        client.settimeout(_SECONDS)
        head, rest = _read_head(client)
        if not head:
            return
        method, path, _ = head[0].split(" ", 2)
        names = {line.partition(":")[0].strip().lower(): line for line in head[1:]}
        chunked = "transfer-encoding" in names
        length = int(names["content-length"].partition(":")[2]) if "content-length" in names else 0
        _, fault = self.server.proxy.note(method, path, None if chunked else length)
        if fault and fault.kind == "refuse":
            _reset(client)
            return
        body = _chunked(client, rest) if chunked else _counted(client, rest, length)
        if fault and fault.kind == "status":
            for _ in body:
                pass
            client.sendall(_answer(fault))
            return
        with socket.create_connection(self.server.proxy.target, _SECONDS) as upstream:
            self._forward(client, upstream, head, body, fault)

    def _forward(
        self,
        client: socket.socket,
        upstream: socket.socket,
        head: list[str],
        body: Iterator[bytes],
        fault: Fault | None,
    ) -> None:
        kept = [line for line in head if not line.lower().startswith("connection:")]
        upstream.sendall("\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1"))
        sent = 0
        for piece in body:
            if fault and fault.kind in ("reset", "stall") and sent + len(piece) > fault.after:
                upstream.sendall(piece[: fault.after - sent])
                if fault.kind == "stall":
                    self._ignore(client)
                _reset(client)
                _reset(upstream)
                return
            if fault and fault.kind == "flip" and sent == 0:
                upstream.sendall(bytes([piece[0] ^ 1]) + piece[1:])
            elif fault and fault.kind == "trickle":
                self._trickle(upstream, piece, fault.after)
            else:
                upstream.sendall(piece)
            sent += len(piece)
        answer = b"".join(_pieces(upstream))
        if fault and fault.kind in ("lose", "reset", "stall"):
            if fault.kind == "stall":
                self._ignore(client)
            _reset(client)
            return
        if fault and fault.kind == "truncate":
            start = answer.index(b"\r\n\r\n") + 4
            answer = answer[: start + (len(answer) - start) // 2]
        if fault and fault.kind == "replace":
            assert len(fault.old) == len(fault.new)
            answer = answer.replace(fault.old, fault.new)
        client.sendall(answer)

    def _ignore(self, client: socket.socket) -> None:
        """Read nothing for a while, then answer nothing, until the client gives up."""
        stopping = self.server.proxy.stopping
        stopping.wait(_HOLD_SECONDS)
        client.settimeout(0.2)
        while not stopping.is_set():
            try:
                if not client.recv(_PIECE):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def _trickle(self, upstream: socket.socket, piece: bytes, rate: int) -> None:
        for start in range(0, len(piece), max(1, rate // 10)):
            if self.server.proxy.stopping.is_set():
                return
            upstream.sendall(piece[start : start + max(1, rate // 10)])
            time.sleep(0.1)


def _read_head(client: socket.socket) -> tuple[list[str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(_PIECE)
        if not piece:
            return [], b""
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1").split("\r\n"), rest


def _counted(client: socket.socket, rest: bytes, length: int) -> Iterator[bytes]:
    left = length
    while left > 0:
        piece = rest or client.recv(min(_PIECE, left))
        rest = b""
        if not piece:
            raise ConnectionError("the client went away")
        left -= len(piece)
        yield piece


def _chunked(client: socket.socket, rest: bytes) -> Iterator[bytes]:
    """The body as it is, chunk heads and all, up to the last chunk."""
    tail = b""
    while True:
        piece = rest or client.recv(_PIECE)
        rest = b""
        if not piece:
            raise ConnectionError("the client went away")
        yield piece
        tail = (tail + piece)[-7:]
        if tail.endswith(b"\r\n0\r\n\r\n") or tail == b"0\r\n\r\n":
            return


def _pieces(upstream: socket.socket) -> Iterator[bytes]:
    while piece := upstream.recv(_PIECE):
        yield piece


def _answer(fault: Fault) -> bytes:
    headers = {"Content-Length": str(len(fault.body)), "Connection": "close", **fault.headers}
    lines = [f"HTTP/1.1 {fault.status} Broken", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + fault.body


def _reset(connection: socket.socket) -> None:
    """Close with RST, as a crashed peer or a firewall does (SO_LINGER with no time)."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
