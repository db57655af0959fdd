"""Objects in an S3 bucket: whole or not at all, checked, concurrent, resumed.

Every object is one PUT with Content-MD5, which all S3 services verify. A part of a bundle is
found again by its name, size and ETag (the MD5 of an object sent by one PUT), so a repeated
upload sends only what is missing.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pipeline.clouds.aws.images import pause
from pipeline.clouds.aws.session import code_of, is_aws, status_of, step
from pipeline.core.errors import CloudError

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

READERS: Literal["aws-exec-read"] = (
    "aws-exec-read"  # the canned ACL that lets EC2 fetch bundles (S3, "Canned ACL")
)
UPLOADS = 4  # parts under way; with one being made, at most 50 MiB are held
_HEARTBEAT = 1.0  # seconds between two words to the user while waiting
# S3 answers these to bytes that arrived otherwise than they were sent, and botocore does not send
# them again. Three times in a row is no accident of the network.
_DAMAGED = ("BadDigest", "IncompleteBody")
_SENDINGS = 3
_LISTINGS, _LISTING_SECONDS = 5, 2.0  # Swift lists what it took some seconds later, no minutes


@dataclass(frozen=True)
class Stored:
    """An object as the bucket lists it.

    etag: without quotes. age: seconds since it was stored, by the service's own clock; 0 when the
    service does not say.
    """

    size: int
    etag: str
    age: float = 0.0

    def holds(self, data: bytes, md5: bytes) -> bool:
        """Whether it is `data`, whose MD5 is `md5`."""
        return self.size == len(data) and self.etag == md5.hex()


class Bucket:
    """One bucket on one cloud. Safe to use from several threads."""

    def __init__(self, client: S3Client, name: str, cloud: str) -> None:
        self.name = name
        self._client = client
        self._cloud = cloud
        self._readers = True

    def check(self) -> bool:
        """Whether the bucket exists; CloudError when it is somebody else's or S3 is refused."""
        from botocore.exceptions import ClientError

        with step(self._cloud, "use the bucket", self.name):
            try:
                self._client.head_bucket(Bucket=self.name)
            except ClientError as error:
                if status_of(error) != 404:
                    raise
                return False
        return True

    def ensure(self) -> None:
        """Create the bucket unless it exists."""
        from botocore.exceptions import ClientError

        if self.check():
            return
        region = self._client.meta.region_name
        place: dict[str, Any] = {}
        if is_aws(self._client.meta.endpoint_url) and region != "us-east-1":
            place["CreateBucketConfiguration"] = {"LocationConstraint": region}
        with step(self._cloud, "create the bucket", self.name):
            try:
                self._client.create_bucket(Bucket=self.name, **place)
            except ClientError as error:
                # Another upload may have made it meanwhile; that of a stranger is refused here.
                if status_of(error) != 409 or not self.check():
                    raise

    def list(self, prefix: str) -> dict[str, Stored]:
        """The objects whose key starts with `prefix`."""
        found = {}
        with step(self._cloud, "list the bucket", self.name):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix
            ):
                headers = page["ResponseMetadata"]["HTTPHeaders"]
                for entry in page.get("Contents", []):
                    found[entry["Key"]] = Stored(
                        entry["Size"],
                        entry["ETag"].strip('"'),
                        _age(headers.get("date", ""), entry.get("LastModified")),
                    )
        return found

    def put(
        self,
        key: str,
        data: bytes,
        metadata: Mapping[str, str] | None = None,
        md5: bytes | None = None,
    ) -> None:
        """Store an object, readable by EC2 where the service knows such a thing.

        md5: of the data, when it is known already.
        """
        from botocore.exceptions import ClientError

        request: dict[str, Any] = {
            "Bucket": self.name,
            "Key": key,
            "Body": data,
            "ContentMD5": base64.b64encode(md5 or _md5(data)).decode(),
            "Metadata": dict(metadata or {}),
        }
        with step(self._cloud, "upload", f"{self.name}/{key}"):
            if self._readers:
                try:
                    self._put(request | {"ACL": READERS})
                except ClientError as error:
                    # 400 InvalidArgument or AccessControlListNotSupported, 501 NotImplemented
                    if status_of(error) not in (400, 501) or code_of(error) in _DAMAGED:
                        raise
                else:
                    return
            self._put(request)
            self._readers = False  # it works without: from now on the others are sent so at once

    def _put(self, request: Mapping[str, Any]) -> None:
        from botocore.exceptions import ClientError

        for left in reversed(range(_SENDINGS)):
            try:
                self._client.put_object(**request)
            except ClientError as error:
                if not left or code_of(error) not in _DAMAGED:
                    raise
            else:
                return

    def get(self, key: str, largest: int) -> bytes:
        """An object's bytes; CloudError when there are more than `largest`."""
        with step(self._cloud, "fetch", f"{self.name}/{key}"):
            answer = self._client.get_object(Bucket=self.name, Key=key)
            data = answer["Body"].read(largest + 1)
        if len(data) > largest:
            raise CloudError(
                "fetch", f"{self.name}/{key} on {self._cloud}", why=f"it is over {largest} bytes"
            )
        return data

    def metadata(self, key: str) -> dict[str, str] | None:
        """What `put` recorded with an object; None when there is no such object."""
        from botocore.exceptions import ClientError

        with step(self._cloud, "look at", f"{self.name}/{key}"):
            try:
                return dict(self._client.head_object(Bucket=self.name, Key=key)["Metadata"])
            except ClientError as error:
                if status_of(error) != 404:
                    raise
                return None

    def delete(self, prefix: str) -> int:
        """Delete the objects whose key starts with `prefix`; how many there were."""
        if not self.check():
            return 0
        keys = list(self.list(prefix))
        self.drop(keys)
        return len(keys)

    def drop(self, keys: Sequence[str]) -> None:
        """Delete these objects; one that is gone already is no error.

        One by one: the call that deletes many needs checksums that S3 services disagree on.
        """
        from botocore.exceptions import ClientError

        def drop(key: str) -> None:
            with step(self._cloud, "delete", f"{self.name}/{key}"):
                try:
                    self._client.delete_object(Bucket=self.name, Key=key)
                except ClientError as error:
                    if code_of(error) != "NoSuchKey":
                        raise

        with ThreadPoolExecutor(UPLOADS, thread_name_prefix="s3-delete") as pool:
            for _ in pool.map(drop, keys):
                pass


