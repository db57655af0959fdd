"""A snapshot written block by block through the EBS direct API (ebs 2019-11-02).

Sources: Amazon EBS direct APIs reference (StartSnapshot, PutSnapshotBlock, CompleteSnapshot) and
awslabs/coldsnap, whose issues tell of snapshots unknown for a while after their start.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import random
import secrets
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clouds.aws.session import code_of, step
from pipeline.core import settings
from pipeline.core.errors import CloudError
from pipeline.disk.blocks.source import RawFile
from pipeline.host.files import finish, write_scratch, write_whole

if TYPE_CHECKING:
    from types_boto3_ebs.client import EBSClient

BLOCK = 512 << 10
"""Bytes of a block; the API has no other size."""
_ZEROS = bytes(BLOCK)
_ZERO_DIGEST = hashlib.sha256(_ZEROS).digest()
_GIB = 1 << 30
# A put takes some 50 ms on AWS: 32 at once are over 300 MB/s, and well below its sizing of 100
# connections an account.
_PUTS = 32
_TIMEOUT_MINUTES = 60  # without a put for so long the cloud gives an unfinished snapshot up
_APPEAR_SECONDS = 120.0  # how long after its start a snapshot may be unknown to puts (coldsnap)
_STARTS = 3  # snapshots tried, each after the one before had ended in an error
_RECORD = struct.Struct(">I32s")  # a block's index and SHA-256
_MISSING = ("ResourceNotFoundException", "InvalidSnapshot.NotFound")


@dataclass(frozen=True)
class Parent:
    """A completed snapshot to build on. digests: SHA-256 of its blocks that are not all zeros."""

    snapshot_id: str
    volume_gib: int
    digests: Mapping[int, bytes]


def volume_gib(size: int) -> int:
    """The smallest volume that holds `size` bytes."""
    return max(1, -(-size // _GIB))


def data_blocks(image: RawFile) -> Iterator[tuple[int, bytes]]:
    """Index and bytes of every block that is not all zeros, the last one padded with zeros."""
    done = 0
    for run in image.runs(0, image.size):
        index = max(done, run.offset // BLOCK)
        while index * BLOCK < run.offset + run.length:
            offset = index * BLOCK
            data = image.read(offset, min(BLOCK, image.size - offset))
            if len(data) < BLOCK:
                data += bytes(BLOCK - len(data))
            if data != _ZEROS:
                yield index, data
            index += 1
        done = index


def wanted_blocks(
    image: RawFile, parent: Parent | None
) -> Iterator[tuple[int, bytes | None, bytes]]:
    """Index, bytes and digest of the blocks that make the parent's content the image's.

    Bytes are None for a block that the parent has already. Without a parent those are all data
    blocks. Blocks that are zeros now and were not in the parent come as zeros, at their place.
    """
    old = parent.digests if parent else {}
    left = deque(sorted(old))
    for index, data in data_blocks(image):
        while left and left[0] < index:
            yield left.popleft(), _ZEROS, _ZERO_DIGEST
        if left and left[0] == index:
            left.popleft()
        digest = hashlib.sha256(data).digest()
        yield index, None if old.get(index) == digest else data, digest
    for index in left:
        yield index, _ZEROS, _ZERO_DIGEST


def aggregate(digests: Mapping[int, bytes]) -> str:
    """LINEAR aggregation: base64 of the SHA-256 over the raw digests in order of their index."""
    joined = b"".join(digests[index] for index in sorted(digests))
    return base64.b64encode(hashlib.sha256(joined).digest()).decode()


class BlockIndex:
    """What blocks a snapshot holds, kept below the cache directory.

    While a snapshot is written it is a journal that lets the next run go on; of a completed one
    it tells what the next generation has in common with it. Without it nothing but time is lost.
    """

    def __init__(self, cloud: str, snapshot_id: str) -> None:
        name = hashlib.sha256(f"{cloud} {snapshot_id}".encode()).hexdigest()[:32]
        directory = settings.cache_dir() / "ebs"
        self._journal = directory / f"{name}.journal"
        self._blocks = directory / f"{name}.blocks"
        self._descriptor: int | None = None

    def written(self) -> dict[int, bytes]:
        """Blocks that were acknowledged; a record cut off by a crash is left out."""
        return _records(self._journal)

    def write(self, index: int, digest: bytes) -> None:
        """Record an acknowledged block."""
        if self._descriptor is None:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._journal, flags, 0o600)
            torn = os.fstat(self._descriptor).st_size % _RECORD.size
            if torn:
                os.truncate(self._descriptor, os.fstat(self._descriptor).st_size - torn)
        os.write(self._descriptor, _RECORD.pack(index, digest))

    def close(self) -> None:
        """Close the journal."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def complete(self, digests: Mapping[int, bytes]) -> None:
        """Keep the content of the finished snapshot in place of the journal."""
        partial = self._blocks.with_suffix(f".{os.getpid()}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        write_scratch(partial, b"".join(_RECORD.pack(i, d) for i, d in sorted(digests.items())))
        finish(partial, self._blocks)
        self._journal.unlink(missing_ok=True)

    def content(self) -> dict[int, bytes] | None:
        """Blocks of the finished snapshot, or None when this host does not know."""
        return _records(self._blocks) if self._blocks.is_file() else None

    def forget(self) -> None:
        """Delete both."""
        self.close()
        self._journal.unlink(missing_ok=True)
        self._blocks.unlink(missing_ok=True)


class DirectUpload:
    """Makes snapshots through the EBS direct API."""

    def __init__(self, client: EBSClient, cloud: str, exists: Callable[[str], bool]) -> None:
        """exists: asks the EC2 API whether a snapshot is still there."""
        self._client = client
        self._cloud = cloud
        self._exists = exists
        self._begun = 0.0

    def run(
        self,
        image: Path,
        *,
        token: str,
        tags: Mapping[str, str],
        description: str,
        parent: Parent | None,
        advance: Callable[[int], None],
        check: Callable[[], None] = lambda: None,
        settle: Callable[[str], None] = lambda _snapshot: None,
    ) -> str:
        """Write the image into a snapshot and complete it; its id.

        token: identity of the image's bytes; an unfinished snapshot of the same token is gone on
        with. advance: told bytes as they are done, and 0 every second; it may raise. check: raises
        when the image is no longer what it was, before the snapshot is completed. settle: waits
        until the cloud has the snapshot; the next run finds it again while that is not so.
        """
        with RawFile(image) as raw:
            gib = volume_gib(raw.size)
            if parent and parent.volume_gib > gib:
                parent = None  # a snapshot cannot be smaller than its parent
            name = KeptToken(self._cloud, token, gib, parent)
            snapshot_id, status = self._start(gib, name, tags, description, parent)
            if status == "pending":
                index = BlockIndex(self._cloud, snapshot_id)
                if index.content() is not None:  # completed by a run that did not see it settle
                    index.close()
                    settle(snapshot_id)
                    name.forget()
                    return snapshot_id
                try:
                    content, written = self._put_all(raw, snapshot_id, parent, index, advance)
                    check()
                    self._complete(snapshot_id, written)
                except _LostError as error:
                    index.forget()
                    name.forget()
                    raise error.reason from error
                finally:
                    index.close()
                index.complete(content)
            settle(snapshot_id)
            name.forget()
        return snapshot_id

    def _start(
        self,
        gib: int,
        token: KeptToken,
        tags: Mapping[str, str],
        description: str,
        parent: Parent | None,
    ) -> tuple[str, str]:
        """A snapshot that is there, and whether it is "pending" or "completed" already."""
        request: dict[str, Any] = {
            "VolumeSize": gib,
            "Timeout": _TIMEOUT_MINUTES,
            "Description": description,
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }
        if parent:
            request["ParentSnapshotId"] = parent.snapshot_id
        for _ in range(_STARTS):
            with step(self._cloud, "start a snapshot on", self._cloud):
                answer = self._client.start_snapshot(**request, ClientToken=token.value())
            snapshot_id, status = answer["SnapshotId"], answer["Status"]
            if answer["BlockSize"] != BLOCK:
                raise CloudError(
                    "start a snapshot on",
                    self._cloud,
                    why=f"its blocks are {answer['BlockSize']} bytes and not {BLOCK}",
                )
            if status == "pending" or (status == "completed" and self._exists(snapshot_id)):
                self._begun = time.monotonic()
                return snapshot_id, status
            token.forget()
        raise CloudError(
            "start a snapshot on",
            self._cloud,
            why=f"{_STARTS} snapshots ended in an error at once, the last one {snapshot_id}",
            next_step="Try again later, and ask the cloud's operator if it persists",
        )

    def _put_all(
        self,
        raw: RawFile,
        snapshot_id: str,
        parent: Parent | None,
        index: BlockIndex,
        advance: Callable[[int], None],
    ) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Digests of the snapshot's content, and of the blocks written."""
        before = index.written()
        content: dict[int, bytes] = {}
        written: dict[int, bytes] = {}
        running: dict[Future[None], int] = {}
        done = 0

        def collect(least: int) -> None:
            while len(running) > least:
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                advance(0)
                for future in finished:
                    number = running.pop(future)
                    future.result()
                    index.write(number, written[number])

        pool = ThreadPoolExecutor(_PUTS, thread_name_prefix="ebs-put")
        try:
            for number, data, digest in wanted_blocks(raw, parent):
                if digest != _ZERO_DIGEST:
                    content[number] = digest
                if data is not None:
                    written[number] = digest
                    if before.get(number) != digest:
                        future = pool.submit(self._put, snapshot_id, number, data, digest)
                        running[future] = number
                        collect(2 * _PUTS)
                position = min(raw.size, (number + 1) * BLOCK)
                advance(max(0, position - done))
                done = max(done, position)
            collect(0)
            advance(raw.size - done)
        finally:
            pool.shutdown(cancel_futures=True)
            # One refusal ends the run; the blocks that arrived beside it are not sent again.
            for future, number in running.items():
                if not future.cancelled() and future.exception() is None:
                    index.write(number, written[number])
        return content, written

    def _put(self, snapshot_id: str, number: int, data: bytes, digest: bytes) -> None:
        from botocore.exceptions import ClientError

        with self._step(f"put block {number} of the snapshot", snapshot_id):
            while True:
                try:
                    self._client.put_snapshot_block(
                        SnapshotId=snapshot_id,
                        BlockIndex=number,
                        BlockData=data,
                        DataLength=BLOCK,
                        Checksum=base64.b64encode(digest).decode(),
                        ChecksumAlgorithm="SHA256",
                    )
                except ClientError as error:
                    late = time.monotonic() - self._begun > _APPEAR_SECONDS
                    if late or not _unknown_snapshot(error):
                        raise
                else:
                    return
                time.sleep(random.uniform(0.5, 2.0))  # noqa: S311 # no secret

    def _complete(self, snapshot_id: str, written: Mapping[int, bytes]) -> None:
        with self._step("complete the snapshot", snapshot_id):
            answer = self._client.complete_snapshot(
                SnapshotId=snapshot_id,
                ChangedBlocksCount=len(written),
                Checksum=aggregate(written),
                ChecksumAlgorithm="SHA256",
                ChecksumAggregationMethod="LINEAR",
            )
        if answer["Status"] == "error":
            raise _LostError(
                CloudError(
                    "complete the snapshot",
                    f"{snapshot_id} on {self._cloud}",
                    why="the cloud reports an error",
                    next_step="Try again: a new snapshot is made",
                )
            )

    @contextlib.contextmanager
    def _step(self, attempted: str, snapshot_id: str) -> Iterator[None]:
        """As `step`; _LostError when the snapshot cannot be gone on with."""
        try:
            with step(self._cloud, attempted, snapshot_id):
                yield
        except CloudError as error:
            cause = error.__cause__
            # It is gone, or holds other blocks than were acknowledged.
            if isinstance(cause, Exception) and (
                _unknown_snapshot(cause) or code_of(cause) == "ValidationException"
            ):
                raise _LostError(error) from cause
            raise


class _LostError(Exception):
    """A snapshot is of no more use; the next run starts another."""

    def __init__(self, reason: CloudError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class KeptToken:
    """The client token of an unfinished snapshot, kept so that the next run finds it again.

    It is forgotten once the snapshot is complete: a cloud goes on answering a token with its
    snapshot after that was deleted.
    """

    def __init__(self, cloud: str, identity: str, gib: int, parent: Parent | None) -> None:
        text = f"{cloud} {identity} {gib} {parent.snapshot_id if parent else ''}"
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._path = settings.cache_dir() / "ebs" / f"{name}.token"

    def value(self) -> str:
        """The token, made now unless there is one."""
        with contextlib.suppress(FileNotFoundError):
            if text := self._path.read_text():
                return text
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = secrets.token_hex(16)
        write_whole(self._path, text, 0o600)
        return text

    def forget(self) -> None:
        """Have the next `value` be another."""
        self._path.unlink(missing_ok=True)


def _unknown_snapshot(error: Exception) -> bool:
    return code_of(error) in _MISSING or "does not exist" in str(error)


def _records(path: Path) -> dict[int, bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    whole = len(data) // _RECORD.size * _RECORD.size
    return dict(_RECORD.iter_unpack(data[:whole]))
