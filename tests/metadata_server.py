"""A small metadata service on loopback, as nova and EC2 answer, with the faults they show."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "QABC-def_123=="
_GARBAGE = b"<html><head><title>Sign in</title></head><body>ssh-rsa is a key type</body></html>\n"


@dataclass
class Service:
    """What the service serves and how badly. keys: index -> (name, text of openssh-key).

    failures: that many first requests are answered with 503. failing: paths whose first request
    is answered with 503. document: openstack/latest/meta_data.json, if there is one. ec2: whether
    EC2's tree is served. requests: what was asked, as "METHOD PATH STATUS".
    """

    keys: Mapping[int, tuple[str, str]]
    version_1: bool = True
    version_2: bool = True
    garbage: bool = False
    failures: int = 0
    failing: set[str] = field(default_factory=set)
    document: bytes = b""
    ec2: bool = True
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, token: str | None) -> tuple[int, bytes]:
        if self.failures > 0:
            self.failures -= 1
            return 503, b"try later\n"
        if path in self.failing:
            self.failing.remove(path)
            return 503, b"try later\n"
        if self.garbage:
            return 200, _GARBAGE
        if method == "PUT":
            known = self.version_2 and path == "/latest/api/token"
            return (200, TOKEN.encode()) if known else (404, b"no such thing\n")
        if token is not None and token != TOKEN:
            return 401, b"bad token\n"
        if token is None and not self.version_1:
            return 401, b"token needed\n"
        return self._get(path.removeprefix("/latest/meta-data/"))

    def _get(self, path: str) -> tuple[int, bytes]:
        if path == "/openstack/latest/meta_data.json" and self.document:
            return 200, self.document
        if not self.ec2:
            return 404, b"no such thing\n"
        if path == "":
            return 200, b"instance-id\nlocal-ipv4\n" + (b"public-keys/\n" if self.keys else b"")
        if path == "public-keys/" and self.keys:
            lines = [f"{index}={name}" for index, (name, _) in self.keys.items()]
            # Neither service ends its last line.
            return 200, "\n".join(lines).encode()
        for index, (_, text) in self.keys.items():
            if path == f"public-keys/{index}/openssh-key":
                return 200, text.encode()
        return 404, b"no such thing\n"


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            token = self.headers.get("X-aws-ec2-metadata-token")
            lifetime = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            status, body = service.answer(self.command, self.path, token)
            if self.command == "PUT" and status == 200 and not lifetime and not service.garbage:
                status, body = 400, b"lifetime needed\n"
            service.requests.append(f"{self.command} {self.path} {status}")
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        do_GET = do_PUT = _serve

        def log_message(self, format: str, *arguments: object) -> None:  # http.server's own name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
