"""How many bytes a process has moved over TCP: the network side of "is the guest alive?".

User-mode networking has no interface on the host to count on; the guest's connections are
sockets of qemu. Source: sock_diag(7), struct inet_diag_msg and struct tcp_info of Linux's
uapi headers (tcpi_bytes_acked and tcpi_bytes_received exist since Linux 4.1).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_DONE, _ERROR = 3, 2
_INET_DIAG_INFO = 2
_HEADER = struct.Struct("=IHHII")
_MESSAGE_SIZE = 72
_INODE = struct.Struct("=I")
_INODE_AT = 68
_ATTRIBUTE = struct.Struct("=HH")
_BYTES = struct.Struct("=QQ")
_BYTES_AT = 120  # tcpi_bytes_acked, then tcpi_bytes_received


def tcp_bytes(pid: int) -> int | None:
    """Bytes sent and received by the open TCP connections of a process; None if unknown.

    It falls when a connection closes: a change means activity, its size does not matter.
    """
    try:
        inodes = _socket_inodes(pid)
        total = 0
        for family in (socket.AF_INET, socket.AF_INET6):
            for inode, count in _connections(family):
                total += count if inode in inodes else 0
    except (OSError, struct.error):
        return None
    return total


def _socket_inodes(pid: int) -> set[int]:
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(entry.readlink())
            if name.startswith("socket:["):
                inodes.add(int(name[8:-1]))
    return inodes


def _connections(family: int) -> Iterator[tuple[int, int]]:
    """(inode, bytes moved) of every TCP socket of the family."""
    extensions, every_state = 1 << (_INET_DIAG_INFO - 1), 0xFFFFFFFF
    request = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, extensions, 0, every_state)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(1.0)
        size = _HEADER.size + len(request)
        link.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
        while True:
            data = link.recv(1 << 17)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind in (_DONE, _ERROR) or length < _HEADER.size:
                    return
                yield _connection(data[at + _HEADER.size : at + length])
                at += (length + 3) & ~3


def _connection(message: bytes) -> tuple[int, int]:
    inode = _INODE.unpack_from(message, _INODE_AT)[0]
    at = _MESSAGE_SIZE
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        if kind == _INET_DIAG_INFO and length >= _ATTRIBUTE.size + _BYTES_AT + _BYTES.size:
            return inode, sum(_BYTES.unpack_from(message, at + _ATTRIBUTE.size + _BYTES_AT))
        at += (length + 3) & ~3
    return inode, 0
