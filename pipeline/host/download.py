"""Files by HTTP: through the user's proxy, directly when that is dead, verified before use.

Proxies come from the environment as curl(1) reads it: http_proxy, https_proxy and no_proxy.
Credentials in a URL go into a header and are masked everywhere else. Nothing else of the user's
environment is used: no .netrc, and the certificates are the system's.
"""

from __future__ import annotations

import hashlib
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from pipeline.core.errors import PipelineError
from pipeline.core.secrets import Secrets

# Its warning of a second attempt quotes objects of its own; where that fails we tell why.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

_CHUNK = 1 << 18
_AGAIN = 1  # a mirror that drops a connection once is common; the next mirror is the better remedy
_SECONDS = 30.0  # without a byte; mirrors answer within one
_SLOWEST = 1024  # bytes a second; a server below that keeps the build from the next mirror
_REDIRECTS = 10
_SLIRP_HOST = "10.0.2.2"  # the host's loopback as a guest on user-mode networking sees it
_PROXY_ERRORS = (407, 502, 503, 504)  # status codes by which a proxy speaks of itself
_SERVER_ERRORS = range(500, 600)


class DownloadError(PipelineError):
    """A URL cannot be fetched; `subject` is the URL without its password."""

    exit_code = 3


def masked(url: str) -> str:
    """The URL with `****` for its password."""
    try:
        password = urlsplit(url).password
    except ValueError:  # it is none, and shown where that is told
        return re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1:****@", url)
    return url if password is None else url.replace(f":{password}@", ":****@", 1)


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
    """Fetches files for one build. warn: told when the proxy is given up, once.

    proxy: for every URL, in place of what the environment names.
    """

    def __init__(
        self,
        secrets: Secrets,
        warn: Callable[[str], None],
        *,
        seconds: float = _SECONDS,
        proxy: str = "",
    ) -> None:
        self._secrets = secrets
        self._chosen = proxy
        self._warn = warn
        self._seconds = seconds
        self._dead: set[str] = set()
        self._direct = _session(_AGAIN)
        self._through_proxy = _session(0)

    def proxy_for(self, url: str) -> str:
        """The proxy that requests for the URL go through, "" for none or a dead one."""
        bare, _ = _without_account(url)
        proxy: str = self._chosen or get_environ_proxies(bare).get(urlsplit(url).scheme, "")
        if proxy and "://" not in proxy:
            proxy = f"http://{proxy}"
        return "" if proxy in self._dead else proxy

    def text(self, url: str, limit: int = 1 << 20) -> str:
        """A small file; DownloadError when it is missing, longer than `limit` or no UTF-8."""
        with self._connect(url) as response:
            data = b"".join(_content(response, url, limit, 2 * self._seconds))
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
        with self._connect(url) as response, path.open("wb") as file:
            for chunk in _content(response, url, limit, 2 * self._seconds):
                digest.update(chunk)
                file.write(chunk)
                advance(len(chunk))
        return digest.hexdigest()

    def _connect(self, url: str) -> requests.Response:
        proxy = self.proxy_for(url)
        if proxy:
            self._secrets.add(unquote(urlsplit(proxy).password or ""))
            try:
                return self._request(url, proxy)
            except _ProxyDeadError as error:
                self._dead.add(proxy)
                self._warn(f"the proxy {masked(proxy)} is dead ({error}); going on without it")
        return self._request(url, "")

    def _request(self, url: str, proxy: str) -> requests.Response:
        bare, account = _without_account(url)
        auth = None
        if account is not None:
            self._secrets.add(account[1])
            # requests writes strings as Latin-1; servers read UTF-8 (RFC 7617, 2.1).
            user, password = (word.encode().decode("latin-1") for word in account)
            auth = user, password
        session = self._through_proxy if proxy else self._direct
        try:
            response = session.get(
                bare,
                auth=auth,
                proxies={urlsplit(url).scheme: proxy} if proxy else {},
                timeout=self._seconds,
                stream=True,
            )
        except (requests.RequestException, HTTPError, ValueError) as error:
            if proxy:
                raise _ProxyDeadError(_reason(error)) from None
            raise _failure(url, _reason(error)) from None
        if response.ok:
            return response
        response.close()
        if proxy and response.status_code in _PROXY_ERRORS:
            raise _ProxyDeadError(f"status {response.status_code}")
        raise _failure(url, f"the server answered {response.status_code}")


def _session(again: int) -> requests.Session:
    """A session that repeats a request `again` times where the server or the line failed."""
    session = requests.Session()
    session.trust_env = False  # no .netrc, and the proxy is chosen here
    session.max_redirects = _REDIRECTS
    places = ssl.get_default_verify_paths()
    # The store that curl and the package manager use, with the certificates of the user's site.
    session.verify = places.cafile or places.capath or True
    # What is fetched is hashed as it lies on the server: compressed in transit, it would be
    # inflated or not by what the server says of a ".gz".
    session.headers.update({"User-Agent": "image-pipeline", "Accept-Encoding": "identity"})
    retry = Retry(
        total=again,
        status_forcelist=_SERVER_ERRORS,
        allowed_methods=["GET"],
        raise_on_status=False,
        respect_retry_after_header=False,  # it may ask for hours, and there is another mirror
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _without_account(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without user and password, and these."""
    parts = urlsplit(url)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if parts.username is None:
        return bare, None
    return bare, (unquote(parts.username), unquote(parts.password or ""))


def _reason(error: BaseException) -> str:
    """What the system said, which the libraries wrap several times; else their own words."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        if isinstance(inner, TimeoutError):
            return "it timed out"
        last, inner = inner, inner.__cause__ or inner.__context__
    return str(last) or type(last).__name__


class _ProxyDeadError(Exception):
    """The proxy, not the server behind it, fails."""


def _content(response: requests.Response, url: str, limit: int, window: float) -> Iterator[bytes]:
    """The body as it came over the line, to its end: only there a short one is noticed.

    window: seconds over which the server's speed is looked at.
    """
    count = lately = 0
    begun = time.monotonic()
    while True:
        try:
            chunk: bytes = response.raw.read1(_CHUNK, decode_content=False)
        except (OSError, HTTPError) as error:
            raise _failure(url, f"the connection broke: {_reason(error)}") from None
        if not chunk:
            return
        count += len(chunk)
        lately += len(chunk)
        if count > limit:
            raise _failure(url, f"it is longer than {limit} bytes")
        if (passed := time.monotonic() - begun) >= window:
            if lately < _SLOWEST * passed:
                raise _failure(url, f"only {lately} bytes came in {passed:.0f} s")
            begun, lately = time.monotonic(), 0
        yield chunk


def _failure(url: str, why: str) -> DownloadError:
    return DownloadError(
        "fetch", masked(url), why=why, next_step="Try again, or name another mirror in the recipe"
    )
