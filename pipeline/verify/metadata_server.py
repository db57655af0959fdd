"""Serves `metadata.Metadata` over HTTP on a Unix socket, for qemu's guestfwd to reach."""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from pipeline.verify.metadata import Metadata


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    block_on_close = False  # a slow answer must not hold up the end
    request_queue_size = 64

    def __init__(self, path: Path, metadata: Metadata) -> None:
        self.metadata = metadata
        self.ended = threading.Event()
        super().__init__(str(path), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a guest that hangs up in mid-exchange is no event."""


class Handler(BaseHTTPRequestHandler):
    """One exchange. Asks its server for `metadata` and for `ended`, set when the service stops."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    timeout = 60  # seconds; frees the thread of a guest that says nothing

    def _serve(self) -> None:
        # qemu runs one program a connection, so each carries one exchange.
        self.close_connection = True
        length = self.headers.get("Content-Length", "0")
        if length.isascii() and length.isdigit():
            self.rfile.read(min(int(length[:9]), 65536))
        answer = self.server.metadata.answer(
            self.command, self.path, {str(k): str(v) for k, v in self.headers.items()}
        )
        if answer.delay:
            self.server.ended.wait(answer.delay)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    # http.server's names for the methods it may be asked for.
    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = _serve

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: Metadata keeps the requests."""

    def address_string(self) -> str:
        """The peer of a Unix socket has no address."""
        return "guest"


@contextlib.contextmanager
def serving(metadata: Metadata, socket: Path) -> Iterator[None]:
    """Serve on `socket` until the context ends. The path must be shorter than 108 bytes."""
    with _Server(socket, metadata) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


def exchange_command(socket: Path) -> str:
    """The command line for guestfwd, quoted as g_shell_parse_argv(3) and so libslirp expects."""
    script = Path(__file__).with_name("metadata_relay.py")
    # -I -S: no site-packages, so that the start takes milliseconds however many there are.
    return shlex.join([sys.executable, "-I", "-S", str(script), str(socket)])
