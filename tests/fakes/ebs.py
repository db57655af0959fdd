"""EBS direct APIs (2019-11-02): snapshots written block by block, every rule of the reference."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.protocol import Answer, Ids, Refused, Request

BLOCK = 524_288
_START = {
    "VolumeSize", "ParentSnapshotId", "Tags", "Description", "ClientToken", "Encrypted",
    "KmsKeyArn", "Timeout",
}  # fmt: skip
_PUT = re.compile(r"/snapshots/(snap-[0-9a-f]{17})/blocks/(\d+)")
_COMPLETE = re.compile(r"/snapshots/completion/(snap-[0-9a-f]{17})")
_LIST = re.compile(r"/snapshots/(snap-[0-9a-f]{17})/blocks")


@dataclass
class Snapshot:
    """A snapshot: its own blocks, over its parent's."""

    id: str
    volume_gib: int
    tags: dict[str, str]
    description: str = ""
    parent: Snapshot | None = None
    state: str = "pending"
    own: dict[int, bytes] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    refusals: int = 0

    def read(self) -> bytes:
        """The volume's bytes up to the last block that was ever written."""
        blocks = self.blocks()
        end = max(blocks, default=-1) + 1
        return b"".join(blocks.get(index, bytes(BLOCK)) for index in range(end))

    def blocks(self) -> dict[int, bytes]:
        """All blocks by index."""
        return {**(self.parent.blocks() if self.parent else {}), **self.own}


