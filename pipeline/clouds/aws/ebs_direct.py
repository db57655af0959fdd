"""A snapshot written block by block through the EBS direct API (ebs 2019-11-02).

Sources: Amazon EBS direct APIs reference (StartSnapshot, PutSnapshotBlock, CompleteSnapshot) and
awslabs/coldsnap, whose issues tell of snapshots unknown for a while after their start.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.clouds.aws.ebs_index import BlockIndex, KeptToken, Parent
from pipeline.clouds.aws.session import code_of, step
from pipeline.core.errors import CloudError
from pipeline.disk.blocks.source import RawFile, Run
from pipeline.host.retry import Pauses, retry

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
_APPEAR_PAUSES = Pauses(first=2.0, jitter=0.75)
_STARTS = 3  # snapshots tried, each after the one before had ended in an error
_MISSING = ("ResourceNotFoundException", "InvalidSnapshot.NotFound")


def volume_gib(size: int) -> int:
    """The smallest volume that holds `size` bytes."""
    return max(1, -(-size // _GIB))


Zeros = Literal["none", "written", "all"]
"""Which zeros to send: none, those that lie in the file's data, those in its holes, too."""


def data_blocks(image: RawFile, zeros: Zeros = "none") -> Iterator[tuple[int, bytes]]:
    """Index and bytes of every block to send, the last one padded with zeros."""
    done = 0
    runs = [Run(0, image.size, None)] if zeros == "all" else image.runs(0, image.size)
    for run in runs:
        index = max(done, run.offset // BLOCK)
        while index * BLOCK < run.offset + run.length:
            offset = index * BLOCK
            data = image.read(offset, min(BLOCK, image.size - offset))
            if len(data) < BLOCK:
                data += bytes(BLOCK - len(data))
            if zeros != "none" or data != _ZEROS:
                yield index, data
            index += 1
        done = index


def wanted_blocks(
    image: RawFile, parent: Parent | None, zeros: Zeros = "none"
) -> Iterator[tuple[int, bytes | None, bytes]]:
    """Index, bytes and digest of the blocks that make the parent's content the image's.

    Bytes are None for a block that the parent has already. Without a parent those are all data
    blocks. Blocks that are zeros now and were not in the parent come as zeros, at their place.
    """
    old = parent.digests if parent else {}
    left = deque(sorted(old))

    def emptied(index: int) -> tuple[int, bytes | None, bytes]:
        return index, None if old[index] == _ZERO_DIGEST else _ZEROS, _ZERO_DIGEST

    for index, data in data_blocks(image, zeros):
        while left and left[0] < index:
            yield emptied(left.popleft())
        if left and left[0] == index:
            left.popleft()
        digest = hashlib.sha256(data).digest()
        yield index, None if old.get(index) == digest else data, digest
    for index in left:
        yield emptied(index)


def aggregate(digests: Mapping[int, bytes]) -> str:
    """LINEAR aggregation: base64 of the SHA-256 over the raw digests in order of their index."""
    joined = b"".join(digests[index] for index in sorted(digests))
    return base64.b64encode(hashlib.sha256(joined).digest()).decode()


class DirectUpload:
    """Makes snapshots through the EBS direct API."""

    def __init__(
        self,
        client: EBSClient,
        cloud: str,
        exists: Callable[[str], bool],
        *,
        encrypts: bool = False,
        holes: bool = False,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """exists: asks the EC2 API whether a snapshot is still there.

        encrypts: whether the account encrypts by default; the answer of a start tells it, too.
        holes: send the file's holes as well where the snapshot is encrypted. say: told what was
        assumed of them.
        """
        self._client = client
        self._cloud = cloud
        self._exists = exists
        self._encrypted, self._holes, self._say = encrypts, holes, say
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
                    zeros = self._zeros(image)
                    content, written = self._put_all(
                        raw, snapshot_id, parent, index, advance, zeros=zeros
                    )
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
            self._encrypted |= bool(answer.get("KmsKeyArn"))
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

    def _zeros(self, image: Path) -> Zeros:
        """Which zeros to send; what is assumed of the others is told.

        A block that was never put reads as zeros from a volume, but as random bytes where the
        snapshot is encrypted.
        """
        if not self._encrypted:
            return "none"
        if self._holes:
            self._say(f"{self._cloud}: the snapshot is encrypted: every block is sent")
            return "all"
        self._say(
            f"{self._cloud}: the snapshot is encrypted, and what is not sent reads as random bytes:"
            f" zeros that lie in {image.name} are sent, its holes are taken for never written"
        )
        return "written"

    def _put_all(
        self,
        raw: RawFile,
        snapshot_id: str,
        parent: Parent | None,
        index: BlockIndex,
        advance: Callable[[int], None],
        *,
        zeros: Zeros,
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
            for number, data, digest in wanted_blocks(raw, parent, zeros):
                # Of an encrypted parent, zeros that were put are all that is known to be zeros.
                if digest != _ZERO_DIGEST or zeros != "none":
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

        def may_appear(error: Exception) -> bool:
            early = time.monotonic() - self._begun <= _APPEAR_SECONDS
            return early and isinstance(error, ClientError) and _unknown_snapshot(error)

        with self._step(f"put block {number} of the snapshot", snapshot_id):
            retry(
                lambda: self._client.put_snapshot_block(
                    SnapshotId=snapshot_id,
                    BlockIndex=number,
                    BlockData=data,
                    DataLength=BLOCK,
                    Checksum=base64.b64encode(digest).decode(),
                    ChecksumAlgorithm="SHA256",
                ),
                pauses=_APPEAR_PAUSES,
                again=may_appear,
            )

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


def _unknown_snapshot(error: Exception) -> bool:
    return code_of(error) in _MISSING or "does not exist" in str(error)
