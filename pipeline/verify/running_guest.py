"""A running guest: qemu with its monitor, its console and its forwarded SSH port."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.core.errors import HostError
from pipeline.host.programs import Program, Runner
from pipeline.verify.console_log import Transcript
from pipeline.verify.qemu_command import Wiring
from pipeline.verify.qmp import Qmp

_GREETING = 15.0  # seconds a starved guest's server may take from accepting to greeting
_PRESS_AGAIN = 10.0  # seconds between presses of the power button, Nova's shutdown_retry_interval


class Guest:
    """Use `running` to make one."""

    def __init__(self, program: Program, qmp: Qmp, serial: socket.socket) -> None:
        self.program, self.qmp, self.serial = program, qmp, serial
        self.begun = time.monotonic()
        self.port = qmp.forwarded_port()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begun

    def banner(self) -> bool:
        """Whether an SSH server greets. slirp accepts for the guest, then closes if none does."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.settimeout(_GREETING)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def ended(self) -> str | None:
        """How the guest went down, or None while it runs.

        "guest-shutdown" for an orderly power-off, "guest-reset" for a reboot, which ends qemu too.
        Raises HostError when it is this host that failed: qemu was killed, or its disk is full.
        """
        status = self.program.poll()
        self.qmp.drain()
        fault = self.qmp.events.get("BLOCK_IO_ERROR")
        if fault is not None:
            full = "no space is left for what it writes"
            raise HostError(
                "run the guest's disk",
                why=full if fault.get("nospace") else str(fault.get("reason", "it failed")),
                next_step="Free some space where the build lies, or check the disk",
            )
        if status is None:
            return None
        reason = self.qmp.events.get("SHUTDOWN", {}).get("reason")
        if not reason:
            raise HostError(
                "keep the guest running",
                why=f"qemu ended with status {status}",
                next_step="See whether the host ran out of memory",
            )
        return str(reason)

    def power_off(self, seconds: float, cancelled: Callable[[], bool]) -> str | None:
        """Press the power button until the guest is down: how it went, None after `seconds`."""
        begun = time.monotonic()
        presses = 0
        while time.monotonic() - begun < seconds and not cancelled():
            how = self.ended()
            if how is not None:
                return how
            if (time.monotonic() - begun) >= presses * _PRESS_AGAIN:
                with contextlib.suppress(HostError):  # it may go down at this very moment
                    self.qmp.command("system_powerdown")
                presses += 1
            time.sleep(0.1)
        return self.ended()

    def picture(self, path: Path) -> bool:
        """Save the screen; False when qemu is gone."""
        try:
            self.qmp.picture(path)
        except HostError:
            return False
        return path.exists()


@contextlib.contextmanager
def running(
    runner: Runner,
    argv: Callable[[Wiring], list[str]],
    overlay: Path,
    exchange: str,
    console: Transcript | None,
) -> Iterator[Guest]:
    """Start a guest; it is gone when the context ends.

    argv: the command line for a given wiring. exchange: the command for the metadata address.
    console: what takes the serial console in; None when the caller reads `serial` itself.
    """
    with contextlib.ExitStack() as stack:
        monitor, its_monitor = _pair(stack)
        serial, its_serial = _pair(stack)
        stderr = stack.enter_context(tempfile.TemporaryFile())
        wiring = Wiring(
            str(overlay), f"fd={its_monitor.fileno()}", f"fd={its_serial.fileno()}", exchange
        )
        program = stack.enter_context(
            runner.start(
                argv(wiring),
                stdout=stderr,
                stderr=stderr,
                pass_fds=(its_monitor.fileno(), its_serial.fileno()),
            )
        )
        its_monitor.close()
        its_serial.close()
        try:
            guest = Guest(program, Qmp(monitor), serial)
        except (OSError, HostError) as error:
            program.stop()
            stderr.seek(0)
            said = stderr.read(2000).decode(errors="replace").strip()
            raise HostError(
                "start a guest with qemu",
                why=said or str(error),
                next_step="Try the command in the log of programs by hand",
            ) from error
        if console is None:
            yield guest
            return
        reader = threading.Thread(target=_collect, args=(serial, console), daemon=True)
        reader.start()
        try:
            yield guest
        finally:
            program.stop()
            reader.join()


def _pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    stack.enter_context(theirs)
    return ours, theirs


def _collect(serial: socket.socket, console: Transcript) -> None:
    with contextlib.suppress(OSError):
        while data := serial.recv(65536):
            console.feed(data)
