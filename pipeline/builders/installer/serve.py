"""Serves an answer file to the guest, for installers that take none from their initrd.

It listens on the host's loopback, which a guest on user-mode networking reaches as 10.0.2.2, and
answers one path that nobody can guess.
"""

from __future__ import annotations

import contextlib
import http.server
import secrets
import threading
from collections.abc import Iterator

from pipeline.builders.installer.answers import Answers
from pipeline.host.download import guest_url


@contextlib.contextmanager
def serve_answers(answers: Answers) -> Iterator[str]:
    """The URL, as the guest must say it, under which the answer file is served meanwhile."""
    path = f"/{secrets.token_urlsafe(16)}/{answers.file_name}"
    body = answers.text.encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            """Answer the one path there is."""
            if self.path != path:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the path is a secret."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="answers")
        thread.start()
        try:
            yield guest_url(f"http://127.0.0.1:{server.server_address[1]}{path}")
        finally:
            server.shutdown()
            thread.join()
