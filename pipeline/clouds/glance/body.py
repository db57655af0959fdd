"""The body of an upload: an image read once, hashed while it is sent, its holes never read."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

from pipeline.core.events import Meter
from pipeline.core.image import Artifact
from pipeline.host.pools import threads
from pipeline.host.sparse import chunks

# A link that brings less than this for two minutes moves a 1 GiB image in three days: it is
# stuck, and some proxies keep such a connection open for ever.
FLOOR_BYTES_PER_SECOND = 4096
FLOOR_SECONDS = 120.0


class ChangedFileError(Exception):
    """The file no longer holds what the build's manifest says, or cannot be read."""


class StalledUploadError(OSError):
    """The receiver takes next to nothing; an OSError, as the HTTP libraries pass those on."""


class ImageBody:
    """An image as an iterable HTTP body of known length; iterating again starts again.

    The last piece is given out only when the sha256 of all of it is the expected one, so a
    changed file ends as an aborted upload, never as a whole image. `hexdigest` gives the digests
    of the last complete pass.
    """

    def __init__(
        self, path: Path, size: int, sha256: str, meter: Meter, algorithms: tuple[str, ...]
    ) -> None:
        self._path, self._size, self._sha256, self._meter = path, size, sha256, meter
        self._algorithms = {"sha256", *algorithms}
        self._digests: dict[str, str] = {}
        self._counted = 0

    @classmethod
    def of(cls, file: Artifact, meter: Meter, algorithms: tuple[str, ...]) -> ImageBody:
        """The body for one of the three files."""
        return cls(file.path, file.size, file.sha256, meter, algorithms)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        self._meter.advance(-self._counted)
        self._counted = sent = 0
        hashes = {name: hashlib.new(name, usedforsecurity=False) for name in self._algorithms}
        window_end, window_sent = time.monotonic() + FLOOR_SECONDS, 0
        # hashlib lets other threads run: a piece is hashed while it is on its way.
        with threads(len(hashes), "hash") as pool:
            for piece in self._pieces():
                hashing = [pool.submit(each.update, piece) for each in hashes.values()]
                sent += len(piece)
                if sent == self._size:
                    wait(hashing)
                    if hashes["sha256"].hexdigest() != self._sha256:
                        raise ChangedFileError(
                            f"{self._path} no longer has the sha256 that the manifest says"
                        )
                yield piece
                wait(hashing)  # the next piece takes this one's place in memory
                self._counted = sent
                self._meter.advance(len(piece))
                window_sent += len(piece)
                if time.monotonic() >= window_end:
                    if window_sent < FLOOR_BYTES_PER_SECOND * FLOOR_SECONDS:
                        raise StalledUploadError(
                            f"only {window_sent} bytes went in {FLOOR_SECONDS:.0f} s"
                        )
                    window_end, window_sent = time.monotonic() + FLOOR_SECONDS, 0
        self._digests = {name: each.hexdigest() for name, each in hashes.items()}

    def _pieces(self) -> Iterator[memoryview]:
        # The HTTP libraries take an OSError for the connection's.
        try:
            with self._path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != self._size:
                    raise ChangedFileError(f"{self._path} is no longer {self._size} bytes long")
                yield from chunks(file.fileno(), self._size)
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or error
            raise ChangedFileError(f"{self._path} cannot be read: {why}") from error

    def hexdigest(self, algorithm: str) -> str | None:
        """The digest of the last complete pass, or None if it was not asked for."""
        return self._digests.get(algorithm)
