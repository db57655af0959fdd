"""An interactive boot: the guest's serial console on the user's terminal."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.architecture import WORDS
from pipeline.core.checks import Triple, WholeDisk
from pipeline.core.errors import InputError
from pipeline.core.image import Acceleration
from pipeline.host.context import Tools
from pipeline.host.requirements import require
from pipeline.verify.boot_plan import argv_for, interactive
from pipeline.verify.check import firmware_variables, make_overlay, private_directory
from pipeline.verify.machines import machine_of
from pipeline.verify.metadata import Instance, Metadata
from pipeline.verify.metadata_server import exchange_command, serving
from pipeline.verify.running_guest import Guest, running
from pipeline.verify.ssh import make_keys

_LEAVE = b"\x1d"  # Ctrl-], as virsh console and telnet have it
_LOOK = 0.5  # seconds between looks at whether the guest is still there


def console(
    triple: Triple | WholeDisk,
    *,
    acceleration: Acceleration,
    tools: Tools,
    overlay: Path | None = None,
    input: int = 0,  # the built-in's own word for it
    output: int = 1,
) -> int:
    """Boot and join the guest's serial console to a terminal; 0 when the guest powered off.

    Ctrl-] leaves, and ends the guest (status 1). overlay: a kept overlay to go on from, left as
    the guest leaves it; None for a fresh one that is thrown away. input, output: descriptors.
    The guest writes to the terminal as it likes, as on any serial line.
    """
    part = interactive(triple)
    require(machine_of(triple.hardware).qemu)
    if overlay is not None and not overlay.is_file():
        raise InputError("boot from the overlay", overlay, why="there is no such file")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(private_directory(tools))
        keys = make_keys(tools.run, scratch)
        drive = overlay or make_overlay(triple, tools.scratch / "console.qcow2", tools)
        if overlay is None:
            stack.callback(drive.unlink, missing_ok=True)
        service = scratch / "metadata.sock"
        instance = Instance(keys=keys.public, architecture=WORDS[triple.hardware.architecture].ec2)
        stack.enter_context(serving(Metadata(instance, "optional"), service))
        variables = firmware_variables(triple, part, scratch)
        guest = stack.enter_context(
            running(
                tools.run,
                argv_for(triple, part, acceleration, variables),
                drive,
                exchange_command(service),
                None,
            )
        )
        login = ["ssh", "-i", str(keys.files[0]), "-o", "StrictHostKeyChecking=no"]
        login += ["-o", "UserKnownHostsFile=/dev/null", "-p", str(guest.port)]
        words = shlex.join([*login, f"{triple.user}@127.0.0.1"])
        tools.progress.say(f"Ctrl-] leaves. From another terminal: {words}")
        stack.enter_context(_raw(input))
        _join(guest, input, output)
        return 0 if guest.ended() == "guest-shutdown" else 1


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """The terminal passing every key, and as it was at the end. Anything else is left alone."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _join(guest: Guest, keyboard: int, screen: int) -> None:
    """Copy both ways until the guest is gone or the user leaves."""
    serial = guest.serial
    sources: list[int | socket.socket] = [keyboard, serial]
    while guest.program.poll() is None:
        for source in select.select(sources, [], [], _LOOK)[0]:
            if source is serial:
                _write(screen, serial.recv(65536))
                continue
            typed = os.read(keyboard, 1024)
            if not typed:  # the end of a file or pipe: nobody types any more
                sources.remove(keyboard)
            before, leave, _ = typed.partition(_LEAVE)
            serial.sendall(before)
            if leave:
                return
    with contextlib.suppress(OSError):
        serial.settimeout(1)
        while data := serial.recv(65536):
            _write(screen, data)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
