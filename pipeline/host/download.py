"""Files by HTTP: through the user's proxy, directly when that is dead, verified before use.

Proxies come from the environment as curl(1) reads it: http_proxy, https_proxy and no_proxy.
Credentials in a URL go into a header and are masked everywhere else.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline.core.errors import PipelineError
from pipeline.core.secrets import Secrets

_CHUNK = 1 << 18
_TRIES = 2  # a mirror that drops a connection once is common; the next mirror is the better remedy
_SECONDS = 30.0  # without a byte; mirrors answer within one
_SLIRP_HOST = "10.0.2.2"  # the host's loopback as a guest on user-mode networking sees it
_GATEWAY_ERRORS = (502, 503, 504)


class DownloadError(PipelineError):
    """A URL cannot be fetched; `subject` is the URL without its password."""

    exit_code = 3


def masked(url: str) -> str:
    """The URL with `****` for its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":****@", 1)


def has_password(url: str) -> bool:
    """Whether the URL, or a text with one in it, carries a password."""
    return re.search(r"://[^/@\s]*:[^/@\s]+@", url) is not None


def guest_url(url: str) -> str:
    """The URL as a guest on user-mode networking must say it: the host's loopback is 10.0.2.2."""
    parts = urlsplit(url)
    if parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        return url
    account, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{account}{at}{_SLIRP_HOST}{port}"))


class Downloader:
    """Fetches files for one build. warn: told when the proxy is given up, once."""

    def __init__(
        self,
        secrets: Secrets,
        warn: Callable[[str], None],
        *,
        seconds: float = _SECONDS,
    ) -> None:
        self._secrets = secrets
        self._warn = warn
        self._seconds = seconds
        self._dead: set[str] = set()

    def proxy_for(self, url: str) -> str:
        """The proxy that requests for the URL go through, "" for none or a dead one."""
        parts = urlsplit(url)
        if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
            return ""
        proxy = urllib.request.getproxies_environment().get(parts.scheme, "")
        if proxy and "://" not in proxy:
            proxy = f"http://{proxy}"
        return "" if proxy in self._dead else proxy

    def text(self, url: str, limit: int = 1 << 20) -> str:
        """A small file; DownloadError when it is missing, longer than `limit` or no UTF-8."""
        with self._open(url) as stream:
            data: bytes = stream.read(limit + 1)
        if len(data) > limit:
            raise _failure(url, f"it is longer than {limit} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise _failure(url, str(error)) from None

    def file(
        self,
        url: str,
        path: Path,
        *,
        algorithm: str,
        limit: int,
        advance: Callable[[int], None] = lambda _: None,
    ) -> str:
        """Write the URL's content to `path` and return its hex digest.

        DownloadError when it is missing, cut short, or longer than `limit` bytes.
        """
        digest = hashlib.new(algorithm)
        count = 0
        with self._open(url) as stream, path.open("wb") as file:
            while chunk := _read(stream, url):
                count += len(chunk)
                if count > limit:
                    raise _failure(url, f"it is longer than {limit} bytes")
                digest.update(chunk)
                file.write(chunk)
                advance(len(chunk))
            expected = stream.headers.get("Content-Length")
            if expected is not None and expected.isdigit() and int(expected) != count:
                raise _failure(url, f"it ended after {count} of {expected} bytes")
        return digest.hexdigest()

    @contextmanager
    def _open(self, url: str) -> Iterator[Any]:
        stream = self._connect(url)
        try:
            yield stream
        finally:
            stream.close()

    def _connect(self, url: str) -> IO[bytes]:
        proxy = self.proxy_for(url)
        if proxy:
            try:
                return self._request(url, proxy, tries=1)
            except _ProxyDeadError as error:
                self._dead.add(proxy)
                self._warn(f"the proxy {masked(proxy)} is dead ({error}); going on without it")
        return self._request(url, "", tries=_TRIES)

    def _request(self, url: str, proxy: str, tries: int) -> IO[bytes]:
        parts = urlsplit(url)
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        request = urllib.request.Request(  # noqa: S310 # an install tree's or mirror's, by http(s)
            bare, headers={"User-Agent": "image-pipeline"}
        )
        if parts.username is not None:
            account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._secrets.add(unquote(parts.password or ""))
            request.add_header(
                "Authorization", "Basic " + base64.b64encode(account.encode()).decode()
            )
        handler = urllib.request.ProxyHandler({parts.scheme: proxy} if proxy else {})
        opener = urllib.request.build_opener(handler)
        for attempt in range(1, tries + 1):
            try:
                stream: IO[bytes] = opener.open(request, timeout=self._seconds)
            except urllib.error.HTTPError as error:
                error.close()
                if proxy and error.code in (407, *_GATEWAY_ERRORS):
                    raise _ProxyDeadError(f"status {error.code}") from None
                if error.code < 500 or attempt == tries:
                    raise _failure(url, f"the server answered {error.code}") from None
            except (OSError, http.client.HTTPException) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
                if proxy:
                    raise _ProxyDeadError(why) from None
                if attempt == tries:
                    raise _failure(url, why) from None
            else:
                return stream
        raise AssertionError("unreachable")


class _ProxyDeadError(Exception):
    """The proxy, not the server behind it, fails."""


def _read(stream: IO[bytes], url: str) -> bytes:
    try:
        return stream.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _failure(url, f"the connection broke: {error}") from None


def _failure(url: str, why: str) -> DownloadError:
    return DownloadError(
        "fetch", masked(url), why=why, next_step="Try again, or name another mirror in the recipe"
    )
