"""Extended attributes as ext4 keeps them: some in the inode, the rest in one block.

Source: the kernel's documentation of ext4 (Documentation/filesystems/ext4/attributes.rst); POSIX
ACLs have a form of their own there, shorter than that of getxattr(2).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from pipeline.convert.ext4.geometry import BLOCK
from pipeline.convert.ext4.records import crc
from pipeline.convert.ext4.tree import Entry
from pipeline.core.errors import InputError

_MAGIC = 0xEA020000
_PREFIXES = (
    ("system.posix_acl_access", 2),
    ("system.posix_acl_default", 3),
    ("user.", 1),
    ("security.", 6),
)
_IN_INODE = 96 - 4  # bytes of an inode behind its fields, less the magic number
_IN_BLOCK = BLOCK - 32
_END = 4  # bytes of zeros behind the last name
_HEAD = struct.Struct("<BBHIII")
_NAMED = frozenset({0x02, 0x08})  # ACL_USER, ACL_GROUP: the entries with an id

_Attribute = tuple[int, bytes, bytes]
"""(index of the prefix, name behind it, value)."""


def encode(entry: Entry) -> tuple[bytes, bytes]:
    """(what lies in the inode, the block without its checksum); each b"" where nothing does.

    InputError for an attribute of another kind, or more of them than there is room for.
    """
    if not entry.xattrs:
        return b"", b""
    inner: list[_Attribute] = []
    outer: list[_Attribute] = []
    room = _IN_INODE - _END
    for attribute in sorted(_known(entry), key=lambda a: (a[0], len(a[1]), a[1])):
        size = _size(attribute)
        if size <= room:
            room -= size
            inner.append(attribute)
        else:
            outer.append(attribute)
    if sum(map(_size, outer)) > _IN_BLOCK - _END:
        total = sum(len(value) for _, value in entry.xattrs)
        raise _refused(entry, f"they have {total} bytes, more than one block takes")
    return _area(inner), _block(outer)


def sealed(content: bytes, block: int, seed: int | None) -> bytes:
    """A block of attributes with the checksum that holds at its place; seed: None without one."""
    if seed is None:
        return content
    value = crc(content, crc(block.to_bytes(8, "little"), seed))
    return content[:16] + value.to_bytes(4, "little") + content[20:]


def _known(entry: Entry) -> list[_Attribute]:
    found = []
    for name, value in entry.xattrs:
        for prefix, index in _PREFIXES:
            if name.startswith(prefix):
                rest = os.fsencode(name.removeprefix(prefix))
                stored = _access_list(entry, value) if index in (2, 3) else value
                found.append((index, rest, stored))
                break
        else:
            raise _refused(entry, f"{name} is of a kind that is not kept")
    return found


def _access_list(entry: Entry, value: bytes) -> bytes:
    if len(value) < 4 or (len(value) - 4) % 8 or value[:4] != b"\2\0\0\0":
        raise _refused(entry, "its access control list is not one")
    parts = [b"\1\0\0\0"]
    for at in range(4, len(value), 8):
        tag = int.from_bytes(value[at : at + 2], "little")
        parts.append(value[at : at + (8 if tag in _NAMED else 4)])
    return b"".join(parts)


def _size(attribute: _Attribute) -> int:
    _, name, value = attribute
    return _HEAD.size + _padded(len(name)) + _padded(len(value))


def _padded(length: int) -> int:
    return (length + 3) // 4 * 4


def _area(attributes: Sequence[_Attribute]) -> bytes:
    if not attributes:
        return b""
    return _MAGIC.to_bytes(4, "little") + _filled(attributes, _IN_INODE, 0)


def _block(attributes: Sequence[_Attribute]) -> bytes:
    if not attributes:
        return b""
    total = 0
    for attribute in attributes:
        total = (total << 16 ^ total >> 16 ^ _hash(attribute)) & 0xFFFFFFFF
    head = struct.pack("<IIIII", _MAGIC, 1, 1, total, 0).ljust(32, b"\0")
    return head + _filled(attributes, _IN_BLOCK, 32)


def _filled(attributes: Sequence[_Attribute], room: int, base: int) -> bytes:
    """Names from the beginning, values from the end; base: what their offsets count from."""
    names, values = b"", b""
    for attribute in attributes:
        index, name, value = attribute
        values = value.ljust(_padded(len(value)), b"\0") + values
        # An empty value has no place.
        at = base + room - len(values) if value else 0
        hashed = _hash(attribute) if base else 0
        names += _HEAD.pack(len(name), index, at, 0, len(value), hashed)
        names += name.ljust(_padded(len(name)), b"\0")
    return names.ljust(room - len(values), b"\0") + values


def _hash(attribute: _Attribute) -> int:
    """e_hash, by which the kernel finds equal blocks and e2fsck damaged ones."""
    _, name, value = attribute
    found = 0
    for byte in name:
        found = (found << 5 ^ found >> 27 ^ byte) & 0xFFFFFFFF
    padded = value.ljust(_padded(len(value)), b"\0")
    for (word,) in struct.iter_unpack("<I", padded):
        found = (found << 16 ^ found >> 16 ^ word) & 0xFFFFFFFF
    return found


def _refused(entry: Entry, why: str) -> InputError:
    return InputError(
        "keep the extended attributes of",
        "/" + os.fsdecode(entry.path),
        why=why,
        next_step="Remove them from that file, or make them smaller",
    )
