"""The local catalogue: a directory in the layout of simplestreams.

Files lie under the name of their content and are whole before the products file names them; the
index comes last. One lock lets one upload in at a time. Ids are derived from content, so they are
the same in every catalogue.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.catalogue import simplestreams as streams
from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.whole_disk import require_disk
from pipeline.core.errors import BusyError, CloudError, InputError
from pipeline.core.events import Meter, Progress
from pipeline.core.identity import content_key, next_generation
from pipeline.core.image import Artifact, Image, Registration, Role
from pipeline.core.settings import catalogue_dir
from pipeline.core.text import human_bytes
from pipeline.disk.blocks.identify import disk_format
from pipeline.host.files import finish, naming, write_whole
from pipeline.host.locks import exclusive
from pipeline.host.sparse import CHUNK, data_runs, digests, pieces

_FICLONE = 0x40049409  # ioctl_ficlone(2), _IOW(0x94, 9, int)
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY})
_COPY_PIECE = 64 << 20  # bytes between two looks at the user's interrupt
# Copying the largest images takes minutes; somebody who holds the lock for an hour hangs.
_LOCK_SECONDS = 3600.0
_DIGEST_NAME = re.compile(r"[0-9a-f]{64}(\.partial)?")
_Document = TypeVar("_Document", bound=BaseModel)
_ITEMS = {Role.KERNEL: "vmlinuz", Role.RAMDISK: "initrd", Role.MACHINE: "root.img"}
_PREFIXES = {Role.KERNEL: "aki", Role.RAMDISK: "ari", Role.MACHINE: "ami"}


def open_local(argument: str) -> LocalCloud:
    """The catalogue in that directory; without one, settings.catalogue_dir()."""
    name = f"local:{argument}" if argument else "local"
    directory = Path(argument).expanduser() if argument else catalogue_dir()
    return LocalCloud(name, directory.absolute())


@dataclass(frozen=True)
class _File:
    """A file to be catalogued as item `item`."""

    item: str
    ftype: str
    path: Path
    size: int
    sha256: str
    id: str


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
    def files(self) -> Path:
        """Where the images' bytes lie."""
        return self.directory / streams.FILES_PATH

    def probe(self, images: Image, options: PublishOptions) -> None:
        """See protocol.Cloud."""
        unknown = [
            word
            for word, given in {
                f"visibility {options.visibility}": options.visibility in ("shared", "community"),
                "members": options.members,
                "hidden": options.hidden,
                "regions": options.regions,
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
        place = self.directory
        while not place.exists():
            place = place.parent
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise self._error("write to", OSError(errno.EACCES, "not a writable directory", place))
        self._read()

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        """See protocol.Cloud."""
        key = content_key(images, whole_disk=options.whole_disk)
        entry = self._find(self._read(), key)
        if entry is not None:
            if _merged(entry.version, images, options) == entry.version:
                return [f"keep generation {entry.generation} as it is"]
            return [f"update the attributes of generation {entry.generation}"]
        steps = [
            f"copy {file.path}, {human_bytes(file.size)}, to {streams.FILES_PATH}/{file.sha256}"
            for file in _files(images, options, key)
            if not self._whole(file)
        ]
        kind = _kind(options)
        product = streams.product_name(kind, images.name, images.architecture)
        return [
            *steps,
            f"add a generation of {product} to {streams.PRODUCTS_PATH}",
            f"bring {streams.INDEX_PATH} up to date",
        ]

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        """See protocol.Cloud."""
        key = content_key(images, whole_disk=options.whole_disk)
        try:
            with self._locked(progress):
                listed = (self.directory / streams.PRODUCTS_PATH).exists()
                catalogue = self._read()
                entry = self._find(catalogue, key)
                if entry is None:
                    files = _files(images, options, key)
                    for file in files:
                        self._store(file, images, progress)
                    version = _new_version(images, options, key, files)
                    generation = next_generation(_generations(catalogue, images.name))
                else:
                    self._heal(entry, images, options, progress)
                    version = _merged(entry.version, images, options)
                    generation = entry.generation
                if entry is None or version != entry.version:
                    product = streams.Product(
                        arch=images.architecture,
                        name=images.name,
                        kind=_kind(options),
                        versions={generation: version},
                    )
                    catalogue = streams.with_product(catalogue, product, streams.timestamp())
                # Written in any case: an upload may have been killed before the index.
                self._write(catalogue)
                self._collect_garbage(catalogue, partial_only=not listed)
                return self._registration(images.name, generation, version, created=entry is None)
        except OSError as error:
            raise self._error(f"store {images.name} in", error) from error

    def generations(self, name: str) -> list[Registration]:
        """See protocol.Cloud."""
        entries = [e for n, e in _entries(self._read()) if n == name]
        entries.sort(key=lambda entry: entry.generation, reverse=True)
        return [self._registration(name, e.generation, e.version, created=False) for e in entries]

    def withdraw(self, registration: Registration) -> None:
        """See protocol.Cloud."""
        try:
            with exclusive(self.directory / ".lock", f"the catalogue {self.directory}", 60):
                listed = (self.directory / streams.PRODUCTS_PATH).exists()
                catalogue = self._read()
                for _, entry in _entries(catalogue):
                    if _machine(entry.version).id != registration.machine_id:
                        continue
                    if entry.version.protected == "true":
                        raise CloudError(
                            f"withdraw {registration.machine_id} from",
                            self.name,
                            why="it is protected",
                            next_step="Upload it again without --protected first",
                        )
                    catalogue = streams.without_version(
                        catalogue, entry.product, entry.generation, streams.timestamp()
                    )
                self._write(catalogue, removing=True)
                self._collect_garbage(catalogue, partial_only=not listed)
        except OSError as error:
            raise self._error(f"withdraw {registration.machine_id} from", error) from error

    # -- the files of the catalogue

    @contextlib.contextmanager
    def _locked(self, progress: Progress) -> Iterator[None]:
        deadline = time.monotonic() + _LOCK_SECONDS
        with contextlib.ExitStack() as stack:
            while True:
                lock = exclusive(self.directory / ".lock", f"the catalogue {self.directory}", 5)
                try:
                    stack.enter_context(lock)
                    break
                except BusyError as error:
                    if time.monotonic() > deadline:
                        raise
                    progress.say(f"{self.name}: waiting, {error.why}")
            yield

    def _read(self) -> streams.Products:
        found = self._load(streams.PRODUCTS_PATH, streams.Products)
        return found or streams.empty(streams.timestamp())

    def _load(self, name: str, model: type[_Document]) -> _Document | None:
        path = self.directory / name
        try:
            return model.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error("read", error) from error
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise CloudError(
                "read the local catalogue's",
                path,
                why=f"{place}: {fault['msg']}" if place else fault["msg"],
                next_step="It is damaged, or not one of this pipeline's: move it away",
            ) from error

    def _write(self, catalogue: streams.Products, *, removing: bool = False) -> None:
        """Products file and index, so ordered that no product is ever listed and absent.

        A file that says it already is left alone.
        """
        products, index = (
            self.directory / streams.PRODUCTS_PATH,
            self.directory / streams.INDEX_PATH,
        )
        if not catalogue.products and not products.exists():
            return
        index.parent.mkdir(parents=True, exist_ok=True)
        old = self._load(streams.INDEX_PATH, streams.Index)
        files = [
            (products, streams.dump(catalogue)),
            (index, streams.dump(streams.index_of(catalogue, old))),
        ]
        for path, text in reversed(files) if removing else files:
            if not path.exists() or path.read_text() != text:
                write_whole(path, text)

    def _store(self, file: _File, images: Image, progress: Progress) -> None:
        if self._whole(file):
            return
        final = self.files / file.sha256
        partial = final.with_name(f"{file.sha256}.partial")
        self.files.mkdir(parents=True, exist_ok=True)
        label = f"{self.name}: {file.item} of {images.name}"
        try:
            with progress.task(label, total=2 * file.size) as meter, naming(partial):
                copy_sparse(file.path, partial, meter)
                found = digests(partial, ["sha256"], meter)["sha256"]
            if found != file.sha256:
                raise CloudError(
                    f"store the {file.item} of {images.name} in",
                    self.name,
                    why=f"{file.path} is no longer what the build made: its sha256 is {found}, the"
                    f" manifest says {file.sha256}",
                    next_step="Build it again",
                )
            finish(partial, final)
        finally:  # a killed upload's is collected by the next one
            partial.unlink(missing_ok=True)

    def _heal(
        self, entry: _Entry, images: Image, options: PublishOptions, progress: Progress
    ) -> None:
        """Store again what somebody deleted or cut off; CloudError if this build has it no more."""
        lost = {item.sha256 for item in entry.version.items.values() if not self._whole(item)}
        if not lost:
            return
        for file in _files(images, options, entry.version.key):
            if file.sha256 in lost:
                self._store(file, images, progress)
                lost.remove(file.sha256)
        if lost:
            raise CloudError(
                f"restore generation {entry.generation} of {images.name} in",
                self.name,
                why=f"{streams.FILES_PATH}/{lost.pop()} is missing and this build made another one",
                next_step=f"Withdraw {_machine(entry.version).id}, then upload again",
            )

    def _whole(self, file: _File | streams.Item) -> bool:
        path = self.files / file.sha256
        return path.is_file() and path.stat().st_size == file.size

    def _collect_garbage(self, catalogue: streams.Products, *, partial_only: bool) -> None:
        """Delete files that no generation names: of withdrawn ones and of killed uploads.

        partial_only: where no list was found. Somebody may have moved a damaged one away, and the
        files are all there is of what it named.
        """
        named = streams.referenced(catalogue)
        for path in self.files.iterdir() if self.files.is_dir() else ():
            ours = _DIGEST_NAME.fullmatch(path.name)
            wanted = path.name.endswith(".partial") or not partial_only
            if ours and wanted and f"{streams.FILES_PATH}/{path.name}" not in named:
                path.unlink()

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

    def _error(self, attempted: str, error: OSError) -> CloudError:
        return CloudError(
            f"{attempted} the catalogue {self.directory} of",
            self.name,
            why=f"{error.strerror or error}: {error.filename or self.directory}",
            next_step="Set IMAGE_PIPELINE_CATALOGUE, or name a directory: local:DIR",
        )


def image_id(role: Role, digest: str) -> str:
    """An id of EC2's long form, "ami-" and 17 hexadecimal digits, made of `digest` alone."""
    return f"{_PREFIXES[role]}-{hashlib.sha256(f'{role}:{digest}'.encode()).hexdigest()[:17]}"


def copy_sparse(source: Path, target: Path, meter: Meter) -> None:
    """Copy a file by reference where the file system can, else its data without its holes.

    The meter advances by the whole length; holes count as done. OSError ENOSPC before anything is
    copied if it will not fit.
    """
    with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as copy:
        size = os.fstat(file.fileno()).st_size
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, file.fileno())
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            meter.advance(size)
            return
        need = sum(length for _, length in data_runs(file.fileno(), 0, size))
        free = shutil.disk_usage(target.parent).free
        if need > free:
            raise OSError(errno.ENOSPC, f"it needs {need >> 20} MiB and {free >> 20} MiB are free")
        copy.truncate(size)
        position = 0
        for offset, length in data_runs(file.fileno(), 0, size):
            meter.advance(offset - position)
            for piece in pieces(offset, length, _COPY_PIECE):
                _copy_piece(file.fileno(), copy.fileno(), *piece)
                meter.advance(piece[1])
            position = offset + length
        meter.advance(size - position)


def _copy_piece(source: int, target: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        try:
            count = os.copy_file_range(source, target, end - offset, offset, offset)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            count = os.pwrite(target, os.pread(source, min(CHUNK, end - offset), offset), offset)
        if count == 0:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        offset += count


def _kind(options: PublishOptions) -> Literal["triple", "disk"]:
    return "disk" if options.whole_disk else "triple"


def _files(images: Image, options: PublishOptions, key: str) -> list[_File]:
    if options.whole_disk:
        disk = require_disk(images, "local")
        ftype = streams.FTYPES[disk_format(disk.path)]
        known = image_id(Role.MACHINE, key)
        return [_File("disk", ftype, disk.path, disk.size, disk.sha256, known)]
    return [_triple_file(file, key) for file in images.triple]


def _triple_file(file: Artifact, key: str) -> _File:
    # A machine image's id stands for the triple: the same root with another kernel is another.
    identity = key if file.role is Role.MACHINE else file.sha256
    return _File(
        _ITEMS[file.role],
        streams.FTYPES[file.role],
        file.path,
        file.size,
        file.sha256,
        image_id(file.role, identity),
    )


def _new_version(
    images: Image, options: PublishOptions, key: str, files: Iterable[_File]
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
    attributes = _attributes(images, options).model_dump()
    return streams.Version(key=key, pubname=images.name, items=items, **attributes)


def _attributes(images: Image, options: PublishOptions) -> streams.Attributes:
    return streams.Attributes(
        command_line=images.command_line,
        kernel_version=images.kernel_version,
        verified=str(images.verified(whole_disk=options.whole_disk)).lower(),
        protected="true" if options.protected else "false",
        visibility=options.visibility,
        tags=",".join(options.tags),
        min_disk_gib=str(options.min_disk_gib),
        min_ram_mib=str(options.min_ram_mib),
        properties={**images.properties, **options.properties},
    )


def _merged(version: streams.Version, images: Image, options: PublishOptions) -> streams.Version:
    return version.model_copy(update=dict(_attributes(images, options)))


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
