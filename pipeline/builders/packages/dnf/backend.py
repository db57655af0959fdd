"""dnf's family behind one backend: repositories of RPM packages, solved, proved and installed.

What is used of the host: gpg and rpmkeys for signatures, dnf's solver by its Python modules, rpm
for the transaction. Nothing of the host's own dnf or rpm is read or written. Directories below the
cache: keys/ (keyrings), states/ (metadata, one directory a state), packages/ (by sha256).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.builders.packages.dnf import install as dnf_install
from pipeline.builders.packages.dnf import resolve as dnf_resolve
from pipeline.builders.packages.dnf.fetch import fetch_packages
from pipeline.builders.packages.dnf.keys import Keyring, open_keyring
from pipeline.builders.packages.dnf.metadata import Fetched, Source, fetch_metadata, newest
from pipeline.builders.packages.protocol import Package, RepositoryState, Wanted
from pipeline.core.errors import HostError, InputError
from pipeline.core.packages import PackageSystem, Repository
from pipeline.host.context import Tools
from pipeline.host.download import Downloader
from pipeline.host.files import write_whole
from pipeline.host.isolation import Isolation, Root
from pipeline.host.locks import exclusive
from pipeline.host.requirements import Requirement, declare, require

REQUIRES = declare(
    Requirement(
        "dnf",
        "systems made of RPM packages",
        programs={"dnf": "dnf", "gpg": "gpg", "gpgv": "gpgv", "rpm": "rpm", "rpmkeys": "rpm"},
        needed=False,
    )
)
_PATIENCE = 3600.0  # seconds to wait for another process that asks the same mirrors
_KEPT = 2  # states: another process may still read the one before


def open_backend(system: PackageSystem, tools: Tools, cache: Path) -> DnfBackend:
    """See protocol.py. cache: a directory of the user's that may be deleted between runs."""
    return DnfBackend(system, tools, cache)


