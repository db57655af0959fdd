"""The files and documents of a catalogue: written whole, healed, and collected when unused.

Files lie under the name of their content and are whole before the products file names them; the
index comes last. One lock lets one writer in at a time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.catalogue import simplestreams as streams
from pipeline.core.errors import BusyError, CloudError
from pipeline.core.events import Meter, Progress
from pipeline.host.copy import Copier
from pipeline.host.files import finish, naming, write_whole
from pipeline.host.locks import exclusive
from pipeline.host.sparse import data_runs, digests, pieces

_FICLONE = 0x40049409  # ioctl_ficlone(2), _IOW(0x94, 9, int)
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY})
_COPY_PIECE = 64 << 20  # bytes between two looks at the user's interrupt
# Copying the largest images takes minutes; somebody who holds the lock for an hour hangs.
_LOCK_SECONDS = 3600.0
_DIGEST_NAME = re.compile(r"[0-9a-f]{64}(\.partial)?")
_Document = TypeVar("_Document", bound=BaseModel)


class Content(Protocol):
    """What a file of the catalogue holds."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """The digest, which is the file's name."""


@dataclass(frozen=True)
class NewFile:
    """A file to be catalogued as item `item`."""

    item: str
    ftype: str
    path: Path
    size: int
    sha256: str
    id: str


@dataclass(frozen=True)
class Store:
    """One catalogue's directory. word: the user's word for it, in errors."""

    word: str
    directory: Path

    @property
    def files(self) -> Path:
        """Where the images' bytes lie."""
        return self.directory / streams.FILES_PATH

    @property
    def is_listed(self) -> bool:
        """Whether there is a list of what is in it."""
        return (self.directory / streams.PRODUCTS_PATH).exists()

    @contextlib.contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Hold the catalogue's lock; others are waited for, and the user is told."""
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
                    progress.say(f"{self.word}: waiting, {error.why}")
            yield

    # -- documents

    def read(self) -> streams.Products:
        """The products file, an empty one where there is none. CloudError when it is damaged."""
        path = self.directory / streams.PRODUCTS_PATH
        mend = "It is damaged, or not one of this pipeline's: move it away"
        found = self._load(path, streams.Products, mend)
        return found or streams.empty(streams.timestamp())

    def read_index(self) -> streams.Index | None:
        """The index, which other publishers write, too. CloudError when it cannot be kept."""
        path = self.directory / streams.INDEX_PATH
        return self._load(path, streams.Index, "Mend it: other publishers' images are listed in it")

    def _load(self, path: Path, model: type[_Document], mend: str) -> _Document | None:
        try:
            return model.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.error("read", error) from error
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise CloudError(
                "read the local catalogue's",
                path,
                why=f"{place}: {fault['msg']}" if place else fault["msg"],
                next_step=mend,
            ) from error

    def write(self, catalogue: streams.Products, *, removing: bool = False) -> None:
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
        files = [
            (products, streams.dump(catalogue)),
            (index, streams.dump_index(streams.index_of(catalogue, self.read_index()))),
        ]
        for path, text in reversed(files) if removing else files:
            if not path.exists() or path.read_text() != text:
                write_whole(path, text)

    # -- files

    def has(self, file: Content) -> bool:
        """Whether a file of that name and size is there; its bytes are not read."""
        path = self.files / file.sha256
        return path.is_file() and path.stat().st_size == file.size

    def is_whole(self, file: Content, progress: Progress) -> bool:
        """Whether the file is there and holds what its name says: its bytes are read."""
        if not self.has(file):
            return False
        path = self.files / file.sha256
        with progress.task(f"{self.word}: checking {file.sha256[:12]}", file.size) as meter:
            if digests(path, ["sha256"], meter)["sha256"] == file.sha256:
                return True
        progress.warn(f"{self.word}: {path} holds other bytes than it was stored with")
        return False

    def add(self, file: NewFile, name: str, progress: Progress) -> None:
        """Store a file of the build `name`, unless it is there and whole."""
        if self.is_whole(file, progress):
            return
        final = self.files / file.sha256
        partial = final.with_name(f"{file.sha256}.partial")
        self.files.mkdir(parents=True, exist_ok=True)
        label = f"{self.word}: {file.item} of {name}"
        try:
            with progress.task(label, total=2 * file.size) as meter, naming(partial):
                copy_sparse(file.path, partial, meter)
                found = digests(partial, ["sha256"], meter)["sha256"]
            if found != file.sha256:
                raise CloudError(
                    f"store the {file.item} of {name} in",
                    self.word,
                    why=f"{file.path} is no longer what the build made: its sha256 is {found}, the"
                    f" manifest says {file.sha256}",
                    next_step="Build it again",
                )
            finish(partial, final)
        finally:  # a killed upload's is collected by the next one
            partial.unlink(missing_ok=True)

    def lost(self, files: Iterable[Content], progress: Progress) -> set[str]:
        """The sha256 of those that somebody deleted, cut off or damaged."""
        return {file.sha256 for file in files if not self.is_whole(file, progress)}

    def collect_garbage(self, catalogue: streams.Products, *, partial_only: bool) -> None:
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

    def error(self, attempted: str, error: OSError) -> CloudError:
        """The host's trouble as the catalogue's."""
        return CloudError(
            f"{attempted} the catalogue {self.directory} of",
            self.word,
            why=f"{error.strerror or error}: {error.filename or self.directory}",
            next_step="Set IMAGE_PIPELINE_CATALOGUE, or name a directory: local:DIR",
        )


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
        copier = Copier(file.fileno(), copy.fileno())
        position = 0
        for offset, length in data_runs(file.fileno(), 0, size):
            meter.advance(offset - position)
            for start, count in pieces(offset, length, _COPY_PIECE):
                copier.copy(start, start, count)
                meter.advance(count)
            position = offset + length
        meter.advance(size - position)
