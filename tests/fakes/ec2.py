"""EC2 (2016-11-15): images, snapshots and tags, as strict as the reference and stricter.

Stricter: RegisterImage of a snapshot must name what would otherwise default to a 32-bit
paravirtual image, and S3-backed images are decoded with every check of the format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from tests.fakes.bundles import BadBundleError, Opened, open_bundle
from tests.fakes.ebs import BLOCK, EbsService, Snapshot
from tests.fakes.protocol import Answer, Refused, Request
from tests.fakes.query import operation_model, parameters, result
from tests.fakes.s3 import S3Service

_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")
_BOOT_MODES = ("legacy-bios", "uefi", "uefi-preferred")
_KINDS = {"aki": "kernel", "ari": "ramdisk", "ami": "machine"}


@dataclass
class Image:
    """A registered image. looks: DescribeImages calls until it leaves pending."""

    id: str
    request: dict[str, Any]
    region: str
    kind: str = "machine"
    state: str = "pending"
    final: str = "available"
    reason: str = ""
    looks: int = 1
    data: bytes | None = None
    kernel_id: str = ""
    ramdisk_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    permissions: list[dict[str, str]] = field(default_factory=list)
    protected: bool = False


@dataclass
class Task:
    """An ImportSnapshot task."""

    snapshot_id: str
    looks: int = 1
    status: str = "active"
    message: str = ""


class Ec2Service:
    """All images of the account, in all regions. unique_names: whether a name exists once."""

    def __init__(
        self,
        s3: S3Service,
        ebs: EbsService,
        cloud_key: RSAPrivateKey | None,
        user_key: RSAPublicKey | None,
    ) -> None:
        self.images: dict[str, Image] = {}
        self.tasks: dict[str, Task] = {}
        self.unique_names = True
        self.tagging = True
        self.forbidden: set[str] = set()
        self._s3, self._ebs = s3, ebs
        self._cloud_key, self._user_key = cloud_key, user_key
        self._tokens: dict[str, tuple[dict[str, Any], str]] = {}

    def operation(self, request: Request) -> str:
        """The name of the API call."""
        return dict(parse_qsl(request.body.decode())).get("Action", "")

    def answer(self, operation: str, request: Request) -> Answer:
        """Do it."""
        model = operation_model(operation)
        given = parameters(model, dict(parse_qsl(request.body.decode(), keep_blank_values=True)))
        call: Callable[..., dict[str, Any]] | None = getattr(self, f"_{operation}", None)
        if call is None:
            raise Refused(400, "UnsupportedOperation", f"{operation} is not supported here")
        if operation in self.forbidden:
            raise Refused(403, "UnauthorizedOperation", "You are not authorized.")
        if given.pop("DryRun", False):
            raise Refused(412, "DryRunOperation", "Request would have succeeded, but DryRun is set")
        values = call(given, request.region)
        return Answer(200, result(model, values), {"Content-Type": "text/xml"})

    def _RegisterImage(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        name = given.get("Name", "")
        if not _NAME.fullmatch(name) or len(given.get("Description", "")) > 255:
            raise Refused(400, "InvalidParameterValue", "Name or Description")
        if self.unique_names and any(
            i.request["Name"] == name and i.region == region for i in self.images.values()
        ):
            raise Refused(400, "InvalidAMIName.Duplicate", f"AMI name {name} is already in use")
        if ("ImageLocation" in given) == ("BlockDeviceMappings" in given):
            raise Refused(
                400, "InvalidParameterCombination", "one of ImageLocation and BlockDeviceMappings"
            )
        if "ImageLocation" in given:
            image = self._from_bundle(given, region)
        else:
            image = self._from_snapshot(given, region)
        self.images[image.id] = image
        for entry in given.get("TagSpecifications", []):
            if entry.get("ResourceType") != "image":
                raise Refused(400, "InvalidParameterValue", "TagSpecifications")
            image.tags |= {tag["Key"]: tag["Value"] for tag in entry["Tags"]}
        return {"ImageId": image.id}

    def _from_bundle(self, given: dict[str, Any], region: str) -> Image:
        bucket, _, key = given["ImageLocation"].partition("/")
        objects = self._s3.buckets.get(bucket, {})
        if key not in objects:
            raise Refused(400, "InvalidManifest", f"HTTP 404 for {given['ImageLocation']}")
        if self._cloud_key is None or self._user_key is None:
            raise Refused(400, "UnsupportedOperation", "this cloud takes no S3-backed images")

        def fetch(name: str) -> bytes:
            if name not in objects:
                raise BadBundleError(f"there is no part {name} at the bucket's root")
            if self._s3.acls and objects[name].acl != "aws-exec-read":
                raise BadBundleError(f"the part {name} may not be read")
            return objects[name].data

        try:
            opened = open_bundle(objects[key].data, fetch, self._cloud_key, self._user_key)
            kind = self._kind(opened)
        except (BadBundleError, ValueError) as error:
            prefix = "ami"
            image = Image(self._ebs.ids.next(prefix), given, region, final="failed")
            image.reason = str(error)
            return image
        prefix = {kind: prefix for prefix, kind in _KINDS.items()}[kind]
        return Image(
            self._ebs.ids.next(prefix),
            given,
            region,
            kind,
            data=opened.data,
            kernel_id=opened.kernel_id if kind == "machine" else "",
            ramdisk_id=opened.ramdisk_id if kind == "machine" else "",
        )

    def _kind(self, opened: Opened) -> str:
        marked = {"kernel_id": opened.kernel_id, "ramdisk_id": opened.ramdisk_id}
        for role in ("kernel", "ramdisk"):
            if (opened.kind == role) != (marked[f"{role}_id"] == "true"):
                raise BadBundleError(f"the type is {opened.kind} and the marks are {marked}")
        if opened.kind == "machine":
            for name, image_id in marked.items():
                linked = self.images.get(image_id)
                if linked is None or f"{linked.kind}_id" != name or linked.state != "available":
                    raise BadBundleError(f"{name} is {image_id!r}")
        # OpenStack's ec2-api makes it a property of the image, and Nova knows no arm64.
        if opened.architecture not in ("i386", "x86_64", "aarch64"):
            raise BadBundleError(f"architecture {opened.architecture}")
        return opened.kind

    def _from_snapshot(self, given: dict[str, Any], region: str) -> Image:
        for name, right in (
            ("Architecture", ("x86_64", "arm64")),
            ("VirtualizationType", ("hvm",)),
            ("BootMode", _BOOT_MODES),
            ("EnaSupport", (True,)),
        ):
            if given.get(name) not in right:
                raise Refused(400, "InvalidParameterValue", f"{name} is {given.get(name)}")
        if given["Architecture"] == "arm64" and given["BootMode"] != "uefi":
            raise Refused(400, "InvalidParameterValue", "arm64 starts by UEFI alone")
        devices = {m.get("DeviceName"): m.get("Ebs", {}) for m in given["BlockDeviceMappings"]}
        root = devices.get(given.get("RootDeviceName"))
        if root is None or "SnapshotId" not in root:
            raise Refused(400, "InvalidBlockDeviceMapping", "the root device has no snapshot")
        snapshot = self._snapshot(root["SnapshotId"])
        if snapshot.state != "completed":
            raise Refused(400, "InvalidSnapshot.InUse", f"{snapshot.id} is {snapshot.state}")
        if root.get("VolumeSize", snapshot.volume_gib) < snapshot.volume_gib:
            raise Refused(400, "InvalidBlockDeviceMapping", "smaller than the snapshot")
        return Image(self._ebs.ids.next("ami"), given, region, data=snapshot.read())

    def _DescribeImages(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        if given.get("Owners", ["self"]) != ["self"]:
            raise Refused(400, "InvalidUserID.Malformed", str(given["Owners"]))
        images = [i for i in self.images.values() if i.region == region]
        if wanted := given.get("ImageIds"):
            images = [self._image(image_id, region) for image_id in wanted]
        for image in images:
            if image.state == "pending":
                image.looks -= 1
                if image.looks < 0:
                    image.state = image.final
        return {"Images": [self._described(image) for image in images]}

    def _described(self, image: Image) -> dict[str, Any]:
        request = image.request
        location = request.get("ImageLocation", f"000000000000/{request['Name']}")
        return {
            "ImageId": image.id,
            "ImageLocation": location,
            "State": image.state,
            "Name": request["Name"],
            "ImageType": image.kind,
            "KernelId": image.kernel_id or None,
            "RamdiskId": image.ramdisk_id or None,
            "BlockDeviceMappings": request.get("BlockDeviceMappings", []),
            "StateReason": {"Code": "x", "Message": image.reason} if image.reason else None,
            "Tags": [{"Key": k, "Value": v} for k, v in image.tags.items()],
        }

    def _DeregisterImage(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        image = self._image(given["ImageId"], region)
        if image.protected:
            raise Refused(400, "OperationNotPermitted", "the image is protected")
        del self.images[image.id]
        return {}

    def _CreateTags(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        if not self.tagging:
            raise Refused(400, "UnsupportedOperation", "there are no tags")
        for resource in given["Resources"]:
            thing = self.images.get(resource) or self._snapshot(resource)
            thing.tags |= {tag["Key"]: tag["Value"] for tag in given["Tags"]}
        return {}

    def _DescribeImageAttribute(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        image = self._image(given["ImageId"], region)
        if given["Attribute"] != "launchPermission":
            raise Refused(400, "InvalidParameterValue", given["Attribute"])
        return {"ImageId": image.id, "LaunchPermissions": image.permissions}

    def _ModifyImageAttribute(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        image = self._image(given["ImageId"], region)
        changes = given.get("LaunchPermission", {})
        for entry in changes.get("Add", []):
            account = entry.get("UserId", "0" * 12)
            if not re.fullmatch(r"\d{12}", account) or entry.get("Group", "all") != "all":
                raise Refused(400, "InvalidParameterValue", str(entry))
        kept = [e for e in image.permissions if e not in changes.get("Remove", [])]
        image.permissions = kept + changes.get("Add", [])
        return {}

    def _EnableImageDeregistrationProtection(
        self, given: dict[str, Any], region: str
    ) -> dict[str, Any]:
        self._image(given["ImageId"], region).protected = True
        return {"Return": "enabled"}

    def _DisableImageDeregistrationProtection(
        self, given: dict[str, Any], region: str
    ) -> dict[str, Any]:
        self._image(given["ImageId"], region).protected = False
        return {"Return": "disabled"}

    def _GetEbsEncryptionByDefault(self, _given: dict[str, Any], _region: str) -> dict[str, Any]:
        return {"EbsEncryptionByDefault": self._ebs.encrypts}

    def _CopyImage(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        token = given.get("ClientToken", "")
        if token in self._tokens:
            return {"ImageId": self._tokens[token][1]}
        source = self._image(given["SourceImageId"], given["SourceRegion"])
        request = source.request | {"Name": given["Name"]}
        if "BlockDeviceMappings" in request:  # the copy has snapshots of its own
            request["BlockDeviceMappings"] = [
                mapping | {"Ebs": mapping["Ebs"] | {"SnapshotId": self._copied(mapping["Ebs"])}}
                for mapping in request["BlockDeviceMappings"]
            ]
        copy = Image(
            self._ebs.ids.next("ami"),
            request,
            region,
            data=source.data,
            tags=dict(source.tags) if given.get("CopyImageTags") else {},
        )
        self.images[copy.id] = copy
        self._tokens[token] = (given, copy.id)
        return {"ImageId": copy.id}

    def _copied(self, volume: dict[str, Any]) -> str:
        source = self._snapshot(volume["SnapshotId"])
        copy = replace(source, id=self._ebs.ids.next("snap"), tags={}, own=dict(source.own))
        self._ebs.snapshots[copy.id] = copy
        return copy.id

    def _DescribeSnapshots(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        snapshots = list(self._ebs.snapshots.values())
        if wanted := given.get("SnapshotIds"):
            snapshots = [self._snapshot(snapshot_id) for snapshot_id in wanted]
        for entry in given.get("Filters", []):
            key = entry["Name"].removeprefix("tag:")
            snapshots = [s for s in snapshots if s.tags.get(key) in entry["Values"]]
        return {
            "Snapshots": [
                {
                    "SnapshotId": s.id,
                    "State": s.state,
                    "VolumeSize": s.volume_gib,
                    "Encrypted": s.encrypted,
                    "Tags": [{"Key": k, "Value": v} for k, v in s.tags.items()],
                }
                for s in snapshots
            ]
        }

    def _DeleteSnapshot(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        snapshot = self._snapshot(given["SnapshotId"])
        for image in self.images.values():
            for device in image.request.get("BlockDeviceMappings", []):
                if device.get("Ebs", {}).get("SnapshotId") == snapshot.id:
                    raise Refused(400, "InvalidSnapshot.InUse", f"{image.id} uses it")
        del self._ebs.snapshots[snapshot.id]
        return {}

    def _ImportSnapshot(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        token = given.get("ClientToken", "")
        if not 0 < len(token) <= 64:
            raise Refused(400, "InvalidParameterValue", "ClientToken")
        if token in self._tokens:
            before, task_id = self._tokens[token]
            if before != given:
                raise Refused(409, "IdempotentParameterMismatch", "the token was used otherwise")
            return {"ImportTaskId": task_id}
        container = given.get("DiskContainer", {})
        if container.get("Format") not in ("RAW", "VHD", "VMDK"):
            raise Refused(400, "InvalidParameter", "Format")
        place = container.get("UserBucket", {})
        stored = self._s3.buckets.get(place.get("S3Bucket", ""), {}).get(place.get("S3Key", ""))
        if stored is None:
            raise Refused(400, "InvalidParameter", "there is no such object")
        snapshot = Snapshot(self._ebs.ids.next("snap"), -(-len(stored.data) >> 30) or 1, {})
        blocks = range(0, len(stored.data), BLOCK)
        snapshot.own = {
            at // BLOCK: stored.data[at : at + BLOCK].ljust(BLOCK, b"\0") for at in blocks
        }
        task_id = self._ebs.ids.next("import-snap")
        self.tasks[task_id] = Task(snapshot.id)
        self._ebs.snapshots[snapshot.id] = snapshot
        self._tokens[token] = (given, task_id)
        return {"ImportTaskId": task_id}

    def _DescribeImportSnapshotTasks(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        found = []
        for task_id in given["ImportTaskIds"]:
            task = self.tasks[task_id]
            task.looks -= 1
            if task.looks < 0 and task.status == "active":
                task.status = "completed"
                self._ebs.snapshots[task.snapshot_id].state = "completed"
            detail = {"Status": task.status, "StatusMessage": task.message}
            if task.status == "completed":
                detail["SnapshotId"] = task.snapshot_id
            found.append({"ImportTaskId": task_id, "SnapshotTaskDetail": detail})
        return {"ImportSnapshotTasks": found}

    def _image(self, image_id: str, region: str) -> Image:
        image = self.images.get(image_id)
        if image is None or image.region != region:
            raise Refused(
                400, "InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist"
            )
        return image

    def _snapshot(self, snapshot_id: str) -> Snapshot:
        try:
            return self._ebs.snapshots[snapshot_id]
        except KeyError:
            raise Refused(
                400, "InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist."
            ) from None
