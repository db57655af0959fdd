"""Keyrings for apt: OpenPGP keys read from files as users have them, armoured or binary.

Sources: RFC 9580, 4.2 (packet headers), 5.5.4 (fingerprints), 6.2 (ASCII armour).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core.errors import InputError

_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
_KEYBOX = b"KBXf"  # at offset 8: gpg's own store, which gpgv reads and apt does not
_PUBLIC_KEY = 6
_LONGEST = 16 << 20  # bytes; Debian's whole keyring of developers is smaller


def keyring(paths: Iterable[Path]) -> bytes:
    """The keys of all files as one binary keyring, as apt's Signed-By takes it.

    InputError for a file that is missing, holds no public key, or is gpg's own key box.
    """
    return b"".join(_keys(path) for path in paths)


def fingerprints(ring: bytes) -> frozenset[str]:
    """Fingerprints (upper-case hex) of the primary keys of version 4 and 6 in a binary keyring.

    ValueError where it is cut short.
    """
    found = set()
    for tag, body in _packets(ring):
        if tag != _PUBLIC_KEY:
            continue
        if body[:1] == b"\x04":
            data = b"\x99" + len(body).to_bytes(2, "big") + body
            found.add(hashlib.sha1(data, usedforsecurity=False).hexdigest().upper())
        elif body[:1] == b"\x06":
            data = b"\x9b" + len(body).to_bytes(4, "big") + body
            found.add(hashlib.sha256(data).hexdigest().upper())
    return frozenset(found)


def armoured(ring: bytes) -> str:
    """The keyring as text, with the checksum that GnuPG 2.2 still looks for."""
    text = base64.b64encode(ring).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    checksum = base64.b64encode(_crc24(ring).to_bytes(3, "big")).decode()
    return "\n".join((_BEGIN, "", *lines, f"={checksum}", _END, ""))


def _crc24(data: bytes) -> int:
    """RFC 9580, 6.1."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


def _keys(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST)
    except OSError as error:
        raise InputError(
            "read the key file",
            path,
            why=error.strerror or str(error),
            next_step='Name the repository\'s OpenPGP keys in "keys" of the recipe',
        ) from error
    if data[8:12] == _KEYBOX:
        raise _no_key(path, "it is gpg's own key box")
    try:
        data = b"".join(_blocks(data.decode())) if _BEGIN.encode() in data else data
        found = fingerprints(data)
    except (ValueError, binascii.Error) as error:
        raise _no_key(path, f"it is no OpenPGP keyring ({error})") from None
    if not found:
        raise _no_key(path, "it holds no public key")
    return data


def _no_key(path: Path, why: str) -> InputError:
    return InputError(
        "use the key file",
        path,
        why=why,
        next_step="Export the repository's keys: gpg --export KEY >FILE",
    )


def _blocks(text: str) -> Iterator[bytes]:
    """The binary content of each armoured block; headers end at the first empty line."""
    for part in text.split(_BEGIN)[1:]:
        lines = [line.strip() for line in part.partition(_END)[0].strip("\r\n").splitlines()]
        if "" in lines:
            lines = lines[lines.index("") + 1 :]
        yield base64.b64decode("".join(x for x in lines if not x.startswith("=")), validate=True)


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise ValueError(f"no packet at byte {at}")
        if head & 0x40:
            tag, (length, at) = head & 0x3F, _new_length(data, at + 1)
        else:
            tag, octets = head >> 2 & 0xF, 1 << (head & 3)
            if octets == 8:
                raise ValueError("a packet without a length")
            length, at = int.from_bytes(data[at + 1 : at + 1 + octets], "big"), at + 1 + octets
        if at + length > len(data):
            raise ValueError("it is cut short")
        yield tag, data[at : at + length]
        at += length


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    """Length and offset of the body of a packet with a header of the newer format."""
    first = data[at] if at < len(data) else 255
    if first < 192:
        return first, at + 1
    if first < 224:
        return (first - 192 << 8) + int.from_bytes(data[at + 1 : at + 2], "big") + 192, at + 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise ValueError("a packet of unknown length")
