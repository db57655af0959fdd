"""One image in another format: what is meant by the user's word, what would be done, doing it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.builds import history
from pipeline.builds.manifest import read_manifest
from pipeline.catalogue.lookup import local_files
from pipeline.convert import root_tar
from pipeline.convert.conversion import Converted, Wanted, convert, final_size
from pipeline.convert.extract import open_format, opened
from pipeline.convert.formats.presets import find_preset
from pipeline.convert.formats.protocol import Options
from pipeline.convert.formats.registry import FORMATS, find_format, unknown
from pipeline.convert.inputs import MOST
from pipeline.convert.writers.transport import SUFFIXES, Packing
from pipeline.core import settings
from pipeline.core.errors import InputError
from pipeline.core.events import Progress
from pipeline.core.image import DiskImage, Role
from pipeline.core.resources import COMMAND
from pipeline.core.secrets import Secrets
from pipeline.core.text import human_bytes
from pipeline.host.context import Tools
from pipeline.host.download import Downloader, masked
from pipeline.host.programs import Runner
from pipeline.host.sparse import digests

_ID = re.compile(r"^ami-[0-9a-f]{17}$")
_URL = re.compile(r"^https?://")
_SHA256 = re.compile(r"^[0-9a-fA-F]{64}$")
_NO_DISK = (
    "there is no whole disk of it: its machine image is taken, one file system without a boot"
    " loader (build with --disk-image for a disk that boots by itself)"
)
ROOT = "root"
"""The word for an archive of the root file system in place of a disk."""


@dataclass(frozen=True)
class Wish:
    """The user's words; "" for those left out.

    source: a build's name, an id of the local catalogue, a file or a URL. form: of FORMATS, or
    ROOT. consumer: of PRESETS. most: bytes that what is compressed may be unpacked to. root: which
    volume is the root, for ROOT.
    """

    source: str
    form: str = ""
    consumer: str = ""
    out: str = ""
    variant: str = ""
    compression: str = ""
    pack: str = ""
    sha256: str = ""
    cpus: int | None = None
    memory_mib: int | None = None
    most: int = MOST
    root: str = ""


@dataclass(frozen=True)
class Found:
    """What a word means. path: a file, None for a URL that is fetched first. note: for people."""

    name: str
    path: Path | None
    url: str = ""
    architecture: str = "x86_64"
    note: str = ""


def wanted(wish: Wish, name: str = "disk", architecture: str = "x86_64") -> Wanted:
    """What is to be written; InputError for words that do not fit each other."""
    preset = find_preset(wish.consumer) if wish.consumer else None
    if not wish.form and preset is None:
        raise InputError(
            "convert",
            wish.source,
            why="nobody says to what",
            next_step=f"Add --to FORMAT ({', '.join(FORMATS)}, {ROOT}) or --for CONSUMER",
        )
    if wish.form and wish.form not in FORMATS:
        raise unknown("write the format", wish.form, [*FORMATS, ROOT])
    form = find_format(wish.form or (preset.format if preset else ""))
    if preset is not None and preset.format != form.name:
        raise InputError(
            f"write {form.name} for",
            preset.name,
            why=f"it takes {preset.format}: {preset.why}",
            next_step="Leave --to out",
        )
    variant = wish.variant or (preset.variant if preset else "")
    compression = wish.compression or (preset.compression if preset else "")
    for word, known, what in (
        (variant, form.variants, "variant"),
        (compression, form.compressions, "compression"),
    ):
        if word and word not in known:
            if not known:
                raise InputError(
                    f"write {form.name} with the {what}", word, why=f"it has no {what}s"
                )
            raise unknown(f"write {form.name} with the {what}", word, known)
    options = Options(
        variant, compression, name, wish.cpus or 1, wish.memory_mib or 1024, architecture
    )
    pack = packing(wish.pack) or (preset.pack if preset else None)
    return Wanted(form, options, max(preset.multiple if preset else 0, 1), pack)


def packing(word: str) -> Packing | None:
    """The packing of that name, None for ""; InputError that offers the nearest."""
    for known in SUFFIXES:
        if known == word:
            return known
    if word:
        raise unknown("pack by", word, SUFFIXES)
    return None


def find(word: str) -> Found:
    """What the user's word means; InputError for nothing at all."""
    if _URL.match(word):
        name = Path(word.partition("?")[0]).name
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", name) or "disk"
        return Found(_stem(Path(plain)), None, word)
    if _ID.match(word):
        registered = local_files(word)
        whole = registered.files.get("disk")
        path = whole or registered.files["machine"]
        note = "" if whole else _NO_DISK
        return Found(registered.name, path, architecture=registered.architecture, note=note)
    path = Path(word)
    if path.is_file() or path.is_block_device() or "/" in word:
        return Found(_stem(path), path)
    try:
        directory = history.locate(settings.build_dir(), word)
    except InputError as error:
        raise InputError(
            "find the image",
            word,
            why="there is neither a file nor a build of that name",
            next_step=error.next_step or f"`{COMMAND} list` shows the builds",
        ) from None
    image = read_manifest(directory).image(directory)
    disk = image.find(Role.DISK, "raw")
    path = (disk or image.machine).path
    return Found(image.name, path, architecture=image.architecture, note="" if disk else _NO_DISK)


