"""The small parts of the installer: counters, reaping, connections, content."""

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.builders.installer import libvirt_connection, reap
from pipeline.builders.installer.activity import tcp_bytes
from pipeline.builders.installer.answers import Answers
from pipeline.builders.installer.domain import interpreter
from pipeline.builders.installer.install import has_content, identity
from pipeline.builders.installer.serve import serve_answers
from pipeline.builders.installer.trees import Tree
from pipeline.builders.recipes import load_recipes
from pipeline.core import settings
from pipeline.core.errors import HostError, InputError
from pipeline.host.programs import Runner

UUID = "00000000-1111-2222-3333-444444444444"


def test_tcp_traffic_of_a_process_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "commands.log"
    with Runner(log) as run:
        _count_traffic(run)
    assert not log.exists()  # asked every few seconds, it would be most of the log


def _count_traffic(run: Runner) -> None:
    before = tcp_bytes(os.getpid(), run)
    assert before is not None
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as peer,
    ):
        client.sendall(b"x" * 1000)
        received = b""
        while len(received) < 1000:
            received += peer.recv(1000)
        after = tcp_bytes(os.getpid(), run)
    assert after is not None
    assert after - before >= 2000  # acknowledged on one socket, received on the other


def test_the_traffic_of_a_process_that_is_gone() -> None:
    with Runner() as run:
        assert tcp_bytes(2**22 + 1, run) is None


@pytest.fixture
def pretender() -> Iterator["subprocess.Popen[bytes]"]:
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    argv = ["qemu-pretender", "-c", code, "-uuid", UUID]
    with subprocess.Popen(
        argv, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_only_the_guest_of_the_build_is_reaped(pretender: "subprocess.Popen[bytes]") -> None:
    assert not reap.reap(UUID.replace("4", "5"))
    assert pretender.poll() is None
    assert reap.guest_pids(UUID) == [pretender.pid]
    assert reap.reap(UUID)
    assert pretender.wait(10) == -9
    assert not reap.reap(UUID)


def test_reap_runs_as_a_script(pretender: "subprocess.Popen[bytes]") -> None:
    subprocess.run([sys.executable, "-I", "-S", reap.__file__, UUID], check=True, timeout=30)
    assert pretender.wait(10) == -9


@pytest.mark.parametrize("wish", ["vbox", "qemu+ssh://host/system", "xen:///"])
def test_a_door_that_does_not_exist(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(libvirt_connection.VARIABLE, wish)
    with pytest.raises(InputError, match="neither embed"):
        libvirt_connection.chosen_uri()


def test_root_has_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(libvirt_connection.VARIABLE, "qemu:///session")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InputError, match="root has no session"):
        libvirt_connection.chosen_uri()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert libvirt_connection.chosen_uri() == "session"


def test_the_interpreter_of_virt_install(tmp_path: Path) -> None:
    script = tmp_path / "virt-install"
    script.write_text("#!/usr/bin/python3 -s\n")
    with pytest.raises(HostError, match="not the Python script"):
        interpreter(script)
    script.write_text("#!/usr/bin/env python3\n")
    assert interpreter(script) == "python3"
    script.write_text("#!/usr/bin/python3\n")
    assert interpreter(script) == "/usr/bin/python3"


def test_content_is_a_boot_signature_and_some_blocks(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    assert not has_content(disk)
    with disk.open("r+b") as file:
        file.seek(510)
        file.write(b"\x55\xaa")
    assert not has_content(disk)  # a partition table and nothing else
    with disk.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"x" * (2 << 20))
    assert has_content(disk)


def test_answers_are_served_at_their_path_alone() -> None:
    answers = Answers("ks.cfg", "kickstart", "the text\n", "saved", "n" * 16)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with serve_answers(answers) as url:
        assert url.startswith("http://10.0.2.2:")
        here = url.replace("10.0.2.2", "127.0.0.1")
        with opener.open(here, timeout=10) as reply:
            assert reply.read() == b"the text\n"
        for other in (here + "x", here.rsplit("/", 2)[0] + "/ks.cfg"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                opener.open(other, timeout=10)
            caught.value.close()
            assert caught.value.code == 404
    assert "answers" not in [thread.name for thread in threading.enumerate()]


def test_the_identity_changes_with_what_the_disk_depends_on(tmp_path: Path) -> None:
    recipe = load_recipes(settings.recipes_file())["demo"]
    tree = Tree(tmp_path, "k", "i", "one")
    answers = Answers("ks.cfg", "kickstart", "text", "saved", "n" * 16, ("hunter2",))
    first = identity(recipe, answers, tree)
    assert "hunter2" not in repr(first)
    assert identity(recipe, replace(answers, nonce="m" * 16, text="other nonce"), tree) == first
    others = [
        identity(recipe, replace(answers, saved="other"), tree),
        identity(recipe, replace(answers, secrets=("hunter3",)), tree),
        identity(recipe, answers, replace(tree, identity="two")),
        identity(recipe.model_copy(update={"cpu": "maximum"}), answers, tree),
        identity(recipe.model_copy(update={"disk_gib": 2}), answers, tree),
    ]
    assert all(other != first for other in others)
    assert identity(recipe.model_copy(update={"user": "ann"}), answers, tree) == first
