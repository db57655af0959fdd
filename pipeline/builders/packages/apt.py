"""The apt backend: systems made of Debian packages by the host's apt and the guest's dpkg.

The parts: apt_config (a private apt), apt_state (signed repositories), apt_resolve (which packages
a layer adds), apt_fetch (their files), apt_install with apt_script and apt_order (into a root).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.builders.packages import apt_fetch, apt_install, apt_resolve, apt_state
from pipeline.builders.packages.apt_config import REQUIRES, private_apt
from pipeline.builders.packages.apt_keys import keyring
from pipeline.builders.packages.apt_state import Kept
from pipeline.builders.packages.protocol import Backend, Package, RepositoryState, Wanted
from pipeline.core.errors import InputError
from pipeline.core.packages import PackageSystem
from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, Root
from pipeline.host.requirements import require


def open_backend(system: PackageSystem, tools: Tools, cache: Path) -> Backend:
    """The backend for one system. cache: a directory that all builds share, safe to delete."""
    return AptBackend(system, tools, cache)


class AptBackend:
    """See protocol.Backend."""

    def __init__(self, system: PackageSystem, tools: Tools, cache: Path) -> None:
        self._system, self._tools, self._cache = system, tools, cache.absolute()
        self._records = apt_resolve.Records(self._cache / "apt" / "records.sqlite")

    def check(self) -> None:
        """See Backend."""
        for program in REQUIRES.programs:
            require(program)
        for repository in self._system.repositories:
            if not repository.suites:
                raise _unfit(repository.name, "it names no suite", 'Add suites = ["RELEASE"]')
            flat = all(suite.endswith("/") for suite in repository.suites)
            if not flat and not repository.components:
                raise _unfit(repository.name, "it names no component", 'Add components = ["main"]')
            for url in repository.urls:
                if "{snapshot}" in url and not self._system.snapshot:
                    raise _unfit(
                        repository.name, f"{url} asks for a snapshot", "Set snapshot in the recipe"
                    )
                if any(c in url for c in " \t\n\"'"):
                    raise _unfit(repository.name, f"{url!r} is no URL", "Correct the URL")
            keyring(repository.keys)

    def state(self, *, refresh: bool) -> RepositoryState:
        """See Backend."""
        directory = apt_state.home(self._system, self._cache)
        found = None if refresh else apt_state.kept(directory)
        if found is None:
            self.check()
            found = apt_state.refresh(self._system, self._tools, directory)
        return found.state

    def resolve(
        self, state: RepositoryState, wanted: Wanted, parents: Sequence[Package]
    ) -> tuple[Package, ...]:
        """See Backend. The core is mmdebstrap's "minbase", see apt_resolve."""
        apt = private_apt(self._system, self._tools, state.directory)
        return apt_resolve.resolve(apt, _read(state), wanted, parents, self._records)

    def fetch(self, state: RepositoryState, packages: Sequence[Package]) -> Sequence[Path]:
        """See Backend."""
        apt = private_apt(self._system, self._tools, state.directory)
        return apt_fetch.fetch(apt, packages, self._cache, _read(state).urls)

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
        """See Backend."""
        records = apt_resolve.file_records(packages, files, self._records, self._tools)
        apt_install.install(
            self._system,
            root,
            wanted,
            packages,
            files,
            records=records,
            isolation=isolation,
            tools=tools,
            log=log,
        )


def _read(state: RepositoryState) -> Kept:
    try:
        return apt_state.read(state)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "read the repositories' state in",
            state.directory,
            why=f"it is not whole ({error})",
            next_step="Refresh it",
        ) from error


def _unfit(name: str, why: str, next_step: str) -> InputError:
    return InputError("use the repository", name, why=why, next_step=next_step)
