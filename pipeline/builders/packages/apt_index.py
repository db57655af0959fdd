"""Packages indexes as apt keeps them: records are found by file name or by name, without parsing.

Debian's index is 50 MB of text; one pass over its mapped pages takes 0.1 s. Sources: deb822(5),
Debian policy 5.3, the Debian repository format ("Packages" indices).
"""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_NOT_OF_THE_STATUS = frozenset(
    ("Filename", "Size", "MD5sum", "SHA1", "SHA256", "SHA512", "Description-md5", "Task", "Tag")
)
_FOLDED = re.compile(r"\n(?=\S)")


@dataclass(frozen=True)
class IndexFile:
    """One Packages file. repository: the name of what it is the index of."""

    path: Path
    repository: str


def fields(record: str) -> dict[str, str]:
    """A record's fields; lines that go on stay in the value, with their newline."""
    pairs = (line.partition(":") for line in _FOLDED.split(record.strip("\n")))
    return {name: value.strip() for name, _, value in pairs}


def by_file_name(indexes: Sequence[IndexFile], names: Collection[str]) -> dict[str, Found]:
    """The records of the files `names` ("pool/…"), as the first index that has one gives it."""
    wanted = {name.encode() for name in names}
    found: dict[str, Found] = {}
    for index in indexes:
        with _mapped(index.path) as text:
            for match in re.finditer(rb"\nFilename: ([^\n]+)", text):
                if match[1] in wanted:
                    wanted.discard(match[1])
                    found[match[1].decode()] = Found(_record(text, match.start()), index.repository)
                    if not wanted:
                        return found
    return found


@dataclass(frozen=True)
class Found:
    """A record and the repository that it is of."""

    record: str
    repository: str


def by_hash(indexes: Sequence[IndexFile], digests: Collection[str]) -> dict[str, str]:
    """The records of the files with these sha256."""
    wanted = {digest.encode() for digest in digests}
    found: dict[str, str] = {}
    for index in indexes:
        with _mapped(index.path) as text:
            for match in re.finditer(rb"\nSHA256: ([0-9a-f]{64})", text):
                if match[1] in wanted:
                    found[match[1].decode()] = _record(text, match.start())
    return found


def minimum(indexes: Sequence[IndexFile]) -> tuple[str, ...]:
    """Names of the packages that are essential or of priority "required", sorted."""
    names = set()
    for index in indexes:
        with _mapped(index.path) as text:
            for mark in (b"\nEssential: yes\n", b"\nPriority: required\n"):
                at = text.find(mark)
                while at >= 0:
                    names.add(fields(_record(text, at))["Package"])
                    at = text.find(mark, at + 1)
    return tuple(sorted(names))


def has(indexes: Sequence[IndexFile], name: str) -> bool:
    """Whether there is a package of that name."""
    for index in indexes:
        with _mapped(index.path) as text:
            mark = f"Package: {name}\n".encode()
            if text[: len(mark)] == mark or text.find(b"\n" + mark) >= 0:
                return True
    return False


def names(indexes: Sequence[IndexFile]) -> set[str]:
    """Names of all packages."""
    return _all(indexes, rb"^Package: ([^\n]+)")


def tasks(indexes: Sequence[IndexFile]) -> dict[str, list[str]]:
    """Names of all tasks that records say they belong to, with the packages."""
    found: dict[str, list[str]] = {}
    for index in indexes:
        with _mapped(index.path) as text:
            for match in re.finditer(rb"\nTask: ([^\n]+(?:\n [^\n]+)*)", text):
                package = fields(_record(text, match.start()))["Package"]
                for task in re.split(r"[,\s]+", match[1].decode()):
                    found.setdefault(task, []).append(package)
    return found


def installed(record: str, *, status: str = "install ok installed") -> str:
    """The record as dpkg's status file has it of an installed package."""
    kept = {k: v for k, v in fields(record).items() if k not in _NOT_OF_THE_STATUS}
    name = kept.pop("Package")
    lines = [f"Package: {name}", f"Status: {status}", *(f"{k}: {v}" for k, v in kept.items())]
    return "\n".join(lines) + "\n"


def source_of(record: Mapping[str, str]) -> str:
    """Name and version of the source package: "openssh 1:9.2p1-2"."""
    name, _, version = record.get("Source", record["Package"]).partition(" ")
    return f"{name} {version.strip('()') or record['Version']}"


def _all(indexes: Sequence[IndexFile], pattern: bytes) -> set[str]:
    found: set[str] = set()
    for index in indexes:
        with _mapped(index.path) as text:
            found.update(m[1].decode() for m in re.finditer(pattern, text, re.MULTILINE))
    return found


def _record(text: mmap.mmap, at: int) -> str:
    """The record around an offset; empty lines part records."""
    begin = text.rfind(b"\n\n", 0, at)
    end = text.find(b"\n\n", at + 1)
    data = text[0 if begin < 0 else begin + 2 : len(text) if end < 0 else end]
    return data.decode(errors="replace").strip("\n") + "\n"


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file:
        empty = file.seek(0, 2) == 0
        # An empty repository has an empty index, which mmap(2) refuses.
        size = mmap.PAGESIZE if empty else 0
        with mmap.mmap(-1 if empty else file.fileno(), size, access=mmap.ACCESS_READ) as text:
            yield text
