"""What a package manager does for a layered root: one protocol for apt and dnf.

Only `install` runs code of packages, and only in isolation (host/isolation.py): without network,
without the host's files and processes. `refresh`, `resolve` and `fetch` run the host's own tools on
signed data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, Root

LayerKind = Literal["core", "base", "image"]
LAYERS: tuple[LayerKind, ...] = ("core", "base", "image")


@dataclass(frozen=True)
class RepositoryState:
    """The repositories as they were when they were last asked.

    digest: sha256 over the signed Release or repomd files, lower-case hex. date: the newest date
    they carry (ISO 8601, UTC). directory: where their indexes are kept.
    """

    digest: str
    date: str
    directory: Path


@dataclass(frozen=True)
class Package:
    """One package file. sha256: lower-case hex, as the signed index gives it. size: bytes.

    version: with epoch and release, as the package manager prints it. architecture: in the package
    manager's words. source: name of the source package and its version. url: relative to its
    repository. repository: `Repository.name`.
    """

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    url: str
    repository: str
    source: str = ""


@dataclass(frozen=True)
class Wanted:
    """What a layer adds to its parents, in the recipe's words."""

    kind: LayerKind
    packages: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class Backend(Protocol):
    """apt or dnf, for one `PackageSystem`."""

    def check(self) -> None:
        """InputError for a system that cannot work (no suite, no key); HostError for a host that
        lacks a tool. Asks no network."""

    def state(self, *, refresh: bool) -> RepositoryState:
        """The repositories' state: the one kept of an earlier run, or, where there is none or
        `refresh` is given, the mirrors' own, after its signatures were checked.

        InputError for a missing, wrong or expired signature, HostError where no mirror answers.
        """

    def signers(self) -> Mapping[str, tuple[str, ...]]:
        """Fingerprints of the keys that count today, by the repository whose packages they sign.

        They are part of what a layer is known by: one that was made under other keys was never
        checked by these. Empty where signed indexes vouch for the packages: `state` checks those.
        """

    def resolve(
        self, state: RepositoryState, wanted: Wanted, parents: Sequence[Package]
    ) -> tuple[Package, ...]:
        """The packages that the layer adds (or puts in place of a parent's), sorted by name.

        The same state, words and parents give the same answer. Runs no code of packages and needs
        no root of the parents. InputError names what cannot be had, and why.
        """

    def fetch(self, state: RepositoryState, packages: Sequence[Package]) -> Sequence[Path]:
        """The package files, in the order given, from the host's cache or a mirror; each has the
        sha256 of its record. Where fetching breaks off, what is whole stays in the cache."""

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
        """Install into `root`, whose parents' content is there, in isolation.

        Leaves no trace of the host, the mirror, the cache or the time; no service is started.
        InstallError with the package manager's own last words; `log` has all of them.
        """
