"""serve_wsgi.py MODULE:APPLICATION PORT: a WSGI application on loopback.

Run by the servers' own Python. cheroot streams request bodies and keeps them out of memory.
Connections are closed after each answer, as Glance closes the request's body itself.
"""

import importlib
import signal
import sys

from cheroot.wsgi import Server  # type: ignore[import-not-found]


def main() -> None:
    target, port = sys.argv[1:3]
    module, _, attribute = target.partition(":")
    sys.argv = [module.split(".")[0]]  # Keystone and Glance read it
    server = Server(
        ("127.0.0.1", int(port)),
        getattr(importlib.import_module(module), attribute),
        numthreads=12,
        timeout=60,
        shutdown_timeout=1,
    )
    server.max_request_body_size = 0
    server.keep_alive_conn_limit = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.safe_start()


if __name__ == "__main__":
    main()
