"""Joins one connection of the guest to the metadata service: run by qemu, never imported.

qemu's guestfwd starts this once a connection, with the connection on standard input and output;
the service listens on the Unix socket named by the first argument.
"""

import os
import select
import signal
import socket
import sys


def send(number: int, data: bytes) -> None:
    """Write it all, whether or not the descriptor blocks."""
    while data:
        select.select([], [number], [])
        data = data[os.write(number, data) :]


def main() -> None:
    """Copy both ways until the service closes or qemu is gone."""
    signal.alarm(120)  # longer than any sane exchange: nothing may be left when a peer hangs
    service = socket.socket(socket.AF_UNIX)
    service.connect(sys.argv[1])
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(service, select.POLLIN)
    while True:
        for source, event in poll.poll():
            if source == 0 and event & select.POLLHUP:  # both directions closed: qemu is gone
                return
            data = os.read(source, 65536)
            if source != 0:
                if not data:
                    return
                send(1, data)
            elif data:
                service.sendall(data)
            else:  # the guest has said all, and still listens
                poll.modify(0, 0)
                service.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    try:
        main()
    except OSError:  # the guest or the service hung up: nobody is left to tell
        sys.exit(1)
