"""Snapshots in the EC2 API: find our own, wait for them, delete them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.clouds.aws.images import pause
from pipeline.clouds.aws.session import Site, code_of, step
from pipeline.core.errors import CloudError

if TYPE_CHECKING:
    from types_boto3_ec2.client import EC2Client
    from types_boto3_ec2.type_defs import SnapshotTypeDef

# Seconds between looks: a snapshot of a few GiB is complete within seconds to minutes.
_FIRST_POLL, _LONGEST_POLL = 0.2, 5.0
_COMPLETE_SECONDS = 3600.0  # for any size: AWS copies what was put to its store first
_GONE = "InvalidSnapshot.NotFound"


@dataclass(frozen=True)
class Snapshot:
    """What DescribeSnapshots says of one of our snapshots."""

    id: str
    state: str
    volume_gib: int
    reason: str
    tags: Mapping[str, str]

    @classmethod
    def of(cls, entry: SnapshotTypeDef) -> Snapshot:
        """Read an entry of DescribeSnapshots."""
        return cls(
            id=entry["SnapshotId"],
            state=entry["State"],
            volume_gib=entry.get("VolumeSize", 0),
            reason=entry.get("StateMessage", ""),
            tags={tag["Key"]: tag["Value"] for tag in entry.get("Tags") or []},
        )


class Snapshots:
    """The account's own snapshots on one cloud."""

    def __init__(self, site: Site, *, region: str = "") -> None:
        self._word = site.word
        self._client: EC2Client = site.ec2(region=region)

    def tagged(self, tags: Mapping[str, str]) -> list[Snapshot]:
        """Those that carry all these tags."""
        filters: list[Any] = [{"Name": f"tag:{k}", "Values": [v]} for k, v in tags.items()]
        with step(self._word, "list the snapshots on", self._word):
            pages = self._client.get_paginator("describe_snapshots").paginate(
                OwnerIds=["self"], Filters=filters
            )
            return [Snapshot.of(entry) for page in pages for entry in page["Snapshots"]]

    def find(self, snapshot_id: str) -> Snapshot | None:
        """One by its id."""
        from botocore.exceptions import ClientError

        with step(self._word, "look at the snapshot", snapshot_id):
            try:
                entries = self._client.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"]
            except ClientError as error:
                if code_of(error) != _GONE:
                    raise
                return None
        return Snapshot.of(entries[0]) if entries else None

    def wait(self, snapshot_id: str, heartbeat: Callable[[], None]) -> None:
        """Return once the snapshot is completed; CloudError when it failed or took too long."""
        end, interval = time.monotonic() + _COMPLETE_SECONDS, _FIRST_POLL
        while True:
            snapshot = self.find(snapshot_id)
            if snapshot is not None and snapshot.state == "completed":
                return
            failed = snapshot is not None and snapshot.state == "error"
            if failed or time.monotonic() > end:
                why = f"it is {snapshot.state} {snapshot.reason}" if snapshot else "it is unknown"
                raise CloudError(
                    "wait for the snapshot",
                    f"{snapshot_id} on {self._word}",
                    why=why.strip(),
                    next_step="Try again: a new snapshot is made of a failed one",
                )
            pause(interval, heartbeat)
            interval = min(1.5 * interval, _LONGEST_POLL)

    def delete(self, snapshot_id: str) -> None:
        """Delete a snapshot; one that is gone already is no error."""
        from botocore.exceptions import ClientError

        with step(self._word, "delete the snapshot", snapshot_id):
            try:
                self._client.delete_snapshot(SnapshotId=snapshot_id)
            except ClientError as error:
                if code_of(error) != _GONE:
                    raise
