"""The head of a kernel file: is it whole, is it bootable, for which machine, of which version.

x86 has one form, bzImage, whose header names the version. arm64 has three: the plain Image, that
compressed by gzip, and a program of the firmware that unpacks it (EFI zboot); their version is
found by looking through the kernel for the text that it greets with.

Sources: Linux, Documentation/arch/x86/boot.rst (the real-mode kernel header),
Documentation/arch/arm64/booting.rst (the Image's header), and zboot-header.S of its EFI stub.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from pipeline.core.architecture import Architecture
from pipeline.core.errors import GuestError
from pipeline.guest.access.paths import shown
from pipeline.guest.boot import pe
from pipeline.guest.boot.kernel_payload import PayloadError, unpacked
from pipeline.host.context import Tools

Form = Literal["bzImage", "Image", "Image.gz", "EFI zboot"]
"""How a kernel is stored. The first is x86's, the others arm64's."""

_HEADER = 0x260  # bytes up to the end of the header's newest field
_SECTOR = 512
_PARAGRAPH = 16  # the unit of syssize
_MAX_VERSION = 256
_GZIP = b"\x1f\x8b"
_IMAGE = b"ARM\x64"  # at 0x38
_IMAGE_HEADER = 64  # bytes
_BIG_ENDIAN = 1  # of the Image's flags
_MAX_IMAGE = 512 << 20  # bytes of an unpacked kernel; distributions' have 30 to 60 MB
_CHUNK = 1 << 20
_GREETING = re.compile(rb"Linux version (\d[!-~]{0,200}) \(")


@dataclass(frozen=True)
class KernelFile:
    """What a kernel file says. release: its version ("5.14.0-60.el9.x86_64"); "" if it says none.

    compression: of an arm64 kernel that is not plain, in the words of its header.
    payload: where that lies in the file: offset and bytes.
    """

    release: str
    architecture: Architecture
    form: Form
    compression: str = ""
    payload: tuple[int, int] = (0, 0)


def kernel_release(path: Path, name: str = "") -> str:
    """The version of `read_kernel`, without programs: "" where it takes one to unpack the file."""
    return read_kernel(path, name=name).release


def read_kernel(path: Path, tools: Tools | None = None, *, name: str = "") -> KernelFile:
    """Look at a kernel.

    tools: for kernels whose compression takes a program; None leaves their version out. name: what
    the file is called in the guest, where it was copied out of one.
    Raises GuestError for a file that is no kernel of a known form, or is cut short.
    """
    size, name = path.stat().st_size, name or str(path)
    with path.open("rb") as file:
        head = file.read(_HEADER)
        if head[:2] == _GZIP:
            kernel = KernelFile("", "aarch64", "Image.gz", "gzip", (0, size))
        elif head[:2] == b"MZ" and head[4:8] == b"zimg":
            kernel = _zboot(file, head, name, size)
        elif head[0x38:0x3C] == _IMAGE:
            return KernelFile(_plain(file, head, name, size), "aarch64", "Image")
        else:
            return KernelFile(_bzimage(file, head, name, size), "x86_64", "bzImage")
        release = _packed(file, kernel, tools, name)
    return KernelFile(release, "aarch64", kernel.form, kernel.compression, kernel.payload)


def unpack(kernel: KernelFile, source: Path, out: Path, tools: Tools) -> None:
    """Write the plain Image that a packed arm64 kernel holds to a new file."""
    with source.open("rb") as file, out.open("wb") as target:
        for piece in unpacked(file, kernel.compression, kernel.payload, _MAX_IMAGE, tools):
            target.write(piece)


# x86


def _bzimage(file: BinaryIO, head: bytes, name: str, size: int) -> str:
    if len(head) < _HEADER or head[0x1FE:0x200] != b"\x55\xaa" or head[0x202:0x206] != b"HdrS":
        raise _unusable(name, _unknown(file))
    (paragraphs,) = struct.unpack_from("<I", head, 0x1F4)
    # Zero means four, for kernels older than any that has virtio.
    whole = ((head[0x1F1] or 4) + 1) * _SECTOR + paragraphs * _PARAGRAPH
    if size < whole:
        raise _unusable(name, f"it has {size} of the {whole} bytes that its header counts")
    if not head[0x211] & 1:
        raise _unusable(name, "it is a zImage, which cannot be loaded high")
    if head[:2] == b"MZ":
        _check_pe(name, head, size)
    (offset,) = struct.unpack_from("<H", head, 0x20E)
    if not offset:
        return ""
    file.seek(offset + 0x200, os.SEEK_SET)
    words = file.read(_MAX_VERSION).partition(b"\0")[0].split()
    return words[0].decode(errors="replace") if words else ""


def _unknown(file: BinaryIO) -> str:
    """Why a file is no kernel, as far as its head tells."""
    why = "it has no x86 boot header (bzImage) and no header of arm64 (Image, Image.gz, EFI zboot)"
    headers = pe.read_headers(file)
    if headers is None:
        return why
    return f"{why}: it is a program of the firmware for {pe.machine_words(headers.machine)}"


def _check_pe(name: str, head: bytes, size: int) -> None:
    """A kernel with an EFI stub is a PE file too (offset of the PE header at 0x3c)."""
    (offset,) = struct.unpack_from("<I", head, 0x3C)
    signature = head[offset : offset + 4]
    if offset >= size or (offset + 4 <= len(head) and signature != b"PE\0\0"):
        raise _unusable(name, "its PE header is damaged")


# arm64


def _plain(file: BinaryIO, head: bytes, name: str, size: int) -> str:
    """The version of an Image."""
    (flags,) = struct.unpack_from("<Q", head, 0x18)
    if flags & _BIG_ENDIAN:
        raise _unusable(name, "it is a big-endian kernel, which no firmware starts")
    headers = pe.read_headers(file)
    if headers is None:
        why = "it has no EFI stub, by which the firmware of a cloud's arm64 machines starts it"
        raise _unusable(name, why if head[:2] != b"MZ" else "its PE header is damaged")
    if pe.ARCHITECTURES.get(headers.machine) != "aarch64":
        raise _unusable(name, f"its PE header is for {pe.machine_words(headers.machine)}")
    if size < headers.end:
        raise _unusable(name, f"it has {size} of the {headers.end} bytes that its header counts")
    file.seek(0)
    return _greeting(iter(lambda: file.read(_CHUNK), b""), whole=False)


def _zboot(file: BinaryIO, head: bytes, name: str, size: int) -> KernelFile:
    offset, length = struct.unpack_from("<II", head, 8)
    compression = head[24:56].partition(b"\0")[0].decode("ascii", "replace")
    headers = pe.read_headers(file)
    if headers is None or pe.ARCHITECTURES.get(headers.machine) != "aarch64":
        machine = pe.machine_words(headers.machine) if headers else "nothing"
        raise _unusable(name, f"it is a packed kernel (EFI zboot) for {machine}")
    if offset + length > size or not length:
        raise _unusable(
            name, f"it has {size} of the {offset + length} bytes that its header counts"
        )
    return KernelFile("", "aarch64", "EFI zboot", compression, (offset, length))


def _packed(file: BinaryIO, kernel: KernelFile, tools: Tools | None, name: str) -> str:
    """The version of an Image that is packed; it is unpacked to its end, nothing of it is kept."""
    try:
        pieces = unpacked(file, kernel.compression, kernel.payload, _MAX_IMAGE, tools)
        first = b""
        for piece in pieces:
            first += piece
            if len(first) >= _IMAGE_HEADER:
                break
        if tools is None and not first:
            return ""
        if first[0x38:0x3C] != _IMAGE:
            raise _unusable(
                name, f"what it holds, packed by {kernel.compression}, is no arm64 Image"
            )
        if kernel.form == "Image.gz" and first[:2] != b"MZ":
            why = "it has no EFI stub, by which the firmware of a cloud's arm64 machines starts it"
            raise _unusable(name, why)
        return _greeting(_chained(first, pieces), whole=True)
    except PayloadError as error:
        raise _unusable(name, str(error)) from error


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _greeting(pieces: Iterator[bytes], *, whole: bool) -> str:
    """The version in the text that the kernel greets with; "" without one.

    whole: read on to the end, so that damage behind it is found.
    """
    found, tail, length = "", b"", 0
    for piece in pieces:
        length += len(piece)
        if length > _MAX_IMAGE:
            break
        if found:
            continue
        window = tail + piece
        match = _GREETING.search(window)
        if match:
            found = match[1].decode("ascii")
            if not whole:
                break
        tail = window[-_MAX_VERSION:]
    return found


def _unusable(name: str, why: str) -> GuestError:
    return GuestError(
        "use the kernel",
        shown(name),
        why=why,
        next_step="Look at what is installed in the guest's /boot",
    )
