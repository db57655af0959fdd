"""The local catalogue: a directory in the layout of simplestreams.

Ids are derived from content, so they are the same in every catalogue.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.catalogue import simplestreams as streams
from pipeline.catalogue.store import NewFile, Store
from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.whole_disk import require_disk
from pipeline.core.architecture import words
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import Progress
from pipeline.core.identity import content_key, next_generation
from pipeline.core.image import Artifact, Image, Registration, Role
from pipeline.core.settings import catalogue_dir
from pipeline.core.text import human_bytes
from pipeline.disk.blocks.identify import disk_format
from pipeline.host.locks import exclusive

_ITEMS = {Role.KERNEL: "vmlinuz", Role.RAMDISK: "initrd", Role.MACHINE: "root.img"}
_PREFIXES = {Role.KERNEL: "aki", Role.RAMDISK: "ari", Role.MACHINE: "ami"}


def open_local(argument: str) -> LocalCloud:
    """The catalogue in that directory; without one, settings.catalogue_dir()."""
    name = f"local:{argument}" if argument else "local"
    directory = Path(argument).expanduser() if argument else catalogue_dir()
    return LocalCloud(name, directory.absolute())


@dataclass(frozen=True)
class _Entry:
    """A generation found in the catalogue."""

    product: str
    generation: str
    version: streams.Version


@dataclass(frozen=True)
class LocalCloud:
    """protocol.Cloud over a directory; made by `open_local`."""

    name: str
    directory: Path

    @property
    def store(self) -> Store:
        """Its files and documents."""
        return Store(self.name, self.directory)

    @property
    def files(self) -> Path:
        """Where the images' bytes lie."""
        return self.store.files

    def check(self) -> str:
        """See protocol.Cloud: whether the directory can be written, and its documents read."""
        self._require_writable()
        self.store.read()
        self.store.read_index()
        return str(self.directory)

    def probe(self, images: Image, options: PublishOptions) -> None:
        """See protocol.Cloud."""
        unknown = [
            word
            for word, given in {
                f"visibility {options.visibility}": options.visibility in ("shared", "community"),
                "members": options.members,
                "hidden": options.hidden,
                "regions": options.regions,
                "stores": options.store,
                "tags with a comma": any("," in tag for tag in options.tags),
            }.items()
            if given
        ]
        if unknown:
            raise InputError(
                f"register {images.name} on",
                self.name,
                why=f"a directory of files does not know {' or '.join(unknown)}",
                next_step="Leave that out for the local catalogue",
            )
        if options.whole_disk:
            require_disk(images, self.name)
        self._require_writable()
        self.store.read()
        self.store.read_index()

    def _require_writable(self) -> None:
        place = self.directory
        while not place.exists():
            place = place.parent
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            error = OSError(errno.EACCES, "not a writable directory", str(place))
            raise self.store.error("write to", error)

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        """See protocol.Cloud."""
        key = content_key(images, whole_disk=options.whole_disk)
        entry = self._find(self.store.read(), key)
        if entry is not None:
            changes = _told(entry.version, _merged(entry.version, images, options))
            if not changes:
                return [f"keep generation {entry.generation} as it is"]
            return [f"update generation {entry.generation}: {', '.join(changes)}"]
        steps = [
            f"copy {file.path}, {human_bytes(file.size)}, to {streams.FILES_PATH}/{file.sha256}"
            for file in _files(images, options, key)
            if not self.store.has(file)
        ]
        kind = _kind(options)
        product = streams.product_name(kind, images.name, words(images.architecture).stream)
        return [
            *steps,
            f"add a generation of {product} to {streams.PRODUCTS_PATH}",
            f"bring {streams.INDEX_PATH} up to date",
        ]

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        """See protocol.Cloud."""
        key = content_key(images, whole_disk=options.whole_disk)
        try:
            with self.store.locked(progress):
                listed = self.store.is_listed
                catalogue = self.store.read()
                self.store.read_index()  # what stands in its way is told before bytes are copied
                entry = self._find(catalogue, key)
                if entry is None:
                    files = _files(images, options, key)
                    for file in files:
                        self.store.add(file, images.name, progress)
                    version = _new_version(images, options, key, files)
                    generation = next_generation(_generations(catalogue, images.name))
                else:
                    self._heal(entry, images, options, progress)
                    version = _merged(entry.version, images, options)
                    generation = entry.generation
                    for change in _told(entry.version, version):
                        progress.say(f"{self.name}: {_machine(version).id} {change}")
                if entry is None or version != entry.version:
                    product = streams.Product(
                        arch=words(images.architecture).stream,
                        name=images.name,
                        kind=_kind(options),
                        versions={generation: version},
                    )
                    catalogue = streams.with_product(catalogue, product, streams.timestamp())
                # Written in any case: an upload may have been killed before the index.
                self.store.write(catalogue)
                self.store.collect_garbage(catalogue, partial_only=not listed)
                return self._registration(images.name, generation, version, created=entry is None)
        except OSError as error:
            raise self.store.error(f"store {images.name} in", error) from error

    def generations(self, name: str) -> list[Registration]:
        """See protocol.Cloud."""
        entries = [e for n, e in _entries(self.store.read()) if n == name]
        entries.sort(key=lambda entry: entry.generation, reverse=True)
        return [self._registration(name, e.generation, e.version, created=False) for e in entries]

    def withdraw(self, registration: Registration) -> None:
        """See protocol.Cloud."""
        try:
            with exclusive(self.directory / ".lock", f"the catalogue {self.directory}", 60):
                listed = self.store.is_listed
                catalogue = self.store.read()
                for _, entry in _entries(catalogue):
                    if _machine(entry.version).id != registration.machine_id:
                        continue
                    if entry.version.protected == "true":
                        raise CloudError(
                            f"withdraw {registration.machine_id} from",
                            self.name,
                            why="it is protected",
                            next_step="Upload it again with --unprotected first",
                        )
                    catalogue = streams.without_version(
                        catalogue, entry.product, entry.generation, streams.timestamp()
                    )
                self.store.write(catalogue, removing=True)
                self.store.collect_garbage(catalogue, partial_only=not listed)
        except OSError as error:
            raise self.store.error(f"withdraw {registration.machine_id} from", error) from error

    def _heal(
        self, entry: _Entry, images: Image, options: PublishOptions, progress: Progress
    ) -> None:
        """Store again what is lost; CloudError if this build has it no more."""
        lost = self.store.lost(entry.version.items.values(), progress)
        if not lost:
            return
        for file in _files(images, options, entry.version.key):
            if file.sha256 in lost:
                self.store.add(file, images.name, progress)
                lost.remove(file.sha256)
        if lost:
            raise CloudError(
                f"restore generation {entry.generation} of {images.name} in",
                self.name,
                why=f"{streams.FILES_PATH}/{lost.pop()} is missing or damaged, and this build made"
                " another one",
                next_step=f"Withdraw {_machine(entry.version).id}, then upload again",
            )

    def _find(self, catalogue: streams.Products, key: str) -> _Entry | None:
        return next((e for _, e in _entries(catalogue) if e.version.key == key), None)

    def _registration(
        self, name: str, generation: str, version: streams.Version, *, created: bool
    ) -> Registration:
        machine = _machine(version)
        return Registration(
            cloud=self.name,
            name=name,
            kernel_id=machine.kernel_id or "",
            ramdisk_id=machine.ramdisk_id or "",
            machine_id=machine.id,
            created=created,
            generation=generation,
            key=version.key,
            location=str(self.directory / machine.path),
        )


