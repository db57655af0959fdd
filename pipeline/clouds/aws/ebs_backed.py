"""EC2 with EBS-backed images: AWS, and clouds with the EBS direct API or ImportSnapshot.

A whole disk becomes a snapshot, the snapshot an image. Snapshots and images carry the marks as
tags; an image's name is made of its content, and EC2 lets one name exist once in an account.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.clouds.aws.ebs_copies import AVAILABLE_SECONDS, copies, copy_to_regions, withdraw_copy
from pipeline.clouds.aws.ebs_direct import volume_gib
from pipeline.clouds.aws.ebs_disk import NO_SNAPSHOT, DiskSnapshots, Method
from pipeline.clouds.aws.ebs_index import BlockIndex
from pipeline.clouds.aws.images import (
    Images,
    RegisteredImage,
    UnavailableError,
    check_options,
    permission_words,
    user_tags,
)
from pipeline.clouds.aws.instance_types import check_drivers, has_driver
from pipeline.clouds.aws.objects import Bucket
from pipeline.clouds.aws.session import (
    CHECK_SECONDS,
    Addressing,
    Site,
    check_credentials,
    check_ec2,
    is_aws,
    one_at_a_time,
    open_site,
)
from pipeline.clouds.aws.snapshots import Snapshots
from pipeline.clouds.aws.usage import require_unused
from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.whole_disk import require_disk
from pipeline.core import identity
from pipeline.core.architecture import known, words
from pipeline.core.checks import FIRMWARES
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import Progress
from pipeline.core.image import Image, Registration
from pipeline.core.text import human_bytes
from pipeline.disk.blocks.identify import disk_format

BootMode = Literal["legacy-bios", "uefi", "uefi-preferred"]

ROLE = "disk"
_ROOT_DEVICE = "/dev/xvda"
_DIGITS = 32  # of the content key in names: "NAME-DIGEST" stays within EC2's 128 characters
_ACCOUNT = re.compile(r"\d{12}")  # of AWS


@dataclass(frozen=True)
class EbsCloud:
    """protocol.Cloud over EBS snapshots and RegisterImage; made by `open_ebs`.

    bucket: where disks lie while ImportSnapshot reads them; "" rules that method out. holes:
    send a disk's holes, too, where the snapshot is encrypted.
    """

    name: str
    site: Site
    bucket: str = ""
    method: Method = "auto"
    boot_mode: BootMode = "uefi-preferred"
    role: str = ""
    holes: bool = False

    @property
    def snapshots(self) -> DiskSnapshots:
        """How disks become snapshots there."""
        return DiskSnapshots(self.site, self.bucket, self.method, self.role, self.holes)

    def check(self) -> str:
        """See protocol.Cloud: EC2, and EBS direct or the bucket that imports read."""
        cloud = replace(self, site=replace(self.site, read_seconds=CHECK_SECONDS))
        ec2 = check_ec2(cloud.site)
        if cloud.snapshots.chosen_method() == "direct":
            return f"credentials work at {ec2}; snapshots by EBS direct"
        there = Bucket(cloud.site.s3(retry=False), self.bucket, self.name).check()
        state = "is there" if there else "is made by the first upload"
        return (
            f"credentials work at {ec2}; snapshots are imported; the bucket {self.bucket} {state}"
        )

    def probe(self, images: Image, options: PublishOptions) -> None:
        """See protocol.Cloud. Asks whether an image may be registered, as a dry run."""
        check_options(options, self.name)
        disk = require_disk(images, self.name).path
        check_drivers(images, self.name)
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
        strange = [member for member in options.members if not _ACCOUNT.fullmatch(member)]
        if strange and is_aws(account.endpoint):
            raise InputError(
                f"share {images.name} on {self.name} with",
                ", ".join(strange),
                why="an account of AWS is a number of twelve digits",
                next_step="Give the account's number",
            )
        account.own()
        account.try_register(self._request(images, options, "probe", NO_SNAPSHOT, {}))
        self.snapshots.chosen_method()

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        """See protocol.Cloud."""
        account = Images(self.site)
        if found := self._find(account.own(), images):
            calls = self._updates(account, found, images, options)
            return calls or [f"nothing: {found.id} holds this build"]
        disk = require_disk(images, self.name).path
        gib, size = volume_gib(disk.stat().st_size), human_bytes(disk.stat().st_size)
        if self.snapshots.chosen_method() == "direct":
            wanted = "that is not zeros or not in the parent snapshot"
            if self.snapshots.encrypts():
                wanted = "zeros, too, as the account encrypts by default"
                wanted += "" if self.holes else "; holes are left out"
            calls = [
                f"StartSnapshot VolumeSize={gib}",
                f"PutSnapshotBlock for each block of {disk.name}, {size}, {wanted}",
                "CompleteSnapshot",
            ]
        else:
            calls = [
                f"UploadPart {self.bucket}/{self._stem(images)}.raw: {size}",
                "ImportSnapshot RAW",
            ]
        calls.append(
            f"RegisterImage Name={self._stem(images)} BootMode={self._boot_mode(images)}"
            f" EnaSupport={str(has_driver(images, 'ena')).lower()}"
        )
        calls += [f"CopyImage to {region}" for region in options.regions]
        if options.visibility not in (None, "private"):
            calls.append(f"ModifyImageAttribute LaunchPermission: {options.visibility}")
        if options.protected:
            calls.append("EnableImageDeregistrationProtection")
        return calls

    def _updates(
        self, account: Images, machine: RegisteredImage, images: Image, options: PublishOptions
    ) -> list[str]:
        """The calls that bring an image that is there up to date."""
        calls = []
        if words := permission_words(account.permissions(machine.id, options)):
            calls.append(f"ModifyImageAttribute {machine.id}: {words}")
        if options.protected is not None:
            verb = "Enable" if options.protected else "Disable"
            calls.append(f"{verb}ImageDeregistrationProtection {machine.id}")
        if tags := self._changed_tags(machine, images, options):
            words = ", ".join(f"{key}={value}" for key, value in tags.items())
            calls.append(f"CreateTags {machine.id} {machine.snapshot_id}: {words}")
        known = copies(machine)
        calls += [f"CopyImage to {r}" for r in options.regions if r not in (account.region, *known)]
        return calls

    def _changed_tags(
        self, machine: RegisteredImage, images: Image, options: PublishOptions
    ) -> dict[str, str]:
        """The user's tags and the verdict, as far as the image does not say so."""
        wanted = user_tags(options.tags)
        wanted[identity.MARK_VERIFIED] = str(images.verified(whole_disk=True)).lower()
        return {key: value for key, value in wanted.items() if machine.tags.get(key) != value}

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        """See protocol.Cloud. A snapshot that a run left unfinished or unused is adopted."""
        require_disk(images, self.name)
        for warning in check_drivers(images, self.name):
            progress.warn(f"{self.name}: {warning}")
        account = Images(self.site)
        with one_at_a_time(f"the disk of {images.name} on {self.name}", progress):
            machine, created = self._find(account.own(), images), False
            if machine is None:
                machine, created = self._make(account, images, options, progress)
            else:
                for change in self._updates(account, machine, images, options):
                    progress.say(f"{self.name}: {change}")
            account.share(machine.id, options)
            if options.protected is not None:
                account.protect(machine.id, options.protected)
            if tags := self._changed_tags(machine, images, options):
                account.tag([machine.id, machine.snapshot_id], tags)
            copy_to_regions(self.site, account, machine, options, progress)
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
            require_unused(self.site, image.id)
            for region, copy in copies(image).items():
                require_unused(self.site, copy, region=region)
            for region, copy in copies(image).items():
                withdraw_copy(self.site, region, copy)
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
            identity.MARK_STATE: identity.WHOLE,
        }
        stem = self._stem(images)
        snapshot_id = self.snapshots.make(images, stem, marks, generations, progress)
        request = self._request(images, options, stem, snapshot_id, marks)

        def find() -> list[RegisteredImage]:
            image = self._find(account.own(), images, available=False)
            return [image] if image else []

        with progress.task(f"{self.name}: registering the image", unit="steps") as meter:
            image_id, created = account.register(stem, request, find, lambda: meter.advance(0))
            try:
                machine = account.wait(image_id, stem, AVAILABLE_SECONDS, lambda: meter.advance(0))
            except UnavailableError:  # one that is on its way is taken up by the next run
                if created:
                    account.deregister(image_id)
                raise
        if machine.snapshot_id != snapshot_id:
            # Another host registered the same build meanwhile: its image stays.
            Snapshots(self.site).delete(snapshot_id)
        return machine, created

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
        EnaSupport is claimed of a guest that has the driver, or whose drivers nobody wrote down.
        ImdsSupport must not: with v2.0 a guest that asks the metadata service the old way would
        not get its SSH key.
        """
        volume: dict[str, Any] = {"SnapshotId": snapshot_id, "DeleteOnTermination": True}
        if options.min_disk_gib:
            volume["VolumeSize"] = options.min_disk_gib
        request: dict[str, Any] = {
            "Name": name,
            "Description": f"{images.name}, kernel {images.kernel_version}"[:255],
            "Architecture": words(images.architecture).ec2,
            "VirtualizationType": "hvm",
            "BootMode": self._boot_mode(images),
            "EnaSupport": has_driver(images, "ena"),
            "RootDeviceName": _ROOT_DEVICE,
            "BlockDeviceMappings": [{"DeviceName": _ROOT_DEVICE, "Ebs": volume}],
        }
        if marks:
            tags = [{"Key": k, "Value": v} for k, v in marks.items()]
            request["TagSpecifications"] = [{"ResourceType": "image", "Tags": tags}]
        return request

    def _boot_mode(self, images: Image) -> BootMode:
        """UEFI alone for an architecture whose machines have nothing else."""
        return "uefi" if FIRMWARES[known(images.architecture)] == ("uefi",) else self.boot_mode

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
        holes=_holes(site),
    )


def _holes(site: Site) -> bool:
    word = site.settings.get("holes", "skip")
    if word not in ("skip", "send"):
        raise InputError(
            "use image_pipeline_holes of",
            site.word,
            why=f"it is {word}",
            next_step="Write skip, or send for a disk whose holes must read as zeros",
        )
    return word == "send"
