"""The metadata of RPM repositories: fetched from the first mirror that has it, proved, kept whole.

A repository's repomd.xml names its other files with their digests. It is signed in some families
(Fedora's and Enterprise Linux's own repositories have no repomd.xml.asc) and checked where it is;
packages are signed in all of them and are always checked (dnf_keys.py). So a lying mirror of an
unsigned repomd.xml can hold back news, but not give packages of its own.
Source: repomd.xml and what it names, createrepo_c(8); dnf.conf(5), "repo_gpgcheck".
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from pipeline.builders.packages.dnf_keys import Keyring
from pipeline.core.errors import HostError, InputError
from pipeline.host.download import Downloader, DownloadError, masked
from pipeline.host.files import naming
from pipeline.host.programs import Runner

_T = TypeVar("_T")
_NAMESPACE = "{http://linux.duke.edu/metadata/repo}"
_KINDS = ("primary", "filelists", "modules")
_GROUPS = ("group", "group_gz", "group_xz")
"""What solving needs. Not wanted: other (changelogs), updateinfo, databases, zchunk's variants."""
_DIGESTS = ("sha256", "sha512", "sha384", "sha224", "sha", "sha1")
_LARGEST = 1 << 30  # bytes of one file of metadata; Fedora's filelists have 60 MB
_MISSING = ("answered 404", "answered 403", "answered 410", "No such file")


@dataclass(frozen=True)
class Record:
    """One file that repomd.xml names. size: bytes, or the most that is taken where it tells none.

    date: seconds since 1970, 0 where it tells none.
    """

    kind: str
    location: str
    algorithm: str
    digest: str
    size: int
    date: float


@dataclass(frozen=True)
class Source:
    """One repository as it is asked. urls: without a slash at the end, {snapshot} put in."""

    name: str
    urls: tuple[str, ...]
    keyring: Keyring


@dataclass(frozen=True)
class Fetched:
    """What was fetched of one repository. digest: of repomd.xml. signed: whether that was."""

    digest: str
    date: float
    signed: bool


class Refused(ValueError):  # what a mirror was, not an error of ours
    """A mirror's content that is not what it should be."""


