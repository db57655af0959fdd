"""rpm's database of installed packages, in both of the forms it had.

- SQLite, `rpmdb.sqlite`, table Packages(hnum, blob): Fedora 33, RHEL 9 and later.
- Berkeley DB hash, `Packages`: before. Only what reading every value needs is parsed here: the
  meta page, hash pages, and values kept on overflow pages.

Sources: rpm, docs/manual/hregions.md and format_header.md (a header is two big-endian counts, an
index of 16-byte entries and a data area), include/rpm/rpmtag.h; Berkeley DB, src/dbinc/db_page.h.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from pipeline.core.errors import DiskError
from pipeline.guest.inventory.dependencies import Capability

_PLACES = ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
_MAX_DATABASE = 1 << 30  # bytes; 2,000 packages take 150 MB
_MAX_HEADER = 64 << 20  # bytes; rpm's own bound is 256 MiB, the kernel's header takes 1 MB
_MAX_PACKAGES = 100_000
_MAX_PATH = 4096 * len(r"\xNN")  # PATH_MAX, each byte perhaps written out

_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH = 1000, 1001, 1002, 1003, 1022
_VENDOR, _LICENCE, _PACKAGER, _SOURCE = 1011, 1014, 1015, 1044
_REQUIRED, _REQUIRED_HOW, _REQUIRED_VERSIONS = 1049, 1048, 1050
_PROVIDED, _PROVIDED_VERSIONS = 1047, 1113
_RELATION, _EQUAL = 2 | 4 | 8, 8  # RPMSENSE_LESS, _GREATER and _EQUAL (rpmds.h)
_OLD_FILENAMES, _DIRECTORY_INDEXES, _BASENAMES, _DIRECTORIES = 1027, 1116, 1117, 1118
_WORDS = (_NAME, _VERSION, _RELEASE, _ARCH, _VENDOR, _LICENCE, _PACKAGER, _SOURCE)
_INT32, _STRING, _STRING_ARRAY, _I18N = 4, 6, 8, 9
_STRINGS = (_STRING, _STRING_ARRAY, _I18N)
_GPG_KEY = "gpg-pubkey"  # imported keys are kept as packages without files

_HASH_MAGIC = 0x061561
_HASH_PAGES = (2, 13)  # unsorted and sorted
_OVERFLOW_PAGE = 7
_PAGE_HEADER = 26  # bytes
_KEY_DATA, _OFF_PAGE = 1, 3


class Files(Protocol):
    """What reading the database needs of a tree."""

    def copy(self, path: str, to: Path, limit: int) -> bool:
        """Copy a file out; False if there is none or it is larger than `limit`."""


@dataclass(frozen=True)
class RpmPackage:
    """version: [EPOCH:]VERSION-RELEASE. files: absolute paths.

    source, source_version: of the source package's file name. provides, requires: names with the
    version that they have or, exactly, need; "" for any.
    """

    name: str
    version: str
    architecture: str
    files: tuple[str, ...]
    source: str = ""
    source_version: str = ""
    vendor: str = ""
    licence: str = ""
    provides: tuple[Capability, ...] = ()
    requires: tuple[Capability, ...] = ()


def read(files: Files, scratch: Path) -> list[RpmPackage] | None:
    """All installed packages by name; None without a database. DiskError when it is damaged.

    scratch: an existing directory for the copy that sqlite opens.
    """
    copy = scratch / "database"
    for place in _PLACES:
        if files.copy(f"{place}/rpmdb.sqlite", copy, _MAX_DATABASE):
            # Without its journal sqlite would show an older state.
            files.copy(f"{place}/rpmdb.sqlite-wal", scratch / "database-wal", _MAX_DATABASE)
            return _packages(sqlite_headers(copy))
        if files.copy(f"{place}/Packages", copy, _MAX_DATABASE):
            return _packages(berkeley_headers(copy.read_bytes()))
    return None


def _packages(headers: Iterable[bytes]) -> list[RpmPackage]:
    found = []
    for header in headers:
        package = parse_header(header)
        if package.name and package.name != _GPG_KEY:
            found.append(package)
        if len(found) > _MAX_PACKAGES:
            raise _damaged(f"it has more than {_MAX_PACKAGES} packages")
    return sorted(found, key=lambda package: (package.name, package.version))


def sqlite_headers(path: Path) -> Iterator[bytes]:
    """Every header in a copy of rpmdb.sqlite."""
    try:
        # A fresh copy in a directory of ours: the journal may be merged into it.
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_HEADER)
            # A hostile schema could make Packages a view over anything, without an end.
            kind = database.execute(
                "SELECT type FROM sqlite_master WHERE name = 'Packages'"
            ).fetchone()
            if kind != ("table",):
                raise _damaged("it has no table Packages")
            for (blob,) in database.execute("SELECT blob FROM Packages"):
                if isinstance(blob, bytes):
                    yield blob
    except sqlite3.Error as error:
        raise _damaged(str(error)) from error


def berkeley_headers(data: bytes) -> Iterator[bytes]:
    """Every header in a Berkeley DB hash file of either byte order."""
    pages = _Pages(data)
    left = len(data)  # all values together cannot be longer than their file
    for page in pages.hash_pages():
        for value in pages.values(page):
            left -= len(value)
            if left < 0:
                raise _damaged("its values share pages")
            if len(value) > 8:  # the record of the last package number has four bytes
                yield value


class _Pages:
    """The pages of a Berkeley DB hash file."""

    def __init__(self, data: bytes) -> None:
        order = next((o for o in "<>" if data[12:16] == struct.pack(f"{o}I", _HASH_MAGIC)), None)
        if order is None:
            raise _damaged("it is no Berkeley DB hash file")
        self._data, self._order = data, order
        self._size: int = struct.unpack_from(f"{order}I", data, 20)[0]
        if self._size not in (512 << shift for shift in range(8)):
            raise _damaged(f"its pages are of {self._size} bytes")

    def hash_pages(self) -> Iterator[bytes]:
        for start in range(self._size, len(self._data) - self._size + 1, self._size):
            if self._data[start + 25] in _HASH_PAGES:
                yield self._data[start : start + self._size]

    def values(self, page: bytes) -> Iterator[bytes]:
        count = self._unpack("H", page, 20)[0]
        if _PAGE_HEADER + 2 * count > self._size:
            raise _damaged("a page has more entries than fit on it")
        offsets = self._unpack(f"{count}H", page, _PAGE_HEADER)
        for index in range(1, count, 2):  # keys and values take turns
            # Items grow down from the page's end: one ends where the one before it begins.
            start, end = offsets[index], offsets[index - 1]
            if not _PAGE_HEADER <= start < end <= self._size:
                raise _damaged("an entry lies outside of its page")
            if page[start] == _KEY_DATA:
                yield page[start + 1 : end]
            elif page[start] == _OFF_PAGE and end - start >= 12:
                yield self._overflow(*self._unpack("II", page, start + 4))

    def _overflow(self, number: int, length: int) -> bytes:
        """A value of `length` bytes that begins on page `number`."""
        if length > min(_MAX_HEADER, len(self._data)):
            raise _damaged(f"a value has {length} bytes")
        parts: list[bytes] = []
        left = length
        while number and left > 0:
            page = self._data[number * self._size : (number + 1) * self._size]
            if len(page) < self._size or page[25] != _OVERFLOW_PAGE:
                raise _damaged(f"page {number} is no overflow page")
            number, used = self._unpack("I2xH", page, 16)
            if not 0 < used <= self._size - _PAGE_HEADER:
                raise _damaged("an overflow page is empty or too full")
            parts.append(page[_PAGE_HEADER : _PAGE_HEADER + used])
            left -= used
        if left:
            raise _damaged(f"a value has {length - left} of its {length} bytes")
        return b"".join(parts)

    def _unpack(self, form: str, page: bytes, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + form, page, offset)


def parse_header(blob: bytes) -> RpmPackage:
    """What one header says of its package; DiskError when it is damaged."""
    try:
        tags = dict(_tags(blob))
        texts = {tag: _texts(blob, tags.get(tag)) for tag in _WORDS}
        first = {tag: next(iter(words), "") for tag, words in texts.items()}
        epoch = _numbers(blob, tags.get(_EPOCH))
        directories = _texts(blob, tags.get(_DIRECTORIES))
        names = _texts(blob, tags.get(_BASENAMES))
        where = _numbers(blob, tags.get(_DIRECTORY_INDEXES))
        files = [_path(directories[i], name) for i, name in zip(where, names, strict=True)]
        provides, requires = _provided(blob, tags), _required(blob, tags)
    except (struct.error, ValueError, IndexError) as error:
        raise _damaged(f"a package's header is cut short: {error}") from error
    files += _texts(blob, tags.get(_OLD_FILENAMES))
    version = f"{first[_VERSION]}-{first[_RELEASE]}"
    source, source_version = _source(first[_SOURCE])
    return RpmPackage(
        name=first[_NAME],
        version=f"{epoch[0]}:{version}" if epoch else version,
        architecture=first[_ARCH],
        files=tuple(files),
        source=source,
        source_version=source_version,
        vendor=first[_VENDOR] or first[_PACKAGER],
        licence=first[_LICENCE],
        provides=provides,
        requires=requires,
    )


def _source(file_name: str) -> tuple[str, str]:
    """Name and VERSION-RELEASE of NAME-VERSION-RELEASE.src.rpm, ("", "") of anything else."""
    parts = re.sub(r"\.(no)?src\.rpm$", "", file_name).rsplit("-", 2)
    return (parts[0], f"{parts[1]}-{parts[2]}") if len(parts) == 3 else ("", "")


def _provided(blob: bytes, tags: Mapping[int, _Tag]) -> tuple[Capability, ...]:
    names = _texts(blob, tags.get(_PROVIDED))
    versions = _texts(blob, tags.get(_PROVIDED_VERSIONS))
    return tuple(zip_longest(names, versions[: len(names)], fillvalue=""))


def _required(blob: bytes, tags: Mapping[int, _Tag]) -> tuple[Capability, ...]:
    names = _texts(blob, tags.get(_REQUIRED))
    versions = _texts(blob, tags.get(_REQUIRED_VERSIONS))[: len(names)]
    how = _numbers(blob, tags.get(_REQUIRED_HOW))[: len(names)]
    found: dict[Capability, None] = {}
    for name, version, flags in zip_longest(names, versions, how, fillvalue=""):
        # "(A if B)" is an expression, rpmlib(...) a feature of rpm itself.
        if isinstance(flags, int) and not name.startswith(("(", "rpmlib(")):
            found[name, version if flags & _RELATION == _EQUAL else ""] = None
    return tuple(found)


def _path(directory: str, name: str) -> str:
    # Without a bound one long directory and many names would fill the memory.
    if len(directory) + len(name) > _MAX_PATH:
        raise ValueError(f"a path has more than {_MAX_PATH} characters")
    return directory + name


@dataclass(frozen=True)
class _Tag:
    type: int
    start: int
    count: int


def _tags(blob: bytes) -> Iterator[tuple[int, _Tag]]:
    count, size = struct.unpack_from(">II", blob)
    data = 8 + 16 * count
    if data + size > len(blob):
        raise ValueError(f"{count} entries and {size} bytes in {len(blob)} bytes")
    for index in range(count):
        tag, kind, offset, number = struct.unpack_from(">IIII", blob, 8 + 16 * index)
        if offset <= size and number <= size:
            yield tag, _Tag(kind, data + offset, number)


def _texts(blob: bytes, tag: _Tag | None) -> list[str]:
    if tag is None or tag.type not in _STRINGS:
        return []
    words = []
    position = tag.start
    for _ in range(tag.count):
        end = blob.index(b"\0", position)
        words.append(blob[position:end].decode("utf-8", "backslashreplace"))
        position = end + 1
    return words


def _numbers(blob: bytes, tag: _Tag | None) -> tuple[int, ...]:
    if tag is None or tag.type != _INT32:
        return ()
    return struct.unpack_from(f">{tag.count}I", blob, tag.start)


def _damaged(why: str) -> DiskError:
    return DiskError("read the guest's rpm database", why=why)
