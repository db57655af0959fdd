"""What differs between two builds: manifest fields, packages, files. Pure, on their records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.builds.manifest import Manifest, read_manifest
from pipeline.disk.filesystems.entry import Entry
from pipeline.guest import inventory
from pipeline.guest.inventory import Inventory

# Differ between any two builds, or are shown as packages and files.
_NOT_COMPARED = ("created", "steps")
_OF_EACH_RUN = ("].detail", "].seconds_to_ssh", "].boot_seconds")
_NAMES = ("name", "path", "role", "target")  # what tells the members of a list apart


@dataclass(frozen=True)
class Build:
    """A finished build as it was written down; inventory None when it has none."""

    manifest: Manifest
    inventory: Inventory | None


@dataclass(frozen=True)
class Change:
    """One manifest field, package or file; None where a side has no such thing.

    bytes: by how much the image grew through it (negative: shrank). what: for files, which of
    kind, content, mode and owner differ.
    """

    name: str
    old: str | None
    new: str | None
    bytes: int = 0
    what: str = ""


@dataclass(frozen=True)
class Comparison:
    """packages and files are None when one of the builds has no inventory of them."""

    old: str
    new: str
    fields: tuple[Change, ...]
    packages: tuple[Change, ...] | None
    files: tuple[Change, ...] | None

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.fields or self.packages or self.files)


def read_build(directory: Path) -> Build:
    """The records in a build's directory, or in one that `history` kept."""
    return Build(read_manifest(directory), inventory.read(directory / inventory.FILE))


def compare(old: Build, new: Build) -> Comparison:
    """From `old` to `new`; packages and files with the largest change of size first."""
    packages = files = None
    if old.inventory is not None and new.inventory is not None:
        files = _files(old.inventory, new.inventory)
        if not (old.inventory.unknown or new.inventory.unknown):
            packages = _packages(old.inventory, new.inventory)
    return Comparison(
        old=old.manifest.created,
        new=new.manifest.created,
        fields=tuple(_fields(_flat(old.manifest), _flat(new.manifest))),
        packages=packages,
        files=files,
    )


def _flat(manifest: Manifest) -> dict[str, str]:
    return dict(_leaves("", manifest.model_dump(mode="json")))


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    # What an assertion saw has times in it; whether it passed is compared.
    if prefix in _NOT_COMPARED or prefix.endswith(_OF_EACH_RUN):
        return
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            # A changed assertion, file or edit is found by its name, wherever it stands.
            yield from _leaves(f"{prefix}[{_name(each) or index}]", each)
    elif value is not None:
        yield prefix, str(value)


def _name(each: Any) -> str | None:
    if not isinstance(each, Mapping):
        return None
    return next((str(each[key]) for key in _NAMES if each.get(key)), None)


def _fields(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name), new.get(name))


def _packages(old: Inventory, new: Inventory) -> tuple[Change, ...]:
    before, after = _versions(old), _versions(new)
    changes = []
    for name in before.keys() | after.keys():
        was, had = before.get(name, ([], 0))
        now, has = after.get(name, ([], 0))
        if was != now:
            changes.append(
                Change(name, ", ".join(was) or None, ", ".join(now) or None, bytes=has - had)
            )
    return _by_size(changes)


def _versions(listing: Inventory) -> dict[str, tuple[list[str], int]]:
    """Versions and bytes by name; kernels and libraries may be installed in several."""
    sums = listing.package_bytes()
    found: dict[str, tuple[list[str], int]] = {}
    for index, package in enumerate(listing.packages):
        versions, total = found.get(package.name, ([], 0))
        found[package.name] = ([*versions, package.version], total + sums.get(index, 0))
    return found


def _files(old: Inventory, new: Inventory) -> tuple[Change, ...]:
    before, after = old.by_path(), new.by_path()
    changes = []
    for path in before.keys() | after.keys():
        was, now = before.get(path), after.get(path)
        what = ", ".join(_differences(was, now)) if was and now else ""
        if was is None or now is None or what:
            changes.append(
                Change(
                    path,
                    str(was.size) if was else None,
                    str(now.size) if now else None,
                    bytes=(now.allocated if now else 0) - (was.allocated if was else 0),
                    what=what,
                )
            )
    return _by_size(changes)


def _differences(old: Entry, new: Entry) -> Iterator[str]:
    if old.kind != new.kind:
        yield "kind"
    elif (old.size, old.check) != (new.size, new.check):
        yield "content"
    if old.mode != new.mode:
        yield "mode"
    if (old.uid, old.gid) != (new.uid, new.gid):
        yield "owner"


def _by_size(changes: list[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: (-abs(change.bytes), change.name)))
