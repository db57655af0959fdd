"""A whole disk as a completed snapshot: one that is there, or one that is made now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.clouds.aws.ebs_direct import DirectUpload
from pipeline.clouds.aws.ebs_import import ImportUpload
from pipeline.clouds.aws.ebs_index import BlockIndex, Parent
from pipeline.clouds.aws.objects import Bucket
from pipeline.clouds.aws.session import Site, code_of, explain, status_of, step
from pipeline.clouds.aws.snapshots import Snapshots
from pipeline.clouds.whole_disk import require_disk
from pipeline.core import identity
from pipeline.core.errors import CloudError
from pipeline.core.events import Progress
from pipeline.core.image import Image, Registration

Method = Literal["auto", "direct", "import"]

NO_SNAPSHOT = "snap-00000000000000000"
"""An id that no snapshot has, for questions whose answer tells rights and features."""
_DIGITS = 32  # of the content key in descriptions
_CHANGING = (identity.MARK_GENERATION, identity.MARK_VERIFIED, identity.MARK_STATE)


@dataclass(frozen=True)
class DiskSnapshots:
    """Makes snapshots of disks; fields as in `EbsCloud`."""

    site: Site
    bucket: str
    method: Method
    role: str
    holes: bool

    def make(
        self,
        images: Image,
        stem: str,
        marks: Mapping[str, str],
        generations: list[Registration],
        progress: Progress,
    ) -> str:
        """A completed snapshot of the disk: one that is there, or a new one."""
        disk = require_disk(images, self.site.word).path
        snapshots = Snapshots(self.site)
        key = {name: marks[name] for name in (identity.MARK_NAME, identity.MARK_KEY)}
        done = [s for s in snapshots.tagged(key) if s.state == "completed"]
        if done:
            return done[0].id
        status = disk.stat()

        def check() -> None:
            now = disk.stat()
            if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                raise CloudError(
                    f"publish {images.name} on",
                    self.site.word,
                    why=f"{disk} changed while it was sent",
                    next_step="Let nothing write to it, and run it again",
                )

        def settle(snapshot_id: str) -> None:
            with progress.task(
                f"{self.site.word}: waiting for {snapshot_id}", unit="steps"
            ) as meter:
                snapshots.wait(snapshot_id, lambda: meter.advance(0))

        common: dict[str, Any] = {
            "token": f"{marks[identity.MARK_KEY]} {status.st_size} {status.st_mtime_ns}",
            # Tags that change between attempts would make a retried start another snapshot's.
            "tags": {k: v for k, v in marks.items() if k not in _CHANGING},
            "description": f"{images.name}, content {marks[identity.MARK_KEY][:_DIGITS]}",
            "check": check,
            "settle": settle,
        }
        with progress.task(f"{self.site.word}: uploading the disk", status.st_size) as meter:
            common["advance"] = meter.advance
            if self.chosen_method() == "import":
                Bucket(self.site.s3(), self.bucket, self.site.word).ensure()
                upload = ImportUpload(self.site, self.bucket, self.role)
                return upload.run(disk, key=f"{stem}.raw", **common)
            direct = DirectUpload(
                self.site.ebs(),
                self.site.word,
                lambda s: snapshots.find(s) is not None,
                encrypts=self.encrypts(),
                holes=self.holes,
                say=progress.say,
            )
            return direct.run(disk, parent=self._parent(snapshots, generations), **common)

    def _parent(self, snapshots: Snapshots, generations: list[Registration]) -> Parent | None:
        """The newest generation's snapshot whose content this host knows."""
        for generation in generations:
            digests = BlockIndex(self.site.word, generation.location).content()
            if digests is None:
                continue
            snapshot = snapshots.find(generation.location)
            usable = snapshot is not None and snapshot.state == "completed"
            # A snapshot is encrypted as its parent is, and an account that encrypts by default
            # takes no other.
            if snapshot is not None and usable and (snapshot.encrypted or not self.encrypts()):
                return Parent(snapshot.id, snapshot.volume_gib, digests)
        return None

    def encrypts(self) -> bool:
        """Whether the account encrypts snapshots by default, as far as this user may know."""
        from botocore.exceptions import ClientError

        with step(self.site.word, "ask for the account's encryption on", self.site.word):
            try:
                client = self.site.ec2()
                return client.get_ebs_encryption_by_default()["EbsEncryptionByDefault"]
            except ClientError:
                return False  # the start of a snapshot tells it, too

    def chosen_method(self) -> Literal["direct", "import"]:
        """The method to use: EBS direct where it answers."""
        if self.method != "auto":
            return self.method
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.site.ebs().list_snapshot_blocks(SnapshotId=NO_SNAPSHOT)
        except ClientError as error:
            known = code_of(error) in ("ResourceNotFoundException", "ValidationException")
            # Forbidden or broken is there as well: its own calls will say what is wrong.
            if known or status_of(error) in (403, 500, 503):
                return "direct"
            missing: Exception = error
        except BotoCoreError as error:
            missing = error
        else:
            return "direct"
        if self.bucket:
            return "import"
        raise CloudError(
            "make snapshots on",
            self.site.word,
            why=f"it has no EBS direct API ({explain(missing)[0]}) and no bucket is named for"
            " ImportSnapshot",
            next_step="Set image_pipeline_bucket in the AWS profile, or EC2_BUCKET",
        ) from missing