def image_id(role: Role, digest: str) -> str:
    """An id of EC2's long form, "ami-" and 17 hexadecimal digits, made of `digest` alone."""
    return f"{_PREFIXES[role]}-{hashlib.sha256(f'{role}:{digest}'.encode()).hexdigest()[:17]}"


def _kind(options: PublishOptions) -> Literal["triple", "disk"]:
    return "disk" if options.whole_disk else "triple"


def _files(images: Image, options: PublishOptions, key: str) -> list[NewFile]:
    if options.whole_disk:
        disk = require_disk(images, "local")
        ftype = streams.FTYPES[disk_format(disk.path)]
        known = image_id(Role.MACHINE, key)
        return [NewFile("disk", ftype, disk.path, disk.size, disk.sha256, known)]
    return [_triple_file(file, key) for file in images.triple]


def _triple_file(file: Artifact, key: str) -> NewFile:
    # A machine image's id stands for the triple: the same root with another kernel is another.
    identity = key if file.role is Role.MACHINE else file.sha256
    return NewFile(
        _ITEMS[file.role],
        streams.FTYPES[file.role],
        file.path,
        file.size,
        file.sha256,
        image_id(file.role, identity),
    )


def _new_version(
    images: Image, options: PublishOptions, key: str, files: Iterable[NewFile]
) -> streams.Version:
    ids = {file.item: file.id for file in files}
    items = {
        file.item: streams.Item(
            ftype=file.ftype,
            path=f"{streams.FILES_PATH}/{file.sha256}",
            size=file.size,
            sha256=file.sha256,
            id=file.id,
            kernel_id=ids["vmlinuz"] if file.item == "root.img" else None,
            ramdisk_id=ids["initrd"] if file.item == "root.img" else None,
        )
        for file in files
    }
    new = streams.Version(key=key, pubname=images.name, items=items)
    return _merged(new, images, options)


