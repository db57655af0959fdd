"""EC2 with EBS-backed images: AWS, and clouds with the EBS direct API or ImportSnapshot.

A whole disk becomes a snapshot, the snapshot an image. Snapshots and images carry the marks as
tags; an image's name is made of its content, and EC2 lets one name exist once in an account.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.clouds.aws.ebs_direct import BlockIndex, DirectUpload, Parent, volume_gib
from pipeline.clouds.aws.ebs_import import ImportUpload
from pipeline.clouds.aws.images import (
    Images,
    RegisteredImage,
    UnavailableError,
    check_options,
    user_tags,
)
from pipeline.clouds.aws.objects import Bucket
from pipeline.clouds.aws.session import (
    Addressing,
    Site,
    check_credentials,
    code_of,
    explain,
    one_at_a_time,
    open_site,
    status_of,
)
from pipeline.clouds.aws.snapshots import Snapshots
from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.whole_disk import require_disk
from pipeline.core import identity
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import Progress
from pipeline.core.image import Image, Registration
from pipeline.core.text import human_bytes
from pipeline.disk.blocks.identify import disk_format

Method = Literal["auto", "direct", "import"]
BootMode = Literal["legacy-bios", "uefi", "uefi-preferred"]

ROLE = "disk"
_ROOT_DEVICE = "/dev/xvda"
_DIGITS = 32  # of the content key in names: "NAME-DIGEST" stays within EC2's 128 characters
_AVAILABLE_SECONDS = 900.0  # an image of a completed snapshot is available within a minute on AWS
_NO_SNAPSHOT = "snap-00000000000000000"
# Tag of the image: its own id, which a copy's is not, and its copies, "REGION:IMAGE", by spaces.
_COPIES = "image_pipeline_copies"


@dataclass(frozen=True)
class EbsCloud:
    """protocol.Cloud over EBS snapshots and RegisterImage; made by `open_ebs`.

    bucket: where disks lie while ImportSnapshot reads them; "" rules that method out.
    """

    name: str
    site: Site
    bucket: str = ""
    method: Method = "auto"
    boot_mode: BootMode = "uefi-preferred"
    role: str = ""

    def probe(self, images: Image, options: PublishOptions) -> None:
        """See protocol.Cloud. Asks whether an image may be registered, as a dry run."""
        check_options(options, self.name)
        disk = require_disk(images, self.name).path
        found = disk_format(disk)
        if found != "raw":
            raise InputError(
                f"publish on {self.name}",
                disk,
                why=f"it is {found}, and blocks are sent of a raw disk",
                next_step=f"Convert it: qemu-img convert -O raw {disk} {disk.with_suffix('.raw')}",
            )
        check_credentials(self.site)
        account = Images(self.site)
        account.own()
        account.try_register(self._request(images, options, "probe", _NO_SNAPSHOT, {}))
        self._chosen_method()

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        """See protocol.Cloud."""
        if found := self._find(Images(self.site).own(), images):
            return [f"nothing: {found.id} holds this build"]
        disk = require_disk(images, self.name).path
        gib, size = volume_gib(disk.stat().st_size), human_bytes(disk.stat().st_size)
        if self._chosen_method() == "direct":
            calls = [
                f"StartSnapshot VolumeSize={gib}",
                f"PutSnapshotBlock for each block of {disk.name}, {size}, that is not zeros or not"
                " in the parent snapshot",
                "CompleteSnapshot",
            ]
        else:
            calls = [
                f"UploadPart {self.bucket}/{self._stem(images)}.raw: {size}",
                "ImportSnapshot RAW",
            ]
        calls.append(f"RegisterImage Name={self._stem(images)} BootMode={self.boot_mode}")
        calls += [f"CopyImage to {region}" for region in options.regions]
        if options.visibility != "private":
            calls.append(f"ModifyImageAttribute LaunchPermission: {options.visibility}")
        return calls

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        """See protocol.Cloud. A snapshot that a run left unfinished or unused is adopted."""
        require_disk(images, self.name)
        account = Images(self.site)
        with one_at_a_time(f"the disk of {images.name} on {self.name}", progress):
            machine, created = self._find(account.own(), images), False
            if machine is None:
                machine, created = self._make(account, images, options, progress)
            account.share(machine.id, options)
            if options.protected:
                account.protect(machine.id)
            if tags := user_tags(options.tags):
                account.tag([machine.id, machine.snapshot_id], tags)
            self._copy(account, machine, options, progress)
        return self._registration(images.name, machine, created=created)

    def generations(self, name: str) -> list[Registration]:
        """See protocol.Cloud."""
        found = [
            self._registration(name, image)
            for image in Images(self.site).own()
            if image.tags.get(identity.MARK_NAME) == name
            and image.tags.get(identity.MARK_ROLE) == ROLE
            and _keeps_its_name(image)
            and image.state == "available"
        ]
        return sorted(found, key=lambda registration: registration.generation, reverse=True)

    def withdraw(self, registration: Registration) -> None:
        """See protocol.Cloud. Copies in other regions go first."""
        marks = {identity.MARK_NAME: registration.name, identity.MARK_KEY: registration.key}
        account, snapshots = Images(self.site), Snapshots(self.site)
        for image in account.own():
            if image.id != registration.machine_id:
                continue
            marked = registration.key and marks.items() <= image.tags.items()
            if not marked or not _keeps_its_name(image):
                raise CloudError(
                    "withdraw",
                    f"{image.id} on {self.name}",
                    why="its name and tags do not say that this pipeline made it",
                    next_step="Deregister it by hand if it is to go",
                )
            for region, copy in _copies(image).items():
                self._withdraw_copy(region, copy)
            account.deregister(image.id)
        snapshot = snapshots.find(registration.location)
        if snapshot is not None and marks.items() <= snapshot.tags.items():
            snapshots.delete(snapshot.id)
        BlockIndex(self.name, registration.location).forget()

    def _make(
        self, account: Images, images: Image, options: PublishOptions, progress: Progress
    ) -> tuple[RegisteredImage, bool]:
        generations = self.generations(images.name)
        generation = identity.next_generation(g.generation for g in generations)
        marks = {
            identity.MARK_NAME: images.name,
            identity.MARK_KEY: identity.content_key(images, whole_disk=True),
            identity.MARK_ROLE: ROLE,
            identity.MARK_GENERATION: generation,
            identity.MARK_VERIFIED: str(images.verified(whole_disk=True)).lower(),
        }
        snapshot_id = self._snapshot(images, marks, generations, progress)
        stem = self._stem(images)
        request = self._request(images, options, stem, snapshot_id, marks)

        def find() -> list[RegisteredImage]:
            image = self._find(account.own(), images, available=False)
            return [image] if image else []

        with progress.task(f"{self.name}: registering the image", unit="steps") as meter:
            image_id, created = account.register(stem, request, find, lambda: meter.advance(0))
            try:
                machine = account.wait(image_id, stem, _AVAILABLE_SECONDS, lambda: meter.advance(0))
            except UnavailableError:  # one that is on its way is taken up by the next run
                if created:
                    account.deregister(image_id)
                raise
        if machine.snapshot_id != snapshot_id:
            # Another host registered the same build meanwhile: its image stays.
            Snapshots(self.site).delete(snapshot_id)
        return machine, created

    def _snapshot(
        self,
        images: Image,
        marks: Mapping[str, str],
        generations: list[Registration],
        progress: Progress,
    ) -> str:
        """A completed snapshot of the disk: one that is there, or a new one."""
        disk = require_disk(images, self.name).path
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
                    self.name,
                    why=f"{disk} changed while it was sent",
                    next_step="Let nothing write to it, and run it again",
                )

        def settle(snapshot_id: str) -> None:
            with progress.task(f"{self.name}: waiting for {snapshot_id}", unit="steps") as meter:
                snapshots.wait(snapshot_id, lambda: meter.advance(0))

        token = f"{marks[identity.MARK_KEY]} {status.st_size} {status.st_mtime_ns}"
        description = f"{images.name}, content {marks[identity.MARK_KEY][:_DIGITS]}"
        # Tags that change between attempts would make a retried start another snapshot's.
        changing = (identity.MARK_GENERATION, identity.MARK_VERIFIED)
        tags = {k: v for k, v in marks.items() if k not in changing}
        with progress.task(f"{self.name}: uploading the disk", status.st_size) as meter:
            if self._chosen_method() == "direct":
                direct = DirectUpload(
                    self.site.ebs(), self.name, lambda s: snapshots.find(s) is not None
                )
                snapshot_id = direct.run(
                    disk,
                    token=token,
                    tags=tags,
                    description=description,
                    parent=self._parent(snapshots, generations),
                    check=check,
                    settle=settle,
                    advance=meter.advance,
                )
            else:
                Bucket(self.site.s3(), self.bucket, self.name).ensure()
                snapshot_id = ImportUpload(self.site, self.bucket, self.role).run(
                    disk,
                    key=f"{self._stem(images)}.raw",
                    token=token,
                    tags=tags,
                    description=description,
                    check=check,
                    settle=settle,
                    advance=meter.advance,
                )
        return snapshot_id

    def _parent(self, snapshots: Snapshots, generations: list[Registration]) -> Parent | None:
        """The newest generation's snapshot whose content this host knows."""
        for generation in generations:
            digests = BlockIndex(self.name, generation.location).content()
            if digests is None:
                continue
            snapshot = snapshots.find(generation.location)
            if snapshot is not None and snapshot.state == "completed":
                return Parent(snapshot.id, snapshot.volume_gib, digests)
        return None

    def _request(
        self,
        images: Image,
        options: PublishOptions,
        name: str,
        snapshot_id: str,
        marks: Mapping[str, str],
    ) -> dict[str, Any]:
        """RegisterImage's parameters.

        Architecture and VirtualizationType must be said: they default to i386 and paravirtual.
        ImdsSupport must not: with v2.0 a guest that asks the metadata service the old way would
        not get its SSH key.
        """
        volume: dict[str, Any] = {"SnapshotId": snapshot_id, "DeleteOnTermination": True}
        if options.min_disk_gib:
            volume["VolumeSize"] = options.min_disk_gib
        request: dict[str, Any] = {
            "Name": name,
            "Description": f"{images.name}, kernel {images.kernel_version}"[:255],
            "Architecture": images.architecture,
            "VirtualizationType": "hvm",
            "BootMode": self.boot_mode,
            "EnaSupport": True,
            "RootDeviceName": _ROOT_DEVICE,
            "BlockDeviceMappings": [{"DeviceName": _ROOT_DEVICE, "Ebs": volume}],
        }
        if marks:
            tags = [{"Key": k, "Value": v} for k, v in marks.items()]
            request["TagSpecifications"] = [{"ResourceType": "image", "Tags": tags}]
        return request

    def _copy(
        self, account: Images, machine: RegisteredImage, options: PublishOptions, progress: Progress
    ) -> None:
        """Copy the image to further regions; a copy that is there is kept, and shared likewise."""
        copies = _copies(machine)
        for region in options.regions:
            if region == account.region:
                continue
            there = Images(self.site, region=region)
            before = copies.get(region, "")
            kept = any(image.id == before and not image.failed for image in there.own())
            label = f"{self.name}: copying to {region}"
            with progress.task(label, unit="steps") as meter:
                if not kept:
                    copies[region] = there.copy(machine, account.region, instead=before)
                    # Recorded before it is done: an interrupted run must not lose it.
                    places = [f"{r}:{i}" for r, i in sorted(copies.items())]
                    account.tag([machine.id], {_COPIES: " ".join([machine.id, *places])})
                there.wait(copies[region], label, _AVAILABLE_SECONDS, lambda: meter.advance(0))
                there.share(copies[region], options)

    def _withdraw_copy(self, region: str, image_id: str) -> None:
        there = Images(self.site, region=region)
        for image in there.own():
            if image.id == image_id:
                there.deregister(image.id)
                if image.snapshot_id:
                    Snapshots(self.site, region=region).delete(image.snapshot_id)

    def _chosen_method(self) -> Literal["direct", "import"]:
        """The method to use: EBS direct where it answers."""
        if self.method != "auto":
            return self.method
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.site.ebs().list_snapshot_blocks(SnapshotId=_NO_SNAPSHOT)
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
            self.name,
            why=f"it has no EBS direct API ({explain(missing)[0]}) and no bucket is named for"
            " ImportSnapshot",
            next_step="Set image_pipeline_bucket in the AWS profile, or EC2_BUCKET",
        ) from missing

    def _find(
        self, own: list[RegisteredImage], images: Image, *, available: bool = True
    ) -> RegisteredImage | None:
        marks = {
            identity.MARK_NAME: images.name,
            identity.MARK_KEY: identity.content_key(images, whole_disk=True),
        }
        for image in own:
            ready = image.state == "available" or not (available or image.failed)
            if ready and marks.items() <= image.tags.items() and _keeps_its_name(image):
                return image
        return None

    def _stem(self, images: Image) -> str:
        return _image_name(images.name, identity.content_key(images, whole_disk=True))

    def _registration(
        self, name: str, image: RegisteredImage, *, created: bool = False
    ) -> Registration:
        return Registration(
            cloud=self.name,
            name=name,
            kernel_id="",
            ramdisk_id="",
            machine_id=image.id,
            created=created,
            generation=image.tags.get(identity.MARK_GENERATION, ""),
            key=image.tags.get(identity.MARK_KEY, ""),
            location=image.snapshot_id,
        )