def parse_repomd(text: str) -> tuple[Record, ...]:
    """The records that solving needs; Refused for what is no repomd.xml."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Refused("repomd.xml has a document type of its own")
    try:
        top = ElementTree.fromstring(text)  # noqa: S314 # it declares no entities, as just seen
    except ElementTree.ParseError as error:
        raise Refused(f"repomd.xml is no XML: {error}") from None
    if top.tag != f"{_NAMESPACE}repomd":
        raise Refused("repomd.xml is of another kind")
    records = [_record(data) for data in _wanted(top)]
    if "primary" not in {record.kind for record in records}:
        raise Refused("repomd.xml names no list of packages (primary)")
    return tuple(records)


def kept_repomd(text: str) -> bytes:
    """The same repomd.xml with no more than the records that are kept, for a reader offline."""
    ElementTree.register_namespace("", _NAMESPACE.strip("{}"))
    top = ElementTree.fromstring(text)  # noqa: S314 # as parse_repomd took it
    wanted = _wanted(top)
    for data in list(top):
        if data.tag == f"{_NAMESPACE}data" and data not in wanted:
            top.remove(data)
    written: bytes = ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)
    return written


def _wanted(top: ElementTree.Element) -> list[ElementTree.Element]:
    found = {data.get("type", ""): data for data in top.findall(f"{_NAMESPACE}data")}
    # Groups come in several forms, of which one is enough.
    groups = [kind for kind in found if kind in _GROUPS][:1]
    return [data for kind, data in found.items() if kind in (*_KINDS, *groups)]


def _record(data: ElementTree.Element) -> Record:
    kind = data.get("type", "")
    place, checksum = data.find(f"{_NAMESPACE}location"), data.find(f"{_NAMESPACE}checksum")
    location = "" if place is None else place.get("href", "")
    algorithm = "" if checksum is None else checksum.get("type", "")
    if not location or ".." in location.split("/") or location.startswith("/"):
        raise Refused(f"repomd.xml gives {kind} the place {location!r}")
    if algorithm not in _DIGESTS or checksum is None or not checksum.text:
        raise Refused(f"repomd.xml gives {kind} a digest of the kind {algorithm!r}")
    size, date = (data.findtext(f"{_NAMESPACE}{name}", "") for name in ("size", "timestamp"))
    return Record(
        kind,
        location,
        {"sha": "sha1"}.get(algorithm, algorithm),
        checksum.text.strip().lower(),
        int(size) if size.isdecimal() else _LARGEST,
        float(date) if date.replace(".", "", 1).isdecimal() else 0.0,
    )


def fetch_metadata(
    source: Source,
    directory: Path,
    *,
    downloader: Downloader,
    run: Runner,
    warn: Callable[[str], None],
    must_be_signed: bool,
) -> Fetched:
    """Put the metadata of one repository into `directory`/repodata, every file proved.

    must_be_signed: it was when it was last asked, so an absent signature is an attack or a fault.
    HostError where no mirror answers; InputError for a signature or content that is not right.
    """
    return try_mirrors(
        source,
        lambda url: _from_mirror(
            source, url, directory, downloader=downloader, run=run, must_be_signed=must_be_signed
        ),
        "fetch the metadata of the repository",
        warn,
    )


def try_mirrors(
    source: Source, ask: Callable[[str], _T], attempted: str, warn: Callable[[str], None]
) -> _T:
    """What `ask` gives for the first URL of the source where it works; the user hears of others.

    HostError where no mirror answers, InputError where the last that answered was refused.
    """
    told: list[str] = []
    refused = False
    for url in source.urls:
        try:
            return ask(url)
        except DownloadError as error:
            told.append(f"{masked(url)}: {error.why}")
        except Refused as error:
            told.append(f"{masked(url)}: {error}")
            refused = True
        if url != source.urls[-1]:
            warn(f"{told[-1]}; asking the next mirror of {source.name}")
    kind = InputError if refused else HostError
    raise kind(
        attempted,
        source.name,
        why="; ".join(told),
        next_step='Look at "urls" of the repository in the recipe, at the proxy and the network',
    )


def _from_mirror(
    source: Source,
    url: str,
    directory: Path,
    *,
    downloader: Downloader,
    run: Runner,
    must_be_signed: bool,
) -> Fetched:
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "repodata").mkdir(parents=True)
    text = get_text(downloader, f"{url}/repodata/repomd.xml")
    original = directory / "repomd.xml"
    original.write_text(text)
    signature = get_optional(downloader, f"{url}/repodata/repomd.xml.asc")
    if signature:
        (directory / "repomd.xml.asc").write_text(signature)
        source.keyring.check_detached(original, directory / "repomd.xml.asc", run)
    elif must_be_signed:
        raise Refused("repomd.xml has no signature any more, as it had before")
    records = parse_repomd(text)
    for record in records:
        path = directory / record.location
        path.parent.mkdir(parents=True, exist_ok=True)
        get_file(downloader, f"{url}/{record.location}", path, record)
    (directory / "repodata/repomd.xml").write_bytes(kept_repomd(text))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Fetched(digest, max(record.date for record in records), bool(signature))


def get_text(downloader: Downloader, url: str) -> str:
    """A small file by HTTP or from a directory (file:)."""
    if urlsplit(url).scheme != "file":
        return downloader.text(url, 8 << 20)
    try:
        return _local(url).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _failure(url, error) from None


def get_optional(downloader: Downloader, url: str) -> str:
    """The same, "" where the mirror says that there is none."""
    try:
        return get_text(downloader, url)
    except DownloadError as error:
        if any(word in error.why for word in _MISSING):
            return ""
        raise


def get_file(downloader: Downloader, url: str, path: Path, record: Record) -> None:
    """Write the file to `path`; Refused unless it has the digest of the record."""
    if urlsplit(url).scheme == "file":
        found = _copy(url, path, record.algorithm)
    else:
        with naming(path):
            found = downloader.file(url, path, algorithm=record.algorithm, limit=record.size)
    if found != record.digest:
        path.unlink()
        name = record.location.rpartition("/")[2]
        raise Refused(f"{name} has the {record.algorithm} {found}, not {record.digest}")


def _copy(url: str, path: Path, algorithm: str) -> str:
    """Copy a file of a directory; its digest. An OSError of the copy is no fault of the mirror."""
    try:
        source = _local(url).open("rb")
    except OSError as error:
        raise _failure(url, error) from None
    with source, naming(path), path.open("w+b") as file:
        shutil.copyfileobj(source, file)
        file.seek(0)
        return hashlib.file_digest(file, algorithm).hexdigest()


def _local(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _failure(url: str, error: Exception) -> DownloadError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DownloadError("read", url, why=why)


def newest(fetched: Sequence[Fetched]) -> str:
    """The newest date of all, ISO 8601 in UTC; "" where none tells one."""
    latest = max((each.date for each in fetched), default=0.0)
    return f"{datetime.fromtimestamp(latest, UTC):%Y-%m-%dT%H:%M:%SZ}" if latest else ""
