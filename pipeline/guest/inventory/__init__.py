"""What a root filesystem is made of: every file with its size, every package with what it owns.

Read from the finished image, without root, without a mount and without running guest code. The
result is kept as inventory.json.gz beside the manifest; the report draws it and `diff` compares it.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import InputError
from pipeline.disk.filesystems.entry import Entry

FILE = "inventory.json.gz"
SCHEMA = 2
"""Of the file; 1 had only name, version and architecture of a package and nothing of the system."""
_MAX_FILE = 256 << 20  # bytes of JSON; a root of 500,000 files takes 60 MB


class Package(NamedTuple):
    """An installed package; version with epoch and release as its manager shows it.

    source and source_version: what it was built from, as dpkg and rpm write it. vendor: dpkg's
    Maintainer, rpm's Vendor or else Packager. licence: rpm's License; dpkg's database has none.
    depends: indexes of the packages that meet what it needs. "" and () where nothing is known.
    """

    name: str
    version: str
    architecture: str
    source: str = ""
    source_version: str = ""
    vendor: str = ""
    licence: str = ""
    depends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """One root filesystem.

    manager: "dpkg", "rpm" or "" when the packages are unknown; `unknown` then says why. used: bytes
    in use by the file system's own count, its metadata included; size: all of it. system: what
    the guest's os-release says of it, by name. schema: of the file it was read from.
    """

    entries: tuple[Entry, ...]
    packages: tuple[Package, ...]
    manager: str
    unknown: str
    used: int
    size: int
    system: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def by_path(self) -> dict[str, Entry]:
        """The entries by path."""
        return {entry.path: entry for entry in self.entries}

    def package_bytes(self) -> dict[int, int]:
        """Allocated bytes by owner's index; -1 collects what no package owns."""
        sums: dict[int, int] = defaultdict(int)
        for entry in self.entries:
            sums[entry.owner] += entry.allocated
        return dict(sums)


def take(image: Path, filesystem: str) -> Inventory:
    """Look through a finished partition image, filesystem as blkid names it.

    DiskError when it is damaged or of a kind that is not read here.
    """
    from pipeline.disk.filesystems.open import open_tree
    from pipeline.guest.inventory import packages, system

    with open_tree(image, filesystem) as tree:
        found = packages.find(tree)
        entries = tuple(
            entry._replace(owner=found.owners.get(entry.path, -1)) for entry in tree.entries
        )
        return Inventory(
            entries,
            found.packages,
            found.manager,
            found.unknown,
            tree.used,
            tree.size,
            system.read(tree),
        )


def dump(inventory: Inventory) -> bytes:
    """The file that keeps it: gzip'd JSON, the same bytes for the same inventory."""
    document = {
        "schema": inventory.schema,
        "manager": inventory.manager,
        "unknown": inventory.unknown,
        "used": inventory.used,
        "size": inventory.size,
        "system": dict(inventory.system),
        "packages": inventory.packages,
        "entries": inventory.entries,
    }
    text = json.dumps(document, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def read(path: Path) -> Inventory | None:
    """What `dump` gave; None when there is no such file. InputError when it is not ours."""
    try:
        with gzip.open(path) as file:
            document: Mapping[str, Any] = json.loads(file.read(_MAX_FILE))
        return Inventory(
            entries=tuple(Entry(*fields) for fields in document["entries"]),
            packages=tuple(_package(fields) for fields in document["packages"]),
            manager=document["manager"],
            unknown=document["unknown"],
            used=document["used"],
            size=document["size"],
            system=document.get("system", {}),
            schema=document["schema"],
        )
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "read the inventory", path, why=str(error), next_step="Delete it and build again"
        ) from error


def _package(fields: list[Any]) -> Package:
    package = Package(*fields)
    return package._replace(depends=tuple(package.depends))
