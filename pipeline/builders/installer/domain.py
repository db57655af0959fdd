"""The virtual machine of one install: virthost.py as a child, its events, and its certain end."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.builders.installer import reap
from pipeline.builders.installer.activity import tcp_bytes
from pipeline.builders.installer.command import PROGRAM
from pipeline.builders.installer.libvirt_connection import Connection
from pipeline.core.errors import HostError, PipelineError
from pipeline.host.context import Tools
from pipeline.host.programs import PIPE, Program, Runner
from pipeline.host.requirements import Requirement, declare, require
from pipeline.host.retry import Pauses, poll

REQUIRES = declare(
    Requirement(
        "install",
        "virt-install, libvirt and qemu",
        programs={
            "virt-install": "virtinst",
            "qemu-system-x86_64": "qemu-system-x86",
            "qemu-img": "qemu-utils",
            "ss": "iproute2",
        },
        packages=(
            "libvirt-clients",
            "libvirt-daemon",
            "libvirt-daemon-driver-qemu",
            "libvirt-daemon-system",
            "python3-libvirt",
            "osinfo-db",
        ),
        unchecked={"virsh": "libvirt-clients", "libvirtd": "libvirt-daemon"},
    )
)

_HOST = Path(__file__).with_name("virt_install_process.py")
_PICTURE_SECONDS = 10.0
_PICTURE_BYTES = 32 << 20
_PNG = b"\x89PNG\r\n\x1a\n"

Event = Mapping[str, Any]


class Guest:
    """A running install. Use `start_guest`."""

    def __init__(self, program: Program, uuid: str, scratch: Path, run: Runner) -> None:
        self._program, self._run = program, run
        self._uuid = uuid
        self._picture = scratch / "screen"
        self._events: queue.Queue[Event] = queue.Queue()
        self._pid: int | None = None
        threading.Thread(target=self._read, name="virthost", daemon=True).start()

    def _read(self) -> None:
        stream = self._program.process.stdout
        assert stream is not None
        with contextlib.suppress(ValueError, OSError):  # closed while we read: the end
            for line in stream:
                with contextlib.suppress(ValueError):
                    self._events.put(json.loads(line))
        self._events.put({"event": "gone"})

    def next_event(self, timeout: float) -> Event | None:
        """The next of virthost.py's events, {"event": "gone"} after the last; None if none yet."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    @property
    def status(self) -> int | None:
        """Exit status of virthost.py, None while it runs."""
        return self._program.poll()

    def network_bytes(self) -> int | None:
        """What the guest's TCP connections have moved; None when that cannot be told."""
        if self._pid is None or not reap.is_guest(self._pid, self._uuid):
            self._pid = next(iter(reap.guest_pids(self._uuid)), None)
        return tcp_bytes(self._pid, self._run) if self._pid is not None else None

    def photograph(self, path: Path) -> bool:
        """Write the guest's screen to `path` as PNG; False when there is none to be had.

        Events that arrive meanwhile are lost: only for guests that are given up.
        """
        stdin = self._program.process.stdin
        if stdin is None or self.status is not None:
            return False
        with contextlib.suppress(OSError):
            stdin.write(f"screenshot {self._picture}\n".encode())
            stdin.flush()
        until = time.monotonic() + _PICTURE_SECONDS
        while (left := until - time.monotonic()) > 0:
            event = self.next_event(left)
            if event is None or event["event"] == "gone":
                return False
            if event["event"] == "screenshot":
                return self._keep_picture(event["type"], path)
        return False

    def _keep_picture(self, kind: str, path: Path) -> bool:
        # libvirt asks a qemu that can (from 7.1) for PNG; of an older one there is no picture.
        if kind != "image/png" or not self._picture.is_file():
            return False
        with self._picture.open("rb") as file:
            data = file.read(_PICTURE_BYTES)
        if not data.startswith(_PNG):
            return False
        path.write_bytes(data)
        return True


@contextlib.contextmanager
def start_guest(
    argv: Sequence[str], *, uri: str, uuid: str, connection: Connection, said: Path, tools: Tools
) -> Iterator[Guest]:
    """Run virt-install with `argv` until the context ends; then the domain is gone for certain.

    said: the file for what virt-install prints, not masked. The domain is destroyed and
    undefined by virt_install_process.py; what that leaves, when killed, is killed here, and by the
    supervisor should the pipeline be killed too.
    """
    program = shutil.which(PROGRAM)
    require(PROGRAM)
    assert program is not None
    script = [sys.executable, "-I", "-S", str(Path(reap.__file__)), uuid]
    with said.open("wb") as log, contextlib.ExitStack() as stack:
        stack.callback(_bury, uuid)
        stack.enter_context(tools.run.cleanup(argv=script))
        if connection.daemons or not uri.startswith("qemu:///embed"):
            stack.callback(_forget, uri, uuid, connection, tools)
            words = ["virsh", "--connect", uri, "undefine", uuid]
            stack.enter_context(tools.run.cleanup(argv=words))
        running = stack.enter_context(
            tools.run.start(
                [interpreter(Path(program)), str(_HOST), program, uri, uuid, *argv[1:]],
                env=connection.environment,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
            )
        )
        yield Guest(running, uuid, connection.directory, tools.run)


def interpreter(script: Path) -> str:
    """The Python that runs virt-install: the one that can import virtinst and libvirt."""
    with script.open("rb") as file:
        first = file.readline(256).decode(errors="replace").strip()
    words = first.removeprefix("#!").split()
    if not first.startswith("#!") or not words or "python" not in words[-1]:
        raise HostError(
            "use",
            script,
            why="it is not the Python script that virtinst installs",
            next_step="Install the system's virtinst: apt-get install virtinst",
        )
    return words[-1]


def _bury(uuid: str) -> None:
    poll(lambda: not reap.reap(uuid), seconds=10, pauses=Pauses(0.05))


def _forget(uri: str, uuid: str, connection: Connection, tools: Tools) -> None:
    """Destroy and undefine through virsh what a killed virthost.py left with a daemon."""
    for verb in ("destroy", "undefine"):
        with contextlib.suppress(PipelineError):
            tools.run.run(
                ["virsh", "--connect", uri, verb, uuid],
                timeout=20,
                env=connection.environment,
                ok=(0, 1),
            )
