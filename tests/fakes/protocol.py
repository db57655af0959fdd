"""What the stand-ins share: requests, answers, refusals, Signature Version 4, faults."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_SKEW = timedelta(minutes=15)  # Signature Version 4 signing process, "RequestTimeTooSkewed"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<access>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)"
    r"/(?P<service>[^/]+)/aws4_request, *SignedHeaders=(?P<names>[^,]+),"
    r" *Signature=(?P<signature>[0-9a-f]{64})"
)


class Refused(Exception):
    """An error answer: HTTP status, code, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Request:
    """One signed HTTP request. path: decoded. raw_path: as sent. headers: names in lower case."""

    method: str
    raw_path: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    service: str
    region: str


@dataclass(frozen=True)
class Answer:
    """What to send back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Fault = Callable[[str, str, int], Answer | None]
"""(service, operation, number of that operation from 1) -> an answer instead of the service's, or
None for no fault. May sleep, or raise ConnectionAbortedError to cut the connection."""


class Ids:
    """Ids of EC2's form: "ami-" and 17 hex digits, rising."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def next(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers):017x}"


def read_request(
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Mapping[str, str],
    now: datetime | None = None,
) -> Request:
    """Check the signature of a request (AWS General Reference, Signature Version 4)."""
    parts = urlsplit(target)
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if match is None:
        raise Refused(403, "AccessDenied", "the request is not signed with Signature Version 4")
    secret = secrets.get(match["access"])
    if secret is None:
        code = "InvalidAccessKeyId" if match["service"] == "s3" else "AuthFailure"
        status = 403 if match["service"] == "s3" else 401
        raise Refused(status, code, "the access key id is unknown")
    stamp = headers.get("x-amz-date", "")
    sent = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs((now or datetime.now(UTC)) - sent) > _SKEW:
        raise Refused(403, "RequestTimeTooSkewed", "the request's time differs too much")
    payload = headers.get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest()
    if payload not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
        raise Refused(400, "XAmzContentSHA256Mismatch", "the body is not what was signed")
    query = parse_qsl(parts.query, keep_blank_values=True)
    canonical = "\n".join(
        (
            method,
            parts.path,
            "&".join(f"{quote(k, '-_.~')}={quote(v, '-_.~')}" for k, v in sorted(query)),
            *(f"{name}:{headers.get(name, '').strip()}" for name in match["names"].split(";")),
            "",
            match["names"],
            payload,
        )
    )
    scope = f"{match['day']}/{match['region']}/{match['service']}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    if not hmac.compare_digest(
        hmac.new(key, text.encode(), "sha256").hexdigest(), match["signature"]
    ):
        raise Refused(403, "SignatureDoesNotMatch", "the signature is not the one computed here")
    return Request(
        method,
        parts.path,
        unquote(parts.path),
        dict(query),
        headers,
        body,
        match["service"],
        match["region"],
    )
