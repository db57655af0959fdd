"""QEMU as a server of one disk image: its driver forced, its file the only one it can open.

qemu-nbd serves one client over a socket that it is given, and ends with it. It runs in a root of
its own (host/enclosed.py), so that a fault of QEMU's, or a header that names a file and was not
seen by our own check, opens nothing of this host.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pipeline.core.errors import DiskError, HostError
from pipeline.disk.foreign.nbd import NbdSource
from pipeline.host.context import Tools
from pipeline.host.programs import Program, TimeoutExpired
from pipeline.host.requirements import Requirement, declare, require

REQUIRES = declare(
    Requirement(
        "conversion",
        "disk images of other formats",
        programs={"qemu-nbd": "qemu-utils"},
        needed=False,
    )
)

Driver = Literal["raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx"]
_SCRIPT = Path(__file__).parents[2] / "host" / "enclosed.py"
_REFUSED = 125  # enclosed.py: the host allows no namespace
_END_SECONDS = 120.0  # to write what is left and end


@contextlib.contextmanager
def served(
    path: Path,
    driver: Driver,
    tools: Tools,
    *,
    writable: bool = False,
    stretch: tuple[int, int] | None = None,
    identity: os.stat_result | None = None,
) -> Iterator[NbdSource]:
    """The content of an image, through QEMU's driver of that name and no other.

    writable: also `write` and `flush`; the image is whole when the context has ended. stretch:
    (offset, length) of the image in the file. identity: what fstat(2) said of the file that was
    looked at: another one of its name is not opened. DiskError for an image that QEMU cannot open.
    """
    require("qemu-nbd")
    enclosed = True
    while True:
        try:
            with _started(
                path,
                driver,
                tools,
                writable=writable,
                stretch=stretch,
                identity=identity,
                enclosed=enclosed,
            ) as source:
                yield source
                return
        except _NotEnclosedError as refused:
            if not enclosed:
                raise HostError("start", "qemu-nbd", why=str(refused)) from None
            enclosed = False
            tools.progress.warn(
                f"this host allows no namespaces ({refused}): QEMU opens {path.name} without being"
                " shut off from other files; its header names none"
            )


class _NotEnclosedError(Exception):
    """The host allows no namespaces; nothing was read."""


@contextlib.contextmanager
def _started(
    path: Path,
    driver: Driver,
    tools: Tools,
    *,
    writable: bool,
    stretch: tuple[int, int] | None,
    identity: os.stat_result | None,
    enclosed: bool,
) -> Iterator[NbdSource]:
    name = "/disk" if enclosed else str(path.absolute())
    order = _node(name, driver, writable=writable, stretch=stretch)
    argv = ["qemu-nbd", "--shared=1", "--cache=writeback", *([] if writable else ["--read-only"])]
    listener, client = _sockets(tools.scratch)
    looked_at = path.stat() if identity is None else identity
    spec = {
        "identity": [looked_at.st_dev, looked_at.st_ino],
        "file": str(path.absolute()),
        "writable": writable,
        "socket": listener.fileno(),
        "enclosed": enclosed,
    }
    with (
        client,
        tempfile.TemporaryFile(dir=tools.scratch) as words,
        tools.run.start(
            [sys.executable, "-I", "-S", str(_SCRIPT), json.dumps(spec), *argv, order],
            stderr=words,
            pass_fds=(listener.fileno(),),
        ) as program,
    ):
        listener.close()
        try:
            source = NbdSource(client, str(path))
        except DiskError as error:
            status = _ended(program)
            said = _said(words)
            if status == _REFUSED:
                raise _NotEnclosedError(said.partition(": ")[2]) from None
            raise _unreadable(path, driver, said or error.why) from None
        yield source
        source.close()
        status = _ended(program)
        if status != 0 and writable:
            raise HostError("write", path, why=f"qemu-nbd ended with {status}: {_said(words)}")


def _ended(program: Program) -> int:
    """Exit status of a program that has nothing more to do; -1 for one that does not end."""
    try:
        return program.wait(_END_SECONDS)
    except TimeoutExpired:
        return -1


def _node(name: str, driver: Driver, *, writable: bool, stretch: tuple[int, int] | None) -> str:
    """The image as QEMU's block layer takes it; its backing file is none, whatever it says."""
    node: dict[str, object] = {"driver": "file", "filename": name}
    if writable:
        node["discard"] = "unmap"
    if stretch is not None:
        node = {"driver": "raw", "offset": stretch[0], "size": stretch[1], "file": node}
    node = {"driver": driver, "file": node}
    if driver in ("qcow2", "vmdk"):
        node["backing"] = None
    if driver == "vpc":
        # By its maker's name QEMU would take the size from cylinders, and cut what lies behind.
        node["force_size_calc"] = "current_size"
    return "json:" + json.dumps(node)


def _sockets(scratch: Path) -> tuple[socket.socket, socket.socket]:
    """A listening socket and its only client, connected; no name is left of it."""
    with tempfile.TemporaryDirectory(prefix="nbd-", dir=scratch) as directory:
        # The path of a socket has 107 bytes at most.
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            address = f"/proc/self/fd/{place}/s"
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen(1)
            client = socket.socket(socket.AF_UNIX)
            client.connect(address)
        finally:
            os.close(place)
    return listener, client


def _said(words: object) -> str:
    file = words
    file.seek(0)  # type: ignore[attr-defined]
    text: str = file.read(1 << 16).decode(errors="replace").strip()  # type: ignore[attr-defined]
    return text[-2000:]


def _unreadable(path: Path, driver: Driver, why: str) -> DiskError:
    return DiskError(
        f"read the {'vhd' if driver == 'vpc' else driver} image",
        path,
        why=why.replace("/disk", path.name),
        next_step="Check that it was copied whole",
    )