def _image_name(name: str, key: str) -> str:
    return f"{name}-{key[:_DIGITS]}"


def _keeps_its_name(image: RegisteredImage) -> bool:
    """Whether a marked image has the name it was given: a copy within the account has another.

    CopyImage takes tags along when asked to (CopyImageTags).
    """
    marks = (image.tags.get(mark, "") for mark in (identity.MARK_NAME, identity.MARK_KEY))
    return image.name == _image_name(*marks)


def _copies(image: RegisteredImage) -> dict[str, str]:
    """Region -> id of the image's copies, as its tag says."""
    owner, *places = image.tags.get(_COPIES, "").split() or [""]
    return dict(place.split(":", 1) for place in places) if owner == image.id else {}


def open_ebs(
    profile: str,
    *,
    bucket: str = "",
    method: Method = "auto",
    boot_mode: BootMode = "uefi-preferred",
    region: str = "",
    addressing: Addressing = "auto",
) -> EbsCloud:
    """The EBS-backed cloud of an AWS profile; docs/how-to/clouds-ec2.md lists the settings.

    bucket is needed for ImportSnapshot alone. No request is sent.
    """
    word = f"ebs:{profile}" if profile else "ebs"
    site = open_site(word, profile, region=region, addressing=addressing)
    return EbsCloud(
        name=word,
        site=site,
        bucket=bucket or site.settings.get("bucket") or os.environ.get("EC2_BUCKET", ""),
        method=method,
        boot_mode=boot_mode,
        role=site.settings.get("import_role", ""),
    )