class EbsService:
    """All snapshots of the account. late: puts that find a new snapshot unknown at first."""

    def __init__(self) -> None:
        self.snapshots: dict[str, Snapshot] = {}
        self.late = 0
        self.ids = Ids()
        self._tokens: dict[str, tuple[Mapping[str, Any], str]] = {}

    def operation(self, request: Request) -> str:
        """The name of the API call."""
        if request.method == "POST" and request.path == "/snapshots":
            return "StartSnapshot"
        if request.method == "PUT" and _PUT.fullmatch(request.path):
            return "PutSnapshotBlock"
        if request.method == "POST" and _COMPLETE.fullmatch(request.path):
            return "CompleteSnapshot"
        if request.method == "GET" and _LIST.fullmatch(request.path):
            return "ListSnapshotBlocks"
        raise Refused(400, "ValidationException", f"{request.method} {request.path}")

    def answer(self, operation: str, request: Request) -> Answer:
        """Do it."""
        calls = {
            "StartSnapshot": self._start,
            "PutSnapshotBlock": self._put,
            "CompleteSnapshot": self._complete,
            "ListSnapshotBlocks": self._list,
        }
        return calls[operation](request)

    def _start(self, request: Request) -> Answer:
        wanted = json.loads(request.body)
        size = wanted.get("VolumeSize")
        _need(set(wanted) <= _START, f"unknown parameters {set(wanted) - _START}")
        _need(isinstance(size, int) and 1 <= size <= 65_536, f"VolumeSize is {size}")
        _need(10 <= wanted.get("Timeout", 60) <= 4320, "Timeout is out of range")
        _need(
            not ("ParentSnapshotId" in wanted and "Encrypted" in wanted),
            "ParentSnapshotId and Encrypted exclude each other",
        )
        token = wanted.pop("ClientToken", "")
        _need(re.fullmatch(r"[!-~]{1,255}", token) is not None, "ClientToken is missing")
        if token in self._tokens:
            before, snapshot_id = self._tokens[token]
            if before != wanted:
                raise Refused(409, "ConflictException", "the token was used otherwise before")
            snapshot = self.snapshots.get(snapshot_id) or Snapshot(snapshot_id, size, {})
            return self._described(snapshot, 201)
        parent = None
        if "ParentSnapshotId" in wanted:
            parent = self._find(wanted["ParentSnapshotId"])
            _need(parent.state == "completed", "the parent is not completed")
            _need(size >= parent.volume_gib, "the volume is smaller than its parent")
        tags = {tag["Key"]: tag["Value"] for tag in wanted.get("Tags", [])}
        _need(len(tags) == len(wanted.get("Tags", [])) <= 50, "tags are repeated or too many")
        snapshot = Snapshot(
            self.ids.next("snap"), size, tags, wanted.get("Description", ""), parent
        )
        snapshot.refusals = self.late
        self.snapshots[snapshot.id] = snapshot
        self._tokens[token] = (wanted, snapshot.id)
        return self._described(snapshot, 201)

    def _put(self, request: Request) -> Answer:
        snapshot_id, index = self._matched(_PUT, request)
        snapshot = self._find(snapshot_id)
        if snapshot.refusals > 0:
            snapshot.refusals -= 1
            raise Refused(404, "ResourceNotFoundException", "The snapshot does not exist.")
        headers = request.headers
        _need(snapshot.state == "pending", f"the snapshot is {snapshot.state}")
        _need(int(index) < snapshot.volume_gib * 2048, f"block {index} is beyond the volume")
        _need(headers.get("x-amz-data-length") == str(BLOCK), "DataLength is not 524288")
        _need(len(request.body) == BLOCK, f"the body has {len(request.body)} bytes")
        _need(headers.get("x-amz-checksum-algorithm") == "SHA256", "ChecksumAlgorithm")
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        _need(headers.get("x-amz-checksum") == digest, "the checksum is not the block's")
        snapshot.own[int(index)] = request.body
        return Answer(201, b"{}", {"x-amz-Checksum": digest, "x-amz-Checksum-Algorithm": "SHA256"})

    def _complete(self, request: Request) -> Answer:
        (snapshot_id,) = self._matched(_COMPLETE, request)
        snapshot = self._find(snapshot_id)
        headers = request.headers
        _need(snapshot.state == "pending", f"the snapshot is {snapshot.state}")
        _need(
            headers.get("x-amz-changedblockscount") == str(len(snapshot.own)),
            f"{len(snapshot.own)} blocks were written",
        )
        _need(headers.get("x-amz-checksum-algorithm") == "SHA256", "ChecksumAlgorithm")
        _need(headers.get("x-amz-checksum-aggregation-method") == "LINEAR", "aggregation method")
        digests = (hashlib.sha256(snapshot.own[index]).digest() for index in sorted(snapshot.own))
        whole = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()
        _need(headers.get("x-amz-checksum") == whole, "the aggregated checksum is wrong")
        snapshot.state = "completed"
        return Answer(202, b'{"Status": "completed"}', {"Content-Type": "application/json"})

    def _list(self, request: Request) -> Answer:
        (snapshot_id,) = self._matched(_LIST, request)
        snapshot = self._find(snapshot_id)
        _need(snapshot.state == "completed", "the snapshot is not completed")
        blocks = [{"BlockIndex": index, "BlockToken": "t"} for index in sorted(snapshot.blocks())]
        body = {"Blocks": blocks, "VolumeSize": snapshot.volume_gib, "BlockSize": BLOCK}
        return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _find(self, snapshot_id: str) -> Snapshot:
        try:
            return self.snapshots[snapshot_id]
        except KeyError:
            raise Refused(
                404, "ResourceNotFoundException", f"The snapshot {snapshot_id} does not exist."
            ) from None

    def _matched(self, pattern: re.Pattern[str], request: Request) -> tuple[str, ...]:
        match = pattern.fullmatch(request.path)
        assert match is not None
        return match.groups()

    def _described(self, snapshot: Snapshot, status: int) -> Answer:
        body = {
            "SnapshotId": snapshot.id,
            "Status": snapshot.state,
            "StartTime": snapshot.started,
            "VolumeSize": snapshot.volume_gib,
            "BlockSize": BLOCK,
        }
        return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(400, "ValidationException", message)
