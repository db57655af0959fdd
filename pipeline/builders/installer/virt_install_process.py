"""Runs virt-install beside a control connection: a script, started by domain.py, never imported.

usage: virt_install_process.py VIRT-INSTALL URI UUID ARGUMENT...

It runs on the interpreter virt-install names, for that one has virtinst and libvirt. Nothing of
ours can be imported there, so two of its threads sleep by themselves and not by host/retry.py; they
end with the process. Standard output carries one JSON object a line: {"event": "lifecycle", "kind",
"detail"}, {"event": "reboot"}, {"event": "io-error", "reason"}, {"event": "state", "state",
"reason", "block"} every two seconds and {"event": "exit", "code", "state", "reason"} when
virt-install is done (numbers are libvirt's enumerations). Standard input takes `screenshot PATH`,
answered by {"event": "screenshot", "type"}; its end means that the pipeline is gone. However it
ends, short of SIGKILL, the domain is destroyed and undefined.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

PERIOD = 2.0
REAP_PERIOD = 0.2
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
CONNECT_SECONDS = 60
_out = os.dup(1)
_lock = threading.Lock()


def emit(event: str, **facts: object) -> None:
    """Write one event."""
    line = json.dumps({"event": event, **facts}).encode() + b"\n"
    # If nobody listens any more, the end of standard input will tell.
    with _lock, contextlib.suppress(OSError):
        os.write(_out, line)


def quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's result; None when libvirt refuses."""
    try:
        return call(*arguments)
    except libvirt.libvirtError:
        return None


class Control:
    """Our own connection to the driver that virt-install uses."""

    def __init__(self, uri: str, uuid: str) -> None:
        self.uuid = uuid
        self.connection = libvirt.open(uri)
        self.watch(
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            lambda kind, detail: emit("lifecycle", kind=kind, detail=detail),
        )
        self.watch(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, lambda: emit("reboot"))
        self.watch(
            libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
            lambda _path, _alias, _action, reason: emit("io-error", reason=reason),
        )

    def watch(self, number: int, tell: Callable[..., None]) -> None:
        """Call `tell` with the facts of each event of this build's domain."""

        def receive(_connection: Any, domain: Any, *facts: Any) -> None:
            if domain.UUIDString() == self.uuid:
                tell(*facts[:-1])  # the last one is the opaque argument

        self.connection.domainEventRegisterAny(None, number, receive, None)

    def domain(self) -> Any:
        """The domain, or None before and after its life."""
        return quietly(self.connection.lookupByUUIDString, self.uuid)

    def state(self) -> dict[str, int | None]:
        """Facts for a state event."""
        domain = self.domain()
        state = domain and quietly(domain.state)
        if not state:
            return {"state": None, "reason": None, "block": None}
        stats = quietly(domain.blockStats, "vda") if state[0] == 1 else None
        return {
            "state": state[0],
            "reason": state[1],
            "block": stats[1] + stats[3] if stats else None,
        }

    def screenshot(self, path: str) -> None:
        """Write the first screen to the file; the answer has its MIME type, "" for none."""
        kind = ""
        domain = self.domain()
        if domain is not None:
            try:
                stream = self.connection.newStream()
                kind = domain.screenshot(stream, 0)
                with pathlib.Path(path).open("wb") as file:
                    stream.recvAll(lambda _s, data, f: f.write(data), file)
                stream.finish()
            except libvirt.libvirtError:
                kind = ""
        emit("screenshot", type=kind)

    def end(self) -> None:
        """Destroy and undefine; safe to call twice."""
        domain = self.domain()
        if domain is not None:
            quietly(domain.destroy)
            if quietly(domain.undefineFlags, libvirt.VIR_DOMAIN_UNDEFINE_NVRAM) is None:
                quietly(domain.undefine)


def loop() -> None:
    """libvirt's event loop; events and keep-alives need one."""
    while True:
        libvirt.virEventRunDefaultImpl()


def report(control: Control) -> None:
    """Say how the domain is, again and again."""
    while True:
        emit("state", **control.state())
        time.sleep(PERIOD)


def reap() -> None:
    """Reap guests that ended: libvirt takes a zombie for a guest that runs, and waits for it.

    libvirt's driver leaves its guests to process 1, which in many a container reaps nothing; here
    they are left to this process. Guests have a session of their own, the programs that libvirt
    itself waits for have ours. Those between, which fork a guest and end at once, have libvirt
    waiting for them too: only who is a zombie at two looks is nobody else's.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before: set[int] = set()
    while True:
        now = set(zombies())
        for pid in now & before:
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        before = now
        time.sleep(REAP_PERIOD)


def zombies() -> Iterator[int]:
    """Children that ended in another session than ours and were not waited for."""
    for listing in pathlib.Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in listing.read_text().split():
                stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
                state, _parent, _group, session, *_ = stat.rpartition(")")[2].split()
                if state == "Z" and int(session) != os.getsid(0):
                    yield int(pid)


def obey(control: Control) -> None:
    """Take commands until standard input ends, then leave as if terminated."""
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        if command == "screenshot":
            control.screenshot(path)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run virt-install to its end and tidy up."""
    program, uri, uuid, *arguments = sys.argv[1:]
    os.dup2(2, 1)  # virt-install's words go with its errors; events have their own channel

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pipeline decides, virt-install would detach
    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    for duty in (loop, reap):
        threading.Thread(target=duty, daemon=True).start()
    control = Control(uri, uuid)
    for told in (report, obey):
        threading.Thread(target=told, args=(control,), daemon=True).start()
    sys.argv = [program, *arguments]
    code = 0
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        facts = control.state()
        control.end()
        emit("exit", code=code, state=facts["state"], reason=facts["reason"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # daemon threads sit in libvirt; an orderly exit would wait or crash there


if __name__ == "__main__":
    main()
