"""Installed packages and what they own, read from the package manager's own files.

Sources: deb-status fields of dpkg(1) and deb-control(5); info/PACKAGE.list, one path a line. For
rpm see rpmdb.py. Nothing of the guest is executed, and no manager of the host is asked: its own
version may refuse an older or newer database.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import DiskError
from pipeline.disk.filesystems.walk import Tree
from pipeline.guest.inventory import Package, rpmdb
from pipeline.guest.inventory.dependencies import Capability, Providers, words

_STATUS = "/var/lib/dpkg/status"
_MAX_STATUS = 64 << 20  # bytes; 3,000 packages take 4 MB
_MAX_LIST = 64 << 20  # bytes; the kernel sources' list takes 5 MB


@dataclass(frozen=True)
class Found:
    """packages, and the index of the owner of each owned path as the tree knows it."""

    packages: tuple[Package, ...] = ()
    owners: dict[str, int] = field(default_factory=dict)
    manager: str = ""
    unknown: str = ""


def find(tree: Tree) -> Found:
    """What the guest's package manager recorded; `unknown` says why there is nothing."""
    status = tree.read(_STATUS, _MAX_STATUS)
    if status is not None:
        return _dpkg(tree, status.decode(errors="backslashreplace"))
    try:
        with tempfile.TemporaryDirectory(prefix="rpmdb-") as scratch:
            installed = rpmdb.read(tree, Path(scratch))
    except DiskError as error:
        return Found(manager="rpm", unknown=str(error))
    if installed is None:
        return Found(unknown="neither a dpkg nor an rpm database was found")
    owners = _owners(tree, (p.files for p in installed))
    return Found(_rpm(tree, installed, owners), owners, "rpm")


def dpkg_status(text: str) -> Iterator[Package]:
    """The installed packages of a dpkg status file, in its order, without what they depend on."""
    return (_dpkg_package(fields) for fields in _stanzas(text))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t")):
                fields.setdefault(name.lower(), value.strip())
        if fields.get("status", "").endswith(" installed") and fields.get("package"):
            yield fields


def _dpkg_package(fields: Mapping[str, str]) -> Package:
    name, version = fields["package"], fields.get("version", "")
    # "Source: NAME" or "Source: NAME (VERSION)"; without it both are the package's own.
    source, _, rest = fields.get("source", name).partition(" ")
    return Package(
        name,
        version,
        fields.get("architecture", ""),
        source,
        rest.strip("() ") or version,
        fields.get("maintainer", ""),
    )


def _dpkg(tree: Tree, status: str) -> Found:
    known = sorted(((_dpkg_package(f), f) for f in _stanzas(status)), key=lambda pair: pair[0])
    packages = [package for package, _ in known]
    provided = (
        [word for clause in words(fields.get("provides", "")) for word in clause]
        for _, fields in known
    )
    providers = Providers(packages, provided)
    linked = []
    for package, fields in known:
        needs = (
            providers.first(clause, package.architecture)
            for name in ("pre-depends", "depends")
            for clause in words(fields.get(name, ""))
        )
        linked.append(package._replace(depends=_met(needs)))
    owners = _owners(tree, (_dpkg_files(tree, p) for p in packages))
    return Found(tuple(linked), owners, "dpkg")


def _rpm(
    tree: Tree, installed: Sequence[rpmdb.RpmPackage], owners: Mapping[str, int]
) -> tuple[Package, ...]:
    plain = [
        Package(p.name, p.version, p.architecture, p.source, p.source_version, p.vendor, p.licence)
        for p in installed
    ]
    providers = Providers(plain, (p.provides for p in installed))

    def met(need: Capability, architecture: str) -> int | None:
        index = providers.find(need, architecture)
        if index is None and need[0].startswith("/"):
            index = owners.get(need[0], owners.get(tree.real(need[0])))
        return index

    return tuple(
        package._replace(depends=_met(met(need, package.architecture) for need in each.requires))
        for package, each in zip(plain, installed, strict=True)
    )


def _met(found: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(sorted({index for index in found if index is not None}))


def _dpkg_files(tree: Tree, package: Package) -> list[str]:
    # Packages that may be installed for several architectures have it in the list's name.
    for name in (package.name, f"{package.name}:{package.architecture}"):
        if "/" in name:
            continue
        content = tree.read(f"/var/lib/dpkg/info/{name}.list", _MAX_LIST)
        if content is not None:
            return content.decode("utf-8", "backslashreplace").splitlines()
    return []


def _owners(tree: Tree, lists: Iterable[Iterable[str]]) -> dict[str, int]:
    known = {entry.path: entry.kind for entry in tree.entries}
    owners: dict[str, int] = {}
    for index, paths in enumerate(lists):
        for path in paths:
            real = path if path in known else tree.real(path)
            # Directories are shared by packages and belong to none.
            if known.get(real, "d") != "d":
                owners.setdefault(real, index)
    return owners