def _merged(version: streams.Version, images: Image, options: PublishOptions) -> streams.Version:
    """The version as the build and the options say; what they do not speak of stays."""
    tags = dict.fromkeys([*filter(None, version.tags.split(",")), *options.tags])
    changes: dict[str, Any] = {
        "command_line": images.command_line,
        "kernel_version": images.kernel_version,
        "verified": _word(images.verified(whole_disk=options.whole_disk)),
        "tags": ",".join(tags),
        "properties": {**version.properties, **images.properties, **options.properties},
    }
    if options.protected is not None:
        changes["protected"] = _word(options.protected)
    if options.visibility is not None:
        changes["visibility"] = options.visibility
    if options.min_disk_gib is not None:
        changes["min_disk_gib"] = str(options.min_disk_gib)
    if options.min_ram_mib is not None:
        changes["min_ram_mib"] = str(options.min_ram_mib)
    return version.model_copy(update=changes)


def _word(value: bool) -> Literal["true", "false"]:
    return "true" if value else "false"


def _told(old: streams.Version, new: streams.Version) -> list[str]:
    """What differs, a word and both values each: "protected: true -> false"."""
    before, after = old.model_dump(), new.model_dump()
    told = [
        f"{name}: {before[name] or 'none'} -> {after[name] or 'none'}"
        for name in streams.Attributes.model_fields
        if name != "properties" and before[name] != after[name]
    ]
    return told + [
        f"{name}: {old.properties.get(name, 'unset')} -> {value}"
        for name, value in new.properties.items()
        if old.properties.get(name) != value
    ]


def _machine(version: streams.Version) -> streams.Item:
    """The item that stands for the generation: the root image or the whole disk."""
    return version.items.get("root.img") or version.items["disk"]


def _entries(catalogue: streams.Products) -> Iterator[tuple[str, _Entry]]:
    """(recipe's name, generation) of everything in the catalogue."""
    for key, product in catalogue.products.items():
        for generation, version in product.versions.items():
            yield product.name, _Entry(key, generation, version)


def _generations(catalogue: streams.Products, name: str) -> list[str]:
    return [entry.generation for owner, entry in _entries(catalogue) if owner == name]
