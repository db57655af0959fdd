"""Downloads from real web servers and proxies on the loopback."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.core.secrets import Secrets
from pipeline.host.download import Downloader, DownloadError, masked

Answer = Callable[["Handler"], None]
BODY = b"an installer's ramdisk\n" * 5000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        answers = server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Gives its answers in turn, the last one for ever."""

    daemon_threads = True

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    def send(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = "Content_Length" in headers

    return send


def silent(handler: Handler) -> None:
    time.sleep(3)


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    with Server(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def downloader(warnings: list[str]) -> Downloader:
    return Downloader(Secrets(), warnings.append, seconds=0.5)


def fetch(downloader: Downloader, url: str, path: Path) -> str:
    return downloader.file(url, path, algorithm="sha256", limit=1 << 20)


@pytest.mark.parametrize("first", [answer(503), answer(500), hang_up])
def test_a_server_that_fails_once_is_asked_again(
    first: Answer, downloader: Downloader, tmp_path: Path
) -> None:
    with serving(first, answer(200, BODY)) as server:
        digest = fetch(downloader, f"{server.url}/initrd", tmp_path / "f")
    assert digest == hashlib.sha256(BODY).hexdigest()
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(server.requests) == 2


def test_a_server_that_is_not_there_is_told_of_once(
    downloader: Downloader, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DownloadError, match="Connection refused"):
        downloader.text(f"http://127.0.0.1:{port}/", 100)
    assert caplog.records == []


def test_masked_urls_need_not_be_good_ones() -> None:
    assert masked("http://bob:s3cret@[::1/x") == "http://bob:****@[::1/x"
    assert masked("http://bob:s3cret@h/x") == "http://bob:****@h/x"


def test_a_server_that_goes_on_failing_is_given_up(downloader: Downloader) -> None:
    with serving(answer(503)) as server, pytest.raises(DownloadError, match="answered 503"):
        downloader.text(f"{server.url}/x")
    assert len(server.requests) == 2


def test_a_file_that_is_not_there_is_asked_for_once(downloader: Downloader) -> None:
    with serving(answer(404)) as server, pytest.raises(DownloadError, match="answered 404"):
        downloader.text(f"{server.url}/x")
    assert len(server.requests) == 1


def test_a_server_cannot_make_the_build_wait(downloader: Downloader) -> None:
    begun = time.monotonic()
    with serving(answer(503, Retry_After="3600"), answer(200, b"x")) as server:
        assert downloader.text(f"{server.url}/x") == "x"
    with serving(silent) as server, pytest.raises(DownloadError, match="timed out"):
        downloader.text(f"{server.url}/x")
    assert time.monotonic() - begun < 12


def test_a_server_that_drips_is_given_up(downloader: Downloader, tmp_path: Path) -> None:
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(100):
                handler.wfile.write(b"x")
                time.sleep(0.1)
        handler.close_connection = True

    begun = time.monotonic()
    with serving(drip) as server, pytest.raises(DownloadError, match="bytes came in 1 s"):
        fetch(downloader, f"{server.url}/f", tmp_path / "f")
    assert time.monotonic() - begun < 8


def test_a_file_in_pieces_of_unknown_length_comes_whole(
    downloader: Downloader, tmp_path: Path
) -> None:
    def chunked(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for at in range(0, len(BODY), 7000):
            piece = BODY[at : at + 7000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    with serving(chunked) as server:
        digest = fetch(downloader, f"{server.url}/f", tmp_path / "f")
    assert digest == hashlib.sha256(BODY).hexdigest()


def test_a_file_is_hashed_as_it_lies_on_the_server(downloader: Downloader, tmp_path: Path) -> None:
    packed = gzip.compress(BODY, mtime=0)
    with serving(answer(200, packed, Content_Encoding="gzip")) as server:
        digest = fetch(downloader, f"{server.url}/initrd.gz", tmp_path / "f")
    assert digest == hashlib.sha256(packed).hexdigest()
    assert (tmp_path / "f").read_bytes() == packed
    assert server.requests[0][1]["accept-encoding"] == "identity"


def test_a_file_that_is_cut_short_or_too_long_is_refused(
    downloader: Downloader, tmp_path: Path
) -> None:
    with serving(answer(200, BODY, Content_Length=str(len(BODY) + 3))) as server:
        with pytest.raises(DownloadError, match="3 more expected"):
            fetch(downloader, f"{server.url}/f", tmp_path / "f")
        with pytest.raises(DownloadError, match="3 more expected"):
            downloader.text(f"{server.url}/f")
    with serving(answer(200, BODY)) as server:
        with pytest.raises(DownloadError, match="longer than 10 bytes"):
            downloader.text(f"{server.url}/f", limit=10)
        with pytest.raises(DownloadError, match="longer than 9 bytes"):
            downloader.file(f"{server.url}/f", tmp_path / "f", algorithm="sha256", limit=9)


def test_the_account_goes_to_its_own_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login bob password fromthefile\n")
    monkeypatch.setenv("NETRC", str(netrc))
    secrets = Secrets()
    with serving(answer(200, b"x")) as other:
        place = other.url.replace("127.0.0.1", "localhost")
        with serving(answer(302, Location=f"{place}/y")) as server:
            url = server.url.replace("//", "//ann:h%C3%BCnter2@")
            assert Downloader(secrets, lambda _: None).text(f"{url}/x") == "x"
    sent = server.requests[0][1]["authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == "ann:hünter2"
    assert "authorization" not in other.requests[0][1]
    assert secrets.mask("hünter2") == "****"


def test_a_proxy_that_fails_is_given_up_once(
    downloader: Downloader, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answer(200, b"x")) as server:
        for first in (answer(502), answer(407), hang_up):
            with serving(first) as proxy:
                monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//ann:hunter2@"))
                assert downloader.text(f"{server.url}/x") == "x"
                assert downloader.text(f"{server.url}/x") == "x"
                assert downloader.proxy_for(f"{server.url}/x") == ""
            assert len(proxy.requests) == 1
            assert "proxy-authorization" in proxy.requests[0][1]
    assert len(warnings) == 3
    assert "hunter2" not in "".join(warnings)


def test_a_proxy_that_says_what_the_server_said_is_kept(
    downloader: Downloader, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answer(404), answer(200, b"x")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(DownloadError, match="answered 404"):
            downloader.text("http://mirror.invalid/x")
        assert downloader.text("http://mirror.invalid/x") == "x"
        assert [path for path, _ in proxy.requests] == ["http://mirror.invalid/x"] * 2
        assert downloader.proxy_for("http://mirror.invalid/x") == proxy.url
    assert warnings == []


@pytest.mark.parametrize(
    ("exception", "url", "used"),
    [
        ("mirror.example", "http://mirror.example/x", False),
        ("example", "http://ann:pw@mirror.example:8080/x", False),
        ("mple", "http://mirror.example/x", True),
        ("192.0.2.0/24", "http://192.0.2.7/x", False),
        ("", "http://192.0.2.7/x", True),
        ("", "https://mirror.example/x", False),
    ],
)
def test_which_requests_the_proxy_is_for(
    exception: str,
    url: str,
    used: bool,
    downloader: Downloader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", exception)
    assert downloader.proxy_for(url) == ("http://proxy.example:3128" if used else "")


def test_a_proxy_of_the_callers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for every URL, whatever the environment says."""
    monkeypatch.setenv("http_proxy", "http://other.example:3128")
    monkeypatch.setenv("no_proxy", "mirror.invalid")
    with serving(answer(200, b"x")) as proxy:
        asking = Downloader(Secrets(), lambda _: None, proxy=proxy.url)
        assert asking.text("http://mirror.invalid/x") == "x"
        assert [path for path, _ in proxy.requests] == ["http://mirror.invalid/x"]
        assert asking.proxy_for("https://mirror.invalid/x") == proxy.url
