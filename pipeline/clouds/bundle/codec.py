"""The EC2 bundle: an image as an encrypted, split, signed archive, and back.

Format: AWS's AMI tools and euca2ools, manifest version 2007-10-10. A single-member tar, gzip,
AES-128-CBC with PKCS #7 padding (`openssl enc -aes-128-cbc -K -iv`), parts of 10 MiB.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from isal import isal_zlib

from pipeline.clouds.bundle.archive import Compression, archive
from pipeline.clouds.bundle.manifest import BundleKeys, Manifest, Part, Sealer
from pipeline.core.errors import CloudError
from pipeline.core.image import Role
from pipeline.disk.blocks.source import RawFile
from pipeline.host.files import finish

PART_SIZE = 10 << 20
"""Bytes of every part but the last. An archive that is a multiple of it ends with a full part:
the empty one that some bundlers then add means nothing to any reader, and an empty object or a
part whose digest is that of nothing is one more thing a store could refuse."""

Sink = Callable[[int, bytes], None]
"""Takes a finished part: its index from 0 and its bytes. May block to hold the bundler back."""

_BLOCK = 16  # AES's, bytes
_READ = 1 << 20  # bytes decoded at a time, whatever a part decompresses to
_ZEROS = bytes(_READ)
_GZIP = 31  # zlib's wbits for gzip with a 32 KiB window


def part_name(prefix: str, index: int) -> str:
    """The name of part `index`: at least two digits."""
    return f"{prefix}.part.{index:02d}"


def bundle(
    image: Path,
    kind: Role,
    *,
    name: str,
    architecture: str,
    user: str,
    sealer: Sealer,
    sink: Sink,
    keys: BundleKeys | None = None,
    part_prefix: str = "",
    compression: Compression = "fast",
    sha256: str = "",
    advance: Callable[[int], None] | None = None,
) -> Manifest:
    """Bundle a raw image without a temporary copy; parts go to `sink` in order as they are made.

    name: of the tar member and in the manifest. user: the account's number. keys: random unless
    given. part_prefix: of the parts' names, `name` by default. sha256: of the image, checked in the
    same pass unless empty; CloudError when it is another. advance: told the image's bytes
    as they are done. The manifest of a machine image still lacks its kernel's and ramdisk's ids:
    `dataclasses.replace` them in. Errors of `sink` end the work and come through.
    """
    keys = keys or BundleKeys.random()
    witness = hashlib.sha256()
    digests: list[Future[str]] = []
    bundled_size = 0
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="bundle")
    try:
        with RawFile(image) as raw:
            size = raw.size
            update = witness.update if sha256 else None
            pieces = _Result(archive(raw, name, compression, pool, advance=advance, witness=update))
            for index, part in enumerate(_split(_encrypt(pieces, keys))):
                digests.append(pool.submit(_sha1, part))
                bundled_size += len(part)
                sink(index, part)
        parts = tuple(
            Part(part_name(part_prefix or name, index), digest.result())
            for index, digest in enumerate(digests)
        )
    finally:
        pool.shutdown(cancel_futures=True)
    if sha256 and witness.hexdigest() != sha256:
        raise CloudError(
            "bundle",
            image,
            why=f"its sha256 is {witness.hexdigest()} and the build recorded {sha256}",
            next_step="Build again: the file was changed since",
        )
    return Manifest(
        name=name,
        user=user,
        kind=kind,
        architecture=architecture,
        digest=pieces.result,
        size=size,
        bundled_size=bundled_size,
        sealed=sealer.seal(keys),
        parts=parts,
        kernel_id="true" if kind is Role.KERNEL else "",
        ramdisk_id="true" if kind is Role.RAMDISK else "",
    )


def unbundle(
    manifest: Manifest,
    keys: BundleKeys,
    fetch: Callable[[Part], bytes],
    out: Path,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write the image of a bundle to `out`, with holes; every size and digest is checked.

    fetch: gives a part's bytes. CloudError names the part that is damaged. `out` gets its name
    only when the whole bundle proved right.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        reader = _TarReader(_decompress(_decrypt(_checked(manifest, fetch), keys), manifest))
        with partial.open("xb") as file:
            _extract(reader, manifest, file, advance)
        finish(partial, out)
    finally:
        partial.unlink(missing_ok=True)


class _Result(Iterator[bytes]):
    """Iterates over a generator and keeps what it returned."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.result = ""

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.result = end.value
            raise


