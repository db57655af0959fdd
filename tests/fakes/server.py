"""EC2, EBS direct and S3 on one loopback port, told apart by the scope of the signature."""

from __future__ import annotations

import contextlib
import json
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from tests.fakes.ebs import EbsService
from tests.fakes.ec2 import Ec2Service
from tests.fakes.protocol import Answer, Fault, Refused, Request, read_request
from tests.fakes.s3 import S3Service

ACCESS, SECRET = "AKSTANDIN", "stand-in-secret"


class _Service(Protocol):
    def operation(self, request: Request) -> str: ...

    def answer(self, operation: str, request: Request) -> Answer: ...


@dataclass
class Cloud:
    """One running stand-in; every attribute may be changed by a test at any time.

    calls: how often each "service.Operation" was answered. fault: see protocol.Fault.
    """

    s3: S3Service
    ebs: EbsService
    ec2: Ec2Service
    url: str = ""
    secrets: dict[str, str] = field(default_factory=lambda: {ACCESS: SECRET})
    calls: Counter[str] = field(default_factory=Counter)
    fault: Fault = lambda service, operation, number: None
    services: tuple[str, ...] = ("ec2", "s3", "ebs")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make botocore speak to this cloud."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "stand-in-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def answer(self, request: Request) -> Answer:
        """Count the call, apply a fault, or let the service answer."""
        services: dict[str, _Service] = {"ec2": self.ec2, "s3": self.s3, "ebs": self.ebs}
        service = services.get(request.service)
        if service is None or request.service not in self.services:
            return Answer(404, b"there is no such service here", {"Content-Type": "text/plain"})
        try:
            operation = service.operation(request)
            with self._lock:
                self.calls[f"{request.service}.{operation}"] += 1
                number = self.calls[f"{request.service}.{operation}"]
            faulty = self.fault(request.service, operation, number)
            if faulty is not None:
                return faulty
            with self._lock:
                return service.answer(operation, request)
        except Refused as refusal:
            return error_answer(request.service, refusal)


def error_answer(service: str, refusal: Refused) -> Answer:
    """A refusal in the form each service uses."""
    code, message = escape(refusal.code), escape(refusal.message)
    if service == "ebs":
        return Answer(
            refusal.status,
            json.dumps({"Message": refusal.message}).encode(),
            {"x-amzn-ErrorType": refusal.code, "Content-Type": "application/json"},
        )
    inner = f"<Code>{code}</Code><Message>{message}</Message>"
    if service == "s3":
        body = f"<Error>{inner}</Error>"
    else:
        body = (
            f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>0</RequestID></Response>"
        )
    return Answer(refusal.status, body.encode(), {"Content-Type": "text/xml"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = -1  # one write an answer
    disable_nagle_algorithm = True
    cloud: Cloud

    def handle_request(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.get("expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        try:
            request = read_request(self.command, self.path, headers, body, self.cloud.secrets)
            answer = self.cloud.answer(request)
        except Refused as refusal:
            service = "s3" if "/s3/" in headers.get("authorization", "") else "ec2"
            answer = error_answer(service, refusal)
        except ConnectionAbortedError:
            self.close_connection = True
            self.connection.close()
            return
        except Exception:  # a fault of the stand-in's own must be seen
            answer = Answer(500, traceback.format_exc().encode())
        self.send_response(answer.status)
        given: Mapping[str, str] = {"Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

    def handle_expect_100(self) -> bool:
        return True

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that are killed in mid-request are part of the tests


@contextlib.contextmanager
def running(
    cloud_key: RSAPrivateKey | None = None, user_key: RSAPublicKey | None = None
) -> Iterator[Cloud]:
    """A stand-in on a port of its own until the context ends.

    cloud_key: opens bundles. user_key: verifies their signatures; without them S3-backed images
    cannot be registered.
    """
    s3 = S3Service()
    ebs = EbsService()
    cloud = Cloud(s3, ebs, Ec2Service(s3, ebs, cloud_key, user_key))
    handler = type("Handler", (_Handler,), {"cloud": cloud})
    with _Server(("127.0.0.1", 0), handler) as server:
        cloud.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield cloud
        finally:
            server.shutdown()
            thread.join()