class PartUploads:
    """Uploads parts as they are made; a sink for `bundle.bundle`.

    Use as a context manager: leaving it waits for all uploads, or after an error cancels them.
    present: what the bucket holds already. heartbeat: called every second while waiting; it may
    raise.
    """

    def __init__(
        self,
        bucket: Bucket,
        key_of: Callable[[int], str],
        present: Mapping[str, Stored],
        heartbeat: Callable[[], None],
    ) -> None:
        self._bucket, self._key_of, self._present = bucket, key_of, present
        self._heartbeat = heartbeat
        self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="s3-upload")
        self._room = threading.BoundedSemaphore(UPLOADS)
        self._running: list[Future[None]] = []
        self.expected: dict[str, Stored] = {}
        self.sent: list[str] = []

    def __call__(self, index: int, data: bytes) -> None:
        """Take a part; blocks while enough are under way. Raises what an upload raised."""
        while not self._room.acquire(timeout=_HEARTBEAT):
            self._heartbeat()
        self._running = _unfinished(self._running)
        self._running.append(self._pool.submit(self._send, self._key_of(index), data))

    def finish(self, prefix: str) -> None:
        """Wait for all uploads, then check that the bucket lists every part as it was sent.

        prefix: of all the parts' keys.
        """
        while self._running:
            wait(self._running, _HEARTBEAT, FIRST_EXCEPTION)
            self._running = _unfinished(self._running)
            self._heartbeat()
        for left in reversed(range(_LISTINGS)):
            lost = missing(self.expected, self._bucket.list(prefix))
            if not lost or not left:
                break
            pause(_LISTING_SECONDS, self._heartbeat)
        if lost:
            raise CloudError(
                "upload",
                f"{self._bucket.name}/{lost[0]}",
                why=f"the bucket took {len(self.expected)} parts and lists {len(lost)} of them"
                " not, or not as they were sent",
                next_step="Try again: only those are sent again",
            )

    def _send(self, key: str, data: bytes) -> None:
        try:
            md5 = _md5(data)
            self.expected[key] = Stored(len(data), md5.hex())
            there = self._present.get(key)
            if there is None or not there.holds(data, md5):
                self._bucket.put(key, data, md5=md5)
                self.sent.append(key)
        finally:
            self._room.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _age(now: str, stored: datetime | None) -> float:
    """Seconds between an answer's Date header and a time in it; this host's clock is not asked."""
    if stored is None:
        return 0.0
    try:
        return max(0.0, (parsedate_to_datetime(now) - stored).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a time zone
        return 0.0


def missing(expected: Mapping[str, Stored], listed: Mapping[str, Stored]) -> Sequence[str]:
    """Keys that are not listed as expected, in order; an ETag that is no MD5 is not compared."""
    wrong = []
    for key, want in expected.items():
        got = listed.get(key)
        comparable = got is not None and len(got.etag) == len(want.etag)
        if got is None or got.size != want.size or (comparable and got.etag != want.etag):
            wrong.append(key)
    return sorted(wrong)


def _unfinished(futures: Sequence[Future[None]]) -> list[Future[None]]:
    running = []
    for future in futures:
        if future.done():
            future.result()
        else:
            running.append(future)
    return running


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
