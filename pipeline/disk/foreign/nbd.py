"""A client of the Network Block Device protocol, as much of it as reads and writes a disk.

Source: the NBD project's doc/proto.md: fixed newstyle handshake, structured replies, the metadata
context base:allocation, which says where the holes are. A client of our own, since it takes 200
lines and python3-libnbd would be one more package that lies outside of the virtual environment.
One request at a time; every length that the server names is checked before it is used.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.source import Run, check_range

_MAGIC, _OPTION = 0x4E42444D41474943, 0x49484156454F5054
_OPTION_REPLY = 0x3E889045565A9
_REQUEST, _SIMPLE, _STRUCTURED = 0x25609513, 0x67446698, 0x668E33EF
_FIXED, _NO_ZEROES = 1, 2
_OPT_GO, _OPT_STRUCTURED, _OPT_CONTEXT = 7, 8, 10
_ACK, _INFO, _META = 1, 3, 4
_INFO_EXPORT = 0
_READ, _WRITE, _DISCONNECT, _FLUSH, _STATUS = 0, 1, 2, 3, 7
_DONE = 1  # flag of a structured reply: the last one
_NONE, _DATA, _HOLE, _EXTENTS, _ERROR = 0, 1, 2, 5, 1 << 15
_ZERO = 2  # flag of an extent: it reads as zeros
_CONTEXT = b"base:allocation"
_MOST: Final = 4 << 20  # bytes a request
_MOST_STATUS = 1 << 30
_MOST_REPLY = _MOST + 4096
_MOST_PARTS = 1 << 16  # of a reply: every other sector of a request a hole, eightfold
_FULL = (errno.ENOSPC, errno.EDQUOT)  # the protocol's numbers are those of Linux
_SECONDS = 600.0  # without a byte: a disk that answers no slower than this


class NbdSource:
    """A disk of an NBD server, over a connected socket; a Source. Errors of the protocol are
    DiskErrors, a full file system is an OSError. name: what errors call it. seconds: the server's
    longest silence.
    """

    def __init__(self, connection: socket.socket, name: str, seconds: float = _SECONDS) -> None:
        self._connection, self.name = connection, name
        self._lock = threading.Lock()
        self._cookie = 0
        connection.settimeout(seconds)
        self._handshake()

    def descriptor(self) -> int:
        """None: nothing of it lies in a file as it is, and no run says so."""
        raise self._broken("it has no file of its own")

    def read(self, offset: int, length: int) -> bytes:
        """See Source."""
        check_range(self, offset, length)
        parts = []
        while length:
            count = min(length, _MOST)
            parts.append(self._read(offset, count))
            offset, length = offset + count, length - count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """See Source; `Run.at` is None throughout."""
        check_range(self, offset, length)
        end, begin = offset + length, -1
        while offset < end:
            for count, flags in self._status(offset, min(end - offset, _MOST_STATUS)):
                count = min(count, end - offset)  # noqa: PLW2901
                if flags & _ZERO and begin >= 0:
                    yield Run(begin, offset - begin, None)
                    begin = -1
                elif not flags & _ZERO and begin < 0:
                    begin = offset
                offset += count
                if offset >= end:
                    break
        if begin >= 0:
            yield Run(begin, end - begin, None)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes to a disk that was opened for writing."""
        for at in range(0, len(data), _MOST):
            piece = data[at : at + _MOST]
            with self._lock:
                self._request(_WRITE, offset + at, len(piece), piece)
                self._finish()

    def flush(self) -> None:
        """Have all that was written reach the disk."""
        with self._lock:
            self._request(_FLUSH, 0, 0)
            self._finish()

    def close(self) -> None:
        """Say goodbye, upon which the server ends."""
        try:
            with self._lock:
                self._request(_DISCONNECT, 0, 0)
        except DiskError:
            pass
        finally:
            self._connection.close()

    # -- the handshake

    def _handshake(self) -> None:
        magic, option, flags = struct.unpack(">QQH", self._take(18))
        if (magic, option) != (_MAGIC, _OPTION) or not flags & _FIXED:
            raise self._broken("the server does not speak the protocol of today")
        self._put(struct.pack(">I", flags & (_FIXED | _NO_ZEROES)))
        self._option(_OPT_STRUCTURED, b"")
        query = struct.pack(">III", 0, 1, len(_CONTEXT)) + _CONTEXT
        contexts = self._option(_OPT_CONTEXT, query)
        if not any(kind == _META for kind, _ in contexts):
            raise self._broken("the server cannot say where holes are")
        found = self._option(_OPT_GO, struct.pack(">IH", 0, 0))
        export = [d for kind, d in found if kind == _INFO and d[:2] == bytes(2) and len(d) == 12]
        if not export:
            raise self._broken("the server does not say how large the disk is")
        self.size: int = struct.unpack(">HQH", export[0])[1]

    def _option(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        """Ask for something; (type, data) of the replies before the acknowledgement."""
        self._put(struct.pack(">QII", _OPTION, option, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while len(replies) < 64:
            magic, which, kind, length = struct.unpack(">QIII", self._take(20))
            if magic != _OPTION_REPLY or which != option or length > _MOST_REPLY:
                break
            content = self._take(length)
            if kind == _ACK:
                return replies
            if kind & 1 << 31:
                words = content.decode(errors="replace")
                raise self._broken(f"the server refuses option {option}: {words or hex(kind)}")
            replies.append((kind, content))
        raise self._broken("the server's answer to an option makes no sense")

    # -- requests

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        covered = 0
        with self._lock:
            self._request(_READ, offset, length)
            for kind, content in self._chunks():
                if kind == _DATA and len(content) >= 8:
                    (at,) = struct.unpack_from(">Q", content)
                    count = len(content) - 8
                elif kind == _HOLE and len(content) == 12:
                    at, count = struct.unpack(">QI", content)
                else:
                    raise self._broken("the server answers a read with something else")
                at -= offset
                if at < 0 or at + count > length:
                    raise self._broken("the server answers a read with other places")
                if kind == _DATA:
                    data[at : at + count] = content[8:]
                covered += count
        if covered != length:
            raise self._broken("the server's answer to a read is not whole")
        return bytes(data)

    def _status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(bytes, flags) of what follows `offset`."""
        extents: list[tuple[int, int]] = []
        with self._lock:
            self._request(_STATUS, offset, length)
            for kind, content in self._chunks():
                if kind == _EXTENTS and len(content) % 8 == 4:
                    extents += struct.iter_unpack(">II", content[4:])
        if not extents or not all(count for count, _ in extents):
            raise self._broken("the server does not say where data are")
        return extents

    def _finish(self) -> None:
        for _ in self._chunks():
            pass

    def _request(self, kind: int, offset: int, length: int, data: bytes = b"") -> None:
        self._cookie += 1
        head = struct.pack(">IHHQQI", _REQUEST, 0, kind, self._cookie, offset, length)
        self._put(head + data)

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        """(type, content) of each part of a reply; DiskError for one that tells of an error."""
        done, failure, count = False, 0, 0
        while not done:
            count += 1
            if count > _MOST_PARTS:
                raise self._broken("the server's answer has no end")
            (magic,) = struct.unpack(">I", self._take(4))
            if magic == _SIMPLE:
                failure, cookie = struct.unpack(">IQ", self._take(12))
                kind, length, done = _NONE, 0, True
            elif magic == _STRUCTURED:
                flags, kind, cookie, length = struct.unpack(">HHQI", self._take(16))
                done = bool(flags & _DONE)
            else:
                raise self._broken("the server's answer makes no sense")
            if cookie != self._cookie or length > _MOST_REPLY:
                raise self._broken("the server answers something that was not asked")
            content = self._take(length)
            if kind & _ERROR:
                failure = struct.unpack_from(">I", content)[0] if length >= 4 else 5
            elif kind != _NONE:
                yield kind, content
        if failure in _FULL:
            raise OSError(failure, os.strerror(failure), self.name)
        if failure:
            raise self._broken(f"QEMU cannot read or write it: {os.strerror(failure)}")

    # -- bytes

    def _put(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise self._broken(f"the server is gone: {error}") from None

    def _take(self, length: int) -> bytes:
        buffer = bytearray(length)
        view = memoryview(buffer)
        while view:
            try:
                count = self._connection.recv_into(view)
            except OSError as error:
                raise self._broken(f"the server is gone: {error}") from None
            if not count:
                raise self._broken("the server is gone")
            view = view[count:]
        return bytes(buffer)

    def _broken(self, why: str) -> DiskError:
        return DiskError("read the disk", self.name, why=why, next_step="Check that it is whole")
