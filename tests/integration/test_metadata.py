"""The metadata service over real connections: cloud-init's client, and qemu's one per program."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.verify.metadata import TOKEN_TTL, Faults, Instance, Key, Metadata
from pipeline.verify.metadata_server import Handler, exchange_command, serving
from tests.fixtures.triples import CLOUD_INIT_CLIENT, debian_files

pytestmark = pytest.mark.integration

KEYS = (Key("one", "ssh-rsa AAAAB3Nz one"), Key("two", "ssh-ed25519 AAAAC3Nz two"))
INSTANCE = Instance(keys=KEYS, user_data=b"#cloud-config\n{}\n")


@contextmanager
def over_tcp(metadata: Metadata) -> Iterator[str]:
    """The service's handler on a loopback port, since cloud-init knows no Unix sockets."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.metadata, server.ended = metadata, threading.Event()  # type: ignore[attr-defined] # what Handler asks of its server
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def cloud_init(metadata: Metadata, kind: str) -> dict[str, Any]:
    tree = debian_files("cloud-init", "python3-configobj") / "usr/lib/python3/dist-packages"
    with over_tcp(metadata) as address:
        done = subprocess.run(
            check=False,
            args=[sys.executable, "-W", "ignore", CLOUD_INIT_CLIENT, address, kind],
            env={"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin", "no_proxy": "*"},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_cloud_init_reads_the_ec2_tree_by_token() -> None:
    metadata = Metadata(INSTANCE, "required")
    found = cloud_init(metadata, "Ec2")
    assert found["token"] is True
    assert found["version"] == "2021-03-23", "the newest that this client knows"
    assert found["meta-data"]["instance-id"] == INSTANCE.instance_id
    assert found["meta-data"]["public-keys"] == {k.name: [k.line] for k in KEYS}
    assert found["user-data"] == "#cloud-config\n{}\n"
    assert found["dynamic"]["instance-identity"]["document"]["imageId"].startswith("ami-")
    assert found["keys"] == [key.line for key in KEYS]
    assert all(request.token for request in metadata.requests if request.method == "GET")


def test_cloud_init_reads_novas_tree() -> None:
    metadata = Metadata(INSTANCE, "absent")
    found = cloud_init(metadata, "OpenStack")
    assert found["metadata"]["instance-id"] == INSTANCE.uuid
    assert found["metadata"]["local-hostname"] == INSTANCE.hostname
    assert found["keys"] == [key.line for key in KEYS]
    assert found["userdata"] == "#cloud-config\n{}\n"
    assert found["networkdata"]["networks"][0]["type"] == "ipv4_dhcp"


def exchange(sock: Path, request: bytes) -> bytes:
    """One exchange as qemu runs it: one socket for input and output."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            program = subprocess.Popen(
                shlex.split(exchange_command(sock)), stdin=theirs.fileno(), stdout=theirs.fileno()
            )
        ours.sendall(request)
        ours.shutdown(socket.SHUT_WR)  # as nc(1) does after its input
        ours.settimeout(60)
        answer = b""
        while data := ours.recv(65536):
            answer += data
        assert program.wait(60) == 0
    return answer


def test_one_program_a_connection(tmp_path: Path) -> None:
    metadata = Metadata(INSTANCE, "required")
    with serving(metadata, tmp_path / "s"):
        put = f"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\n{TOKEN_TTL}: 60\r\n\r\n"
        head, _, token = exchange(tmp_path / "s", put.encode()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        get = b"GET /latest/meta-data/public-keys/0/openssh-key HTTP/1.0\r\n"
        refused = exchange(tmp_path / "s", get + b"\r\n")
        assert b" 401 " in refused.splitlines()[0]
        given = exchange(tmp_path / "s", get + b"X-aws-ec2-metadata-token: " + token + b"\r\n\r\n")
        assert given.endswith(KEYS[0].line.encode() + b"\n")
        assert b"Connection: close" in given


def test_the_program_ends_when_qemu_is_gone(tmp_path: Path) -> None:
    with serving(Metadata(INSTANCE, faults=Faults(slow=600)), tmp_path / "s"):
        ours, theirs = socket.socketpair()
        with theirs:
            program = subprocess.Popen(
                shlex.split(exchange_command(tmp_path / "s")),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
            )
        ours.sendall(b"GET / HTTP/1.0\r\n\r\n")
        ours.close()
        # The slow answer is still to come: the program must not wait for it.
        assert program.wait(60) in (0, 1)


@pytest.mark.parametrize(
    "request_bytes",
    [b"", b"\r\n", b"\0" * 5000, b"GET " + b"/" * 200_000 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"],
)
def test_nonsense_does_not_stop_the_service(tmp_path: Path, request_bytes: bytes) -> None:
    with serving(Metadata(INSTANCE), tmp_path / "s"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.settimeout(60)
            with contextlib.suppress(ConnectionError):  # the service may well hang up on it
                client.sendall(request_bytes)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
        answer = exchange(tmp_path / "s", b"GET /latest/ HTTP/1.0\r\n\r\n")
        assert answer.endswith(b"dynamic/\nmeta-data/\nuser-data")
