"""A snapshot made of an object in S3 by ImportSnapshot, for clouds without the EBS direct API.

The disk is uploaded raw in parts (S3 multipart upload) and an unfinished upload is gone on with:
its parts are listed, and those whose size and ETag are right are not sent again.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clouds.aws.ebs_direct import KeptToken
from pipeline.clouds.aws.images import pause
from pipeline.clouds.aws.objects import UPLOADS
from pipeline.clouds.aws.session import Site, step
from pipeline.core.errors import CloudError
from pipeline.disk.blocks.source import RawFile

if TYPE_CHECKING:
    from types_boto3_ec2.client import EC2Client
    from types_boto3_s3.client import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

_LEAST_PART = 16 << 20  # bytes; S3 wants 5 MiB at least, and each part is one round trip
_MOST_PARTS = 10_000  # S3's limit
_FIRST_POLL, _LONGEST_POLL = 0.2, 10.0  # seconds between looks at an import
_IMPORT_SECONDS = 4 * 3600.0  # AWS imports some 10 GiB an hour at worst; the largest take longer


@dataclass(frozen=True)
class ImportUpload:
    """Makes snapshots through S3. bucket: must exist, readable by the cloud's import service."""

    site: Site
    bucket: str
    role: str = ""

    def run(
        self,
        image: Path,
        *,
        key: str,
        token: str,
        tags: Mapping[str, str],
        description: str,
        advance: Callable[[int], None],
        check: Callable[[], None] = lambda: None,
        settle: Callable[[str], None] = lambda _snapshot: None,
    ) -> str:
        """Upload the image as the object `key`, import it, delete the object; the snapshot's id.

        token: identity of the import; an import under way of the same token is waited for. check:
        raises when the image is no longer what it was, before it is imported. settle: waits until
        the cloud has the snapshot.
        """
        client = self.site.s3()
        ec2 = self.site.ec2()
        self._upload(client, image, key, advance)
        check()
        # A token that a cloud has seen gives the same task for ever, dead or not.
        kept = KeptToken(self.site.word, f"import {token}", 0, None)
        request: dict[str, Any] = {
            "Description": description,
            "ClientToken": kept.value(),
            "DiskContainer": {
                "Description": description,
                "Format": "RAW",
                "UserBucket": {"S3Bucket": self.bucket, "S3Key": key},
            },
        }
        if self.role:
            request["RoleName"] = self.role
        with step(self.site.word, "import the snapshot of", f"{self.bucket}/{key}"):
            task = ec2.import_snapshot(**request)["ImportTaskId"]
        try:
            snapshot_id = self._wait(ec2, task, lambda: advance(0))
        except _DeadTaskError:
            kept.forget()
            raise
        with step(self.site.word, "tag the snapshot", snapshot_id):
            ec2.create_tags(
                Resources=[snapshot_id], Tags=[{"Key": k, "Value": v} for k, v in tags.items()]
            )
        with step(self.site.word, "delete", f"{self.bucket}/{key}"):
            client.delete_object(Bucket=self.bucket, Key=key)
        settle(snapshot_id)
        kept.forget()
        return snapshot_id

    def _upload(
        self, client: S3Client, image: Path, key: str, advance: Callable[[int], None]
    ) -> None:
        subject = f"{self.bucket}/{key}"
        with RawFile(image) as raw, step(self.site.word, "upload", subject):
            size = part_size(raw.size)
            upload_id, present = self._begin(client, key)
            parts: list[CompletedPartTypeDef] = []
            running: set[Future[int]] = set()
            pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="s3-part")

            def send(number: int) -> int:
                offset = (number - 1) * size
                data = raw.read(offset, min(size, raw.size - offset))
                digest = hashlib.md5(data, usedforsecurity=False).digest()
                etag = digest.hex()
                if present.get(number) != (len(data), etag):
                    answer = client.upload_part(
                        Bucket=self.bucket,
                        Key=key,
                        UploadId=upload_id,
                        PartNumber=number,
                        Body=data,
                        ContentMD5=base64.b64encode(digest).decode(),
                    )
                    etag = answer["ETag"].strip('"')
                parts.append({"PartNumber": number, "ETag": etag})
                return len(data)

            def collect(least: int) -> None:
                nonlocal running
                while len(running) > least:
                    finished, running = wait(running, 1.0, FIRST_COMPLETED)
                    advance(sum(future.result() for future in finished))

            try:
                for number in range(1, -(-raw.size // size) + 1):
                    running.add(pool.submit(send, number))
                    collect(UPLOADS)
                collect(0)
            finally:
                pool.shutdown(cancel_futures=True)
            client.complete_multipart_upload(
                Bucket=self.bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": sorted(parts, key=_number)},
            )

    def _begin(self, client: S3Client, key: str) -> tuple[str, dict[int, tuple[int, str]]]:
        """An upload to go on with and its parts, or a new one."""
        uploads = client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.bucket, Prefix=key
        )
        for page in uploads:
            for upload in page.get("Uploads", []):
                if upload["Key"] != key:
                    continue
                pages = client.get_paginator("list_parts").paginate(
                    Bucket=self.bucket, Key=key, UploadId=upload["UploadId"]
                )
                return upload["UploadId"], {
                    part["PartNumber"]: (part["Size"], part["ETag"].strip('"'))
                    for parts in pages
                    for part in parts.get("Parts", [])
                }
        return client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"], {}

    def _wait(self, ec2: EC2Client, task: str, heartbeat: Callable[[], None]) -> str:
        end, interval = time.monotonic() + _IMPORT_SECONDS, _FIRST_POLL
        detail: Mapping[str, Any] = {}
        kind: type[CloudError] = CloudError
        with step(self.site.word, "wait for the import", task):
            while time.monotonic() < end:
                answer = ec2.describe_import_snapshot_tasks(ImportTaskIds=[task])
                tasks = answer["ImportSnapshotTasks"]
                detail = tasks[0]["SnapshotTaskDetail"] if tasks else {}
                if detail.get("Status") == "completed":
                    return str(detail["SnapshotId"])
                if detail.get("Status") in ("deleting", "deleted"):
                    kind = _DeadTaskError
                    break
                pause(interval, heartbeat)
                interval = min(1.5 * interval, _LONGEST_POLL)
        raise kind(
            "import the snapshot",
            f"{task} on {self.site.word}",
            why=f"the task is {detail.get('Status', 'unknown')}: "
            f"{detail.get('StatusMessage', 'no message')}",
            next_step="Check that the import service may read the bucket (role vmimport)",
        )


class _DeadTaskError(CloudError):
    """The cloud gave the import up."""


def part_size(size: int) -> int:
    """Bytes of a part so that no upload has too many of them."""
    return max(_LEAST_PART, -(-size // _MOST_PARTS))


def _number(part: CompletedPartTypeDef) -> int:
    return part["PartNumber"]