class DnfBackend:
    """See `Backend`."""

    def __init__(self, system: PackageSystem, tools: Tools, cache: Path) -> None:
        self._system = system
        self._tools = tools
        self._cache = cache
        self._downloader = Downloader(
            tools.run.secrets, tools.progress.warn, proxy=_with_scheme(system.proxy)
        )

    def check(self) -> None:
        """See `Backend`."""
        for program in REQUIRES.programs:
            require(program)
        if not Path(dnf_resolve.PYTHON).exists():
            raise HostError(
                "solve for packages",
                why=f"there is no {dnf_resolve.PYTHON}, for which dnf's modules are packaged",
                next_step="Install it: apt-get install dnf",
            )
        for repository in self._system.repositories:
            if repository.suites or repository.components:
                raise InputError(
                    "use the repository",
                    repository.name,
                    why="it has suites or components, which RPM repositories do not know",
                    next_step="Give each part a repository of its own, by its URL",
                )
            self._urls(repository)
            self._keyring(repository)

    def state(self, *, refresh: bool) -> RepositoryState:
        """See `Backend`."""
        place = self._cache / "states" / self._identity()
        current = place / "current"
        with (
            self._keeping(),
            exclusive(place / "lock", f"the metadata of {self._system.distribution}", _PATIENCE),
        ):
            if not refresh and (kept := _read(current)):
                return kept
            signed = frozenset(json.loads(current.read_text())["signed"]) if _read(current) else ()
            return self._refresh(place, current, signed)

    def signers(self) -> Mapping[str, tuple[str, ...]]:
        """See Backend."""
        return {r.name: self._keyring(r).fingerprints for r in self._system.repositories}

    def resolve(
        self, state: RepositoryState, wanted: Wanted, parents: Sequence[Package]
    ) -> tuple[Package, ...]:
        """See `Backend`."""
        return dnf_resolve.resolve(self._system, state, wanted, parents, self._tools)

    def fetch(self, state: RepositoryState, packages: Sequence[Package]) -> Sequence[Path]:
        """See `Backend`; each file is also signed by a key of its repository."""
        sources = {r.name: self._source(r) for r in self._system.repositories}
        with self._keeping():
            return fetch_packages(
                packages, sources, self._cache / "packages", self._downloader, self._tools
            )

    def install(
        self,
        root: Root,
        wanted: Wanted,
        packages: Sequence[Package],
        files: Sequence[Path],
        *,
        isolation: Isolation,
        tools: Tools,
        log: Path,
    ) -> None:
        """See `Backend`. After an error the root's `upper` is to be thrown away."""
        architecture = self._system.architecture
        dnf_install.install(
            dnf_install.Transaction(root, tuple(files), architecture, isolation, tools, log)
        )

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """HostError where the cache can keep nothing."""
        try:
            yield
        except OSError as error:
            raise HostError(
                "keep what repositories have in",
                self._cache,
                why=error.strerror or str(error),
                next_step="Free some space there, or set IMAGE_PIPELINE_CACHE to another place",
            ) from error

    def _refresh(
        self, place: Path, current: Path, signed: Sequence[str] | frozenset[str]
    ) -> RepositoryState:
        """Ask the mirrors; the new state has its name once all of it is proved."""
        partial = Path(tempfile.mkdtemp(prefix=".new-", dir=place))
        try:
            with self._tools.run.cleanup(remove=partial):
                found = self._fetch_all(partial, signed)
            names = [r.name for r in self._system.repositories]
            told = "".join(f"{n} {f.digest}\n" for n, f in zip(names, found, strict=True))
            digest = hashlib.sha256(told.encode()).hexdigest()
            final = place / digest
            if not final.is_dir():
                partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        now = [name for name, each in zip(names, found, strict=True) if each.signed]
        for name in names:
            if name not in now:
                self._tools.progress.say(
                    f"the metadata of {name} is not signed; each of its packages is checked"
                )
        date = newest(found)
        record = {"digest": digest, "date": date, "signed": now}
        write_whole(current, json.dumps(record))
        _forget_old(place, final)
        return RepositoryState(digest, date, final)

    def _fetch_all(self, partial: Path, signed: Sequence[str] | frozenset[str]) -> list[Fetched]:
        found = []
        with self._tools.progress.task("ask the repositories"):
            for repository in self._system.repositories:
                found.append(
                    fetch_metadata(
                        self._source(repository),
                        partial / repository.name,
                        downloader=self._downloader,
                        run=self._tools.run,
                        warn=self._tools.progress.warn,
                        must_be_signed=repository.name in signed,
                    )
                )
        return found

    def _identity(self) -> str:
        """What states depend on beside the mirrors' content: repositories, keys, variables."""
        system = self._system
        parts = [system.release, system.architecture, system.snapshot]
        for repository in system.repositories:
            keys = self._keyring(repository).fingerprints
            parts += [repository.name, *self._urls(repository), *keys]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _source(self, repository: Repository) -> Source:
        return Source(repository.name, self._urls(repository), self._keyring(repository))

    def _keyring(self, repository: Repository) -> Keyring:
        keys = self._cache / "keys"
        return open_keyring(repository.name, repository.keys, keys, self._tools.run)

    def _urls(self, repository: Repository) -> tuple[str, ...]:
        """The URLs with the recipe's words in them; InputError for one that cannot be asked."""
        return tuple(expand_url(url, self._system, repository.name) for url in repository.urls)


def expand_url(url: str, system: PackageSystem, repository: str) -> str:
    """The URL with {snapshot}, $releasever and $basearch put in, without a slash at its end."""
    if "{snapshot}" in url and not system.snapshot:
        raise InputError(
            "use the repository",
            repository,
            why="its URL has {snapshot}, and the recipe names no snapshot",
            next_step='Set "snapshot" in the recipe',
        )
    found = system.filled(url)
    if not found.startswith(("http://", "https://", "file:///")):
        raise InputError(
            "use the repository",
            repository,
            why=f"its URL {url} is neither http, https nor file",
            next_step="Name the directory that has repodata/ by its URL; lists of mirrors"
            " (mirrorlist, metalink) are not asked",
        )
    return found.rstrip("/")


def _with_scheme(proxy: str) -> str:
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _read(current: Path) -> RepositoryState | None:
    """The state that was kept, None where there is none or it is not whole."""
    try:
        record = json.loads(current.read_text())
        directory = current.parent / record["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (
        RepositoryState(record["digest"], record["date"], directory) if directory.is_dir() else None
    )


def _forget_old(place: Path, current: Path) -> None:
    """Delete all states but this one and the one before it."""
    others = [path for path in place.iterdir() if path.is_dir() and path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
