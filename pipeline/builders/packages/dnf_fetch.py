"""Package files of RPM repositories: by their sha256 in a cache, each one proved before use.

A file has its name in the cache once its digest was right. Signatures are checked whenever files
are asked for: a recipe may trust other keys than the one that fetched them did.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.builders.packages.dnf_metadata import Record, Source, get_file, try_mirrors
from pipeline.builders.packages.protocol import Package
from pipeline.core.errors import InputError
from pipeline.host.context import Tools
from pipeline.host.download import Downloader
from pipeline.host.files import finish

_CONNECTIONS = 4  # at once: small packages cost a round trip each, and mirrors bear no more
_AT_ONCE = 200  # packages that one rpmkeys is given; a list of arguments has its limit


def fetch_packages(
    packages: Sequence[Package],
    sources: Mapping[str, Source],
    cache: Path,
    downloader: Downloader,
    tools: Tools,
) -> list[Path]:
    """See `Backend.fetch`. InputError for a package that its repository's keys did not sign."""
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o755)
    missing = [package for package in packages if not _whole(cache, package)]
    total = sum(package.size for package in missing)
    with (
        tools.progress.task("fetch packages", total=total, unit="bytes") as meter,
        ThreadPoolExecutor(_CONNECTIONS) as pool,
    ):

        def one(package: Package) -> None:
            _fetch(package, sources[package.repository], cache, downloader, tools)
            meter.advance(package.size)

        running = [pool.submit(one, package) for package in missing]
        try:
            for each in running:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for name, source in sources.items():
        own = [package for package in packages if package.repository == name]
        for first in range(0, len(own), _AT_ONCE):
            some = own[first : first + _AT_ONCE]
            named = {_place(cache, p): f"{p.name}-{p.version}.{p.architecture}" for p in some}
            source.keyring.check_packages(named, tools.run)
    return [_place(cache, package) for package in packages]


def _place(cache: Path, package: Package) -> Path:
    return cache / f"{package.sha256}.rpm"


def _whole(cache: Path, package: Package) -> bool:
    """Whether the cache has the file as it should be; one that is not is deleted."""
    path = _place(cache, package)
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == package.sha256:
                return True
    except FileNotFoundError:
        return False
    path.unlink()
    return False


def _fetch(
    package: Package, source: Source, cache: Path, downloader: Downloader, tools: Tools
) -> None:
    """Put the file into the cache, from the first mirror that gives the right one."""
    location = package.url
    if ".." in location.split("/") or location.startswith("/"):
        raise InputError(
            "fetch the package",
            package.name,
            why=f"its repository gives it the place {location}",
        )
    partial = cache / f".{package.sha256}.{os.getpid()}.partial"

    record = Record("package", location, "sha256", package.sha256, package.size, 0)

    def ask(url: str) -> None:
        get_file(downloader, f"{url}/{location}", partial, record)

    with tools.run.cleanup(remove=partial):
        try:
            attempted = f"fetch the package {package.name} of the repository"
            try_mirrors(source, ask, attempted, tools.progress.warn)
            partial.chmod(0o644)  # whatever the umask: the guest's root is another user
            finish(partial, _place(cache, package))
        finally:
            partial.unlink(missing_ok=True)
