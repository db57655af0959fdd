"""Package files by apt's own methods, into a cache that all states share.

apt-helper(8) asks several files over one connection, goes on with what an earlier run left, and
uses apt's proxies, certificates and accounts. A file gets its name, its sha256, once it has it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from pipeline.builders.packages.apt import words as apt_words
from pipeline.builders.packages.apt.config import PrivateApt, repository_urls
from pipeline.builders.packages.protocol import Package
from pipeline.core.errors import HostError
from pipeline.host.locks import exclusive
from pipeline.host.pools import threads

HELPER = "/usr/lib/apt/apt-helper"
_SECONDS = 3600.0
_AT_ONCE = 40  # files an apt-helper is asked for; its arguments stay short, progress is seen
_BUSY = 3600.0
_READERS = 2


def place(cache: Path, package: Package) -> Path:
    """Where a package's file is in the cache."""
    return cache / "apt" / "debs" / package.sha256[:2] / f"{package.sha256}.deb"


def fetch(
    apt: PrivateApt, packages: Sequence[Package], cache: Path, urls: Mapping[str, str]
) -> list[Path]:
    """See protocol.Backend.fetch. urls: repository's name -> the mirror that answered last."""
    files = [place(cache, package) for package in packages]
    if missing := _missing(packages, files):
        with exclusive(cache / "apt" / "debs.lock", "the cache of packages", wait=_BUSY):
            missing = _missing(packages, files)  # another build may have fetched them meanwhile
            try:
                _fetch(apt, missing, cache, urls)
            except OSError as error:
                raise HostError(
                    "keep package files in",
                    cache,
                    why=error.strerror or str(error),
                    next_step="Free some space there, or set IMAGE_PIPELINE_CACHE",
                ) from error
    return files


def _missing(packages: Sequence[Package], files: Sequence[Path]) -> list[Package]:
    """What the cache lacks, or has with other content: it is not synced, and a disk may fail."""
    with ThreadPoolExecutor(_READERS) as pool:
        digests = list(pool.map(_digest, files))
    return [p for p, digest in zip(packages, digests, strict=True) if digest != p.sha256]


def _fetch(
    apt: PrivateApt, packages: Sequence[Package], cache: Path, urls: Mapping[str, str]
) -> None:
    partial = cache / "apt" / "debs" / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    total = sum(package.size for package in packages)
    said = ""
    with apt.tools.progress.task("fetch packages", total=total) as meter:
        for number in range(max(len(r.urls) for r in apt.system.repositories)):
            for some in _parts(packages, _AT_ONCE):
                said += _ask(apt, some, partial, _mirrors(apt, urls, number))
                for package in _whole(some, partial, cache):
                    meter.advance(package.size)
            packages = _missing(packages, [place(cache, p) for p in packages])
            if not packages:
                return
    if shutil.disk_usage(cache).free < packages[0].size or apt_words.is_full(said):
        raise HostError(
            "keep package files in",
            cache,
            why="its file system is full",
            next_step="Free some space there, or set IMAGE_PIPELINE_CACHE to a larger one",
        )
    raise HostError(
        "fetch the package",
        packages[0].url,
        why=f"{apt_words.complaint(said)}"
        + (f" (and {len(packages) - 1} others)" if len(packages) > 1 else ""),
        next_step="Refresh the repositories' state if the mirror no longer has it; else check the"
        " network, or name another mirror in the recipe",
    )


def _mirrors(apt: PrivateApt, urls: Mapping[str, str], number: int) -> dict[str, str]:
    """The mirror of each repository to ask in round `number`: first the one that answered last."""
    chosen = {}
    for repository in apt.system.repositories:
        known = repository_urls(apt.system, repository)
        first = urls.get(repository.name, known[0])
        order = [first, *(url for url in known if url != first)]
        chosen[repository.name] = order[number % len(order)]
    return chosen


def _ask(
    apt: PrivateApt, packages: Sequence[Package], partial: Path, mirrors: Mapping[str, str]
) -> str:
    """Fetch what can be fetched; what apt complained of otherwise."""
    words: list[str] = []
    for package in packages:
        url = f"{mirrors[package.repository].rstrip('/')}/{quote(package.url)}"
        words += [url, package.sha256, f"SHA256:{package.sha256}"]
    with apt.configured() as env:
        done = apt.run(
            [HELPER, "-q", "download-file", *words], env, timeout=_SECONDS, ok=(0, 100), cwd=partial
        )
    return "" if done.returncode == 0 else apt.said(done)


def _whole(packages: Sequence[Package], partial: Path, cache: Path) -> Iterator[Package]:
    """Name the files that have their digest; those that are not whole stay, to be gone on with."""
    with threads(_READERS, "digest") as pool:
        found = pool.map(lambda p: _digest(partial / p.sha256), packages)
        for package, digest in zip(packages, found, strict=True):
            file = partial / package.sha256
            if digest == package.sha256:
                final = place(cache, package)
                final.parent.mkdir(exist_ok=True)
                file.replace(final)
                yield package
            elif digest and file.stat().st_size >= package.size:
                file.unlink()  # whole and wrong: nothing to go on with


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _parts(packages: Sequence[Package], size: int) -> Iterator[Sequence[Package]]:
    for begin in range(0, len(packages), size):
        yield packages[begin : begin + size]