def _stem(path: Path) -> str:
    """A file's name without what says its format."""
    name = path.name
    known = {form.suffix for form in FORMATS.values()} | {*SUFFIXES.values(), ".img", ".bz2"}
    while Path(name).suffix.lower() in known and Path(name).stem:
        name = Path(name).stem
    return name or "disk"


@dataclass(frozen=True)
class _Job:
    wish: Wish
    found: Found
    out: Path
    want: Wanted | None
    """None for an archive of the root."""


def _job(wish: Wish) -> _Job:
    found = find(wish.source)
    if wish.sha256 and not _SHA256.match(wish.sha256):
        raise InputError("use the digest", wish.sha256, why="a SHA-256 has 64 hexadecimal digits")
    if found.url and not wish.sha256:
        raise InputError(
            "fetch",
            masked(found.url),
            why="nobody says what its content must be",
            next_step="Add --sha256 DIGEST, as its publisher states it",
        )
    if wish.form == ROOT:
        want, suffix = None, ".tar.gz"
        if wish.pack not in ("", "gzip") or wish.consumer or wish.variant or wish.compression:
            raise InputError(
                "write an archive of the root",
                found.name,
                why="it is packed by gzip, and has no variants",
                next_step="Leave the other options out",
            )
    else:
        want = wanted(wish, found.name, found.architecture)
        suffix = want.suffix
    out = Path(wish.out or f"{found.name}{suffix}").absolute()
    if not out.parent.is_dir():
        raise InputError(
            "write",
            out,
            why="there is no such directory",
            next_step=f"Make {out.parent}, or name another",
        )
    if out.is_dir() or (found.path and out.exists() and out.samefile(found.path)):
        raise InputError(
            "write",
            out,
            why="it is a directory" if out.is_dir() else "it is the source itself",
            next_step="Name another file with --out",
        )
    return _Job(wish, found, out, want)


@contextmanager
def _file(job: _Job, tools: Tools) -> Iterator[DiskImage]:
    """The source as a file whose digest is the one that was asked for."""
    path = job.found.path
    if path is None:
        path = tools.scratch / f"fetched-{job.found.name}"
        fetch = Downloader(tools.run.secrets, tools.progress.warn)
        with tools.progress.task(f"Fetching {job.found.name}", None) as meter:
            digest = fetch.file(
                job.found.url, path, algorithm="sha256", limit=job.wish.most, advance=meter.advance
            )
        _require(job.wish.sha256, digest, masked(job.found.url))
    elif job.wish.sha256:
        with tools.progress.task(f"Hashing {path.name}", path.stat().st_size) as meter:
            _require(job.wish.sha256, digests(path, ["sha256"], meter)["sha256"], str(path))
    yield open_format(path)


def _require(expected: str, found: str, subject: str) -> None:
    if found != expected.lower():
        raise InputError(
            "use",
            subject,
            why=f"its SHA-256 is {found}, and {expected.lower()} was asked for",
            next_step="Fetch it again, or correct the digest",
        )


def plan(wish: Wish, progress: Progress, secrets: Secrets) -> list[str]:
    """What `run` would do, a sentence a line; nothing is written beside a scratch directory."""
    job = _job(wish)
    to = f"write {job.out}"
    if job.found.path is None:
        return [f"fetch {masked(job.found.url)} and compare its SHA-256", to]
    disk = open_format(job.found.path)
    lines = [f"read the {disk.format} image {disk.path}"]
    lines += [job.found.note] if job.found.note else []
    if job.want is None:
        return [*lines, "find the root file system in it", to]
    if disk.format in ("gzip", "xz", "zstd", "bzip2"):
        lines.append(f"unpack it, to {human_bytes(wish.most)} at most")
    else:
        with (
            tempfile.TemporaryDirectory() as scratch,
            Runner(secrets=secrets) as runner,
            opened(disk, Tools(runner, progress, Path(scratch))) as source,
        ):
            size, note = final_size(source, job.want)
        lines += [note] if note else []
        lines.append(f"write {human_bytes(size)} of disk as {job.want.form.name}")
    lines.append("compare what was written with the source, byte for byte")
    if job.want.pack:
        lines.append(f"pack it by {job.want.pack}")
    return [*lines, to]


def run(
    wish: Wish,
    progress: Progress,
    secrets: Secrets,
    *,
    echo: Callable[[str], None] | None = None,
) -> Converted:
    """Convert; nothing has the final name that is not whole, and nothing else is left."""
    job = _job(wish)
    with (
        Runner(secrets=secrets, echo=echo) as runner,
        tempfile.TemporaryDirectory(prefix=".convert-", dir=job.out.parent) as scratch,
        runner.cleanup(remove=Path(scratch)),
    ):
        tools = Tools(runner, progress, Path(scratch))
        if job.found.note:
            progress.say(job.found.note)
        with _file(job, tools) as disk:
            if job.want is None:
                return root_tar.write(disk, job.wish.root, job.out, tools, most=wish.most)
            with opened(disk, tools, most=wish.most) as source:
                return convert(source, job.out, job.want, tools)


def record(done: Converted) -> dict[str, Any]:
    """For programs."""
    return asdict(done) | {"path": str(done.path)}


def lines(done: Converted) -> list[str]:
    """For people."""
    told = f"made {done.path}: {human_bytes(done.size)}"
    if done.virtual:
        told += f" for a disk of {human_bytes(done.virtual)}"
    return [f"{told}, sha256 {done.sha256}"]