def _encrypt(pieces: Iterable[bytes], keys: BundleKeys) -> Iterator[bytes]:
    encryptor = Cipher(AES(keys.key), CBC(keys.iv)).encryptor()
    length = 0
    for piece in pieces:
        length += len(piece)
        yield encryptor.update(piece)
    padding = _BLOCK - length % _BLOCK
    yield encryptor.update(bytes([padding]) * padding) + encryptor.finalize()


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    part = bytearray()
    for piece in pieces:
        part += piece
        while len(part) >= PART_SIZE:
            yield bytes(memoryview(part)[:PART_SIZE])
            del part[:PART_SIZE]
    if part:
        yield bytes(part)


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _damaged(manifest: Manifest, why: str) -> CloudError:
    return CloudError(
        "unbundle",
        manifest.name,
        why=why,
        next_step="Fetch the bundle again, or publish the build again",
    )


def _checked(manifest: Manifest, fetch: Callable[[Part], bytes]) -> Iterator[bytes]:
    total = 0
    for index, part in enumerate(manifest.parts):
        data = fetch(part)
        digest = _sha1(data)
        if digest != part.sha1:
            raise _damaged(
                manifest,
                f"part {index}, {part.filename}, has the SHA-1 {digest}"
                f" and the manifest says {part.sha1}",
            )
        total += len(data)
        yield data
    if total != manifest.bundled_size:
        raise _damaged(
            manifest, f"the parts are {total} bytes, the manifest says {manifest.bundled_size}"
        )


def _decrypt(parts: Iterable[bytes], keys: BundleKeys) -> Iterator[bytes]:
    decryptor: CipherContext = Cipher(AES(keys.key), CBC(keys.iv)).decryptor()
    held = b""  # the last block so far: it may be the padding
    for part in parts:
        plain = held + decryptor.update(part)
        yield plain[:-_BLOCK]
        held = plain[-_BLOCK:]
    try:
        plain = held + decryptor.finalize()
    except ValueError as error:
        raise CloudError("unbundle", why=f"it is no whole number of AES blocks: {error}") from error
    padding = plain[-1] if plain else 0
    if not 1 <= padding <= _BLOCK or plain[-padding:] != bytes([padding]) * padding:
        raise CloudError("unbundle", why="its padding is wrong: the key is not this bundle's")
    yield plain[:-padding]


def _decompress(pieces: Iterable[bytes], manifest: Manifest) -> Iterator[bytes]:
    # A gzip file may have several members (RFC 1952, 2.2); some bundlers write them.
    member = isal_zlib.decompressobj(_GZIP)
    begun = False
    try:
        for piece in pieces:
            data = piece
            while data:
                if member.eof:
                    member, begun = isal_zlib.decompressobj(_GZIP), False
                begun = True
                yield member.decompress(data, _READ)
                data = member.unused_data if member.eof else member.unconsumed_tail
        while begun and not member.eof and (rest := member.decompress(b"", _READ)):
            yield rest
    except isal_zlib.IsalError as error:  # type: ignore[misc] # the stubs have it as an instance
        raise _damaged(manifest, f"it does not decompress: {error}") from error
    if not member.eof:
        raise _damaged(manifest, "its gzip stream ends too early")


class _TarReader:
    """The tar stream as tarfile wants to read it, hashed as it passes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self.passed = 0

    def read(self, size: int) -> bytes:
        """At least one byte and at most `size`; b"" at the end."""
        while not self._left:
            if (piece := next(self._pieces, None)) is None:
                return b""
            self._sha1.update(piece)
            self.passed += len(piece)
            self._left = piece
        data, self._left = self._left[:size], self._left[size:]
        return data

    def digest(self, limit: int) -> str:
        """SHA-1 of the whole stream, read to its end or until `limit` bytes have passed."""
        while self.passed <= limit and self.read(_READ):
            pass
        return self._sha1.hexdigest()


def _extract(
    reader: _TarReader,
    manifest: Manifest,
    file: BinaryIO,
    advance: Callable[[int], None] | None,
) -> None:
    try:
        # tarfile asks a stream for read() alone, the stubs for a whole file.
        with tarfile.open(fileobj=cast(BinaryIO, reader), mode="r|", bufsize=_READ) as tar:
            member = tar.next()
            content = tar.extractfile(member) if member is not None else None
            if member is None or content is None:
                raise _damaged(manifest, "its archive holds no file")
            if member.size != manifest.size:
                raise _damaged(
                    manifest,
                    f"the image is {member.size} bytes and the manifest says {manifest.size}",
                )
            while data := content.read(_READ):
                if data != _ZEROS[: len(data)]:
                    file.write(data)
                else:  # a hole
                    file.seek(len(data), os.SEEK_CUR)
                if advance is not None:
                    advance(len(data))
            file.truncate(manifest.size)
    except tarfile.TarError as error:
        raise _damaged(manifest, f"its archive cannot be read: {error}") from error
    # Header, padding and end of an archive take less than a record and two blocks.
    digest = reader.digest(manifest.size + 2 * tarfile.RECORDSIZE)
    if digest != manifest.digest:
        raise _damaged(
            manifest, f"the archive's SHA-1 is {digest} and the manifest says {manifest.digest}"
        )
