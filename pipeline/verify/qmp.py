"""A client for QEMU's Machine Protocol over a connected socket (QEMU docs, interop/qmp-spec)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from pipeline.core.errors import HostError

_TIMEOUT = 60.0  # seconds; qemu answers at once unless the host is starved
_MAX_LINE = 1 << 20


class Qmp:
    """One monitor. Events seen on the way are kept by name, the first of each."""

    def __init__(self, monitor: socket.socket) -> None:
        self._socket = monitor
        self._socket.settimeout(_TIMEOUT)
        self._buffer = b""
        self.events: dict[str, dict[str, Any]] = {}
        self._receive()  # the greeting
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> Any:
        """Run a command and return its value. HostError when qemu refuses or is gone."""
        request = {"execute": name, "arguments": arguments}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while True:
                message = self._receive()
                if "return" in message:
                    return message["return"]
                if "error" in message:
                    raise HostError(
                        "drive the guest", why=f"{name}: {message['error'].get('desc')}"
                    )
                self._keep(message)
        except (OSError, ValueError) as error:
            raise HostError("drive the guest", why=f"{name}: {error or 'qemu is gone'}") from error

    def drain(self) -> None:
        """Take in the events that wait, up to the end when qemu is gone."""
        self._socket.settimeout(0.01)
        try:
            while True:
                self._keep(self._receive())
        except (OSError, ValueError):
            pass
        finally:
            self._socket.settimeout(_TIMEOUT)

    def picture(self, path: Path) -> None:
        """Save the screen as PNG."""
        self.command("screendump", filename=str(path), format="png")

    def forwarded_port(self) -> int:
        """The host port that leads to the guest's port 22."""
        said = str(self.command("human-monitor-command", **{"command-line": "info usernet"}))
        for line in said.splitlines():
            words = line.split()
            # "TCP[HOST_FORWARD]  fd  address  port  destination  22  ..."
            if words[:1] == ["TCP[HOST_FORWARD]"] and words[5:6] == ["22"]:
                return int(words[3])
        raise HostError("drive the guest", why="qemu forwards no port to it")

    def _keep(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self.events.setdefault(str(message["event"]), message.get("data") or {})

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("qemu is gone")
            self._buffer += data
            if len(self._buffer) > _MAX_LINE:
                raise ValueError("qemu's answer is too long")
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
