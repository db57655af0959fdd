"""Images and tags in the EC2 API, for S3-backed and EBS-backed clouds alike.

RegisterImage has no client token: it is sent without automatic retries, and after an answer that
did not come the image is looked for before it is sent again.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.clouds.aws.session import ATTEMPTS, Site, code_of, is_transient, step
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.errors import CloudError, InputError

if TYPE_CHECKING:
    from types_boto3_ec2.client import EC2Client
    from types_boto3_ec2.type_defs import ImageTypeDef

# Seconds between looks at an image: small ones take a second, large ones minutes.
_FIRST_POLL, _LONGEST_POLL = 0.2, 5.0
_APPEAR_SECONDS = 60.0  # how long a new image may be unknown to DescribeImages (AWS: seconds)
_TIES = 8  # rounds after which two uploads that stumble over each other give up
_GONE = ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable")


class UnavailableError(CloudError):
    """The cloud gave an image up, or did not make it available in time."""


@dataclass(frozen=True)
class RegisteredImage:
    """What DescribeImages says of one of our images; "" where the cloud leaves it out."""

    id: str
    name: str
    location: str
    state: str
    reason: str
    kernel_id: str
    ramdisk_id: str
    snapshot_id: str
    tags: Mapping[str, str]

    @classmethod
    def of(cls, entry: ImageTypeDef) -> RegisteredImage:
        """Read an entry of DescribeImages."""
        devices = entry.get("BlockDeviceMappings") or []
        snapshots = (device.get("Ebs", {}).get("SnapshotId", "") for device in devices)
        return cls(
            id=entry["ImageId"],
            name=entry.get("Name", ""),
            location=entry.get("ImageLocation", ""),
            state=entry.get("State", ""),
            reason=entry.get("StateReason", {}).get("Message", ""),
            kernel_id=entry.get("KernelId", ""),
            ramdisk_id=entry.get("RamdiskId", ""),
            snapshot_id=next((s for s in snapshots if s), ""),
            tags={tag["Key"]: tag["Value"] for tag in entry.get("Tags") or []},
        )

    @property
    def failed(self) -> bool:
        """Whether the cloud gave up making it."""
        return self.state in ("failed", "error", "invalid", "deregistered")


class Images:
    """The account's own images on one cloud."""

    def __init__(self, site: Site, *, region: str = "") -> None:
        self._word = site.word
        self._client: EC2Client = site.ec2(region=region)
        self._once: EC2Client = site.ec2(retry=False, region=region)

    @property
    def endpoint(self) -> str:
        """The EC2 endpoint's URL."""
        return self._client.meta.endpoint_url

    @property
    def region(self) -> str:
        """The region requests are signed for."""
        return self._client.meta.region_name

    def own(self) -> list[RegisteredImage]:
        """All images of the account."""
        with step(self._word, "list the images on", self._word):
            pages = self._client.get_paginator("describe_images").paginate(Owners=["self"])
            return [RegisteredImage.of(entry) for page in pages for entry in page["Images"]]

    def register(
        self,
        what: str,
        request: Mapping[str, Any],
        find: Callable[[], Sequence[RegisteredImage]],
        heartbeat: Callable[[], None],
    ) -> tuple[str, bool]:
        """Register an image that is to exist once: its id, and whether this call made it.

        what: for errors. find: looks for it among the account's images. Where names are not
        unique two uploads at once can both register: who then sees another's image withdraws its
        own and looks again after a random wait, until one is left.
        """
        for _ in range(_TIES):
            if there := find():
                return there[0].id, False
            made = self._register(what, request, find)
            if made is None:
                continue
            others = [image for image in find() if image.id != made]
            if not others:
                return made, True
            self.deregister(made)
            pause(random.uniform(0, 2.0), heartbeat)  # noqa: S311 # no secret
        raise CloudError(
            "register",
            f"{what} on {self._word}",
            why="another upload of the same build registers it at the same time",
            next_step="Let one of them finish, then try again",
        )

    def _register(
        self, what: str, request: Mapping[str, Any], find: Callable[[], Sequence[RegisteredImage]]
    ) -> str | None:
        """Send RegisterImage until it was answered; None when somebody registered it meanwhile."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        with step(self._word, "register", what):
            for attempt in range(ATTEMPTS):
                try:
                    return self._once.register_image(**request)["ImageId"]
                except (BotoCoreError, ClientError, ResponseParserError) as error:
                    if code_of(error) == "InvalidAMIName.Duplicate":
                        if not find():
                            raise
                        return None
                    if not is_transient(error) or attempt + 1 == ATTEMPTS:
                        raise
                time.sleep(random.uniform(0, min(2.0**attempt, 20.0)))  # noqa: S311 # no secret
                if find():
                    return None
        raise AssertionError("the last attempt returns or raises")

    def wait(
        self, image_id: str, what: str, seconds: float, heartbeat: Callable[[], None]
    ) -> RegisteredImage:
        """The image, once it is available; UnavailableError when it does not become so."""
        from botocore.exceptions import ClientError

        begun, interval = time.monotonic(), _FIRST_POLL
        while True:
            image = None
            with step(self._word, "wait for", what):
                try:
                    entries = self._client.describe_images(ImageIds=[image_id])["Images"]
                    image = RegisteredImage.of(entries[0]) if entries else None
                except ClientError as error:
                    if code_of(error) not in _GONE:
                        raise
            passed = time.monotonic() - begun
            if image is not None and image.state == "available":
                return image
            if image is not None and image.failed:
                raise UnavailableError(
                    "register",
                    f"{what} on {self._word}",
                    why=f"the cloud made {image_id} and reports it {image.state}"
                    + (f": {image.reason}" if image.reason else ""),
                    next_step="Check that the certificate given is this cloud's, and ask its"
                    " operator for the reason",
                )
            if passed > (seconds if image is not None else _APPEAR_SECONDS):
                state = image.state if image is not None else "unknown to the cloud"
                raise UnavailableError(
                    "register",
                    f"{what} on {self._word}",
                    why=f"{image_id} is still {state} after {passed:.0f} s",
                    next_step="Try again: what was uploaded is kept",
                )
            pause(interval, heartbeat)
            interval = min(1.5 * interval, _LONGEST_POLL)

    def deregister(self, image_id: str) -> None:
        """Deregister an image; one that is gone already is no error."""
        from botocore.exceptions import ClientError

        with step(self._word, "deregister", image_id):
            try:
                self._client.deregister_image(ImageId=image_id)
            except ClientError as error:
                if code_of(error) not in _GONE:
                    raise

    def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Add tags to images or snapshots."""
        with step(self._word, "tag", ", ".join(ids)):
            self._client.create_tags(
                Resources=list(ids), Tags=[{"Key": k, "Value": v} for k, v in tags.items()]
            )

    def share(self, image_id: str, options: PublishOptions, *, narrow: bool = True) -> None:
        """Make everybody, the named accounts or nobody else have the right to launch an image.

        narrow: whether rights may be taken away, too.
        """
        wanted: set[tuple[str, str]] = {("UserId", member) for member in options.members}
        if options.visibility == "public":
            wanted = {("Group", "all")}
        with step(self._word, "share", image_id):
            answer = self._client.describe_image_attribute(
                ImageId=image_id, Attribute="launchPermission"
            )
            now: set[tuple[str, str]] = set()
            for entry in answer.get("LaunchPermissions") or []:
                # Some clouds fill both fields and leave one empty.
                now |= {(k, str(v)) for k, v in entry.items() if k in ("UserId", "Group") and v}
            changes: dict[str, Any] = {}
            if wanted - now:
                changes["Add"] = [{k: v} for k, v in sorted(wanted - now)]
            if narrow and now - wanted:
                changes["Remove"] = [{k: v} for k, v in sorted(now - wanted)]
            if changes:
                self._client.modify_image_attribute(
                    ImageId=image_id,
                    LaunchPermission=changes,  # type: ignore[arg-type] # built above
                )

    def try_register(self, request: Mapping[str, Any]) -> None:
        """CloudError when the account may not register images; nothing is registered.

        Clouds that answer a dry run in any other way are believed to allow it.
        """
        from botocore.exceptions import ClientError

        with step(self._word, "register an image on", self._word):
            try:
                self._once.register_image(**request, DryRun=True)
            except ClientError as error:
                if code_of(error) in ("UnauthorizedOperation", "AuthFailure", "AccessDenied"):
                    raise

    def copy(self, image: RegisteredImage, region: str, *, instead: str = "") -> str:
        """Copy an image of another region here, tags included; the copy's id.

        instead: the id of a copy that is gone. A token gives the copy it made for ever.
        """
        token = f"{image.id} {self.region} {instead}"
        with step(self._word, "copy", image.id):
            return self._client.copy_image(
                Name=image.name,
                SourceImageId=image.id,
                SourceRegion=region,
                CopyImageTags=True,
                ClientToken=hashlib.sha256(token.encode()).hexdigest(),
            )["ImageId"]

    def protect(self, image_id: str) -> None:
        """Let nobody deregister the image until an administrator lifts the protection."""
        with step(self._word, "protect", image_id):
            self._client.enable_image_deregistration_protection(ImageId=image_id)


def check_options(options: PublishOptions, cloud: str) -> None:
    """InputError for options that EC2 has no notion of."""
    for wrong, name in (
        (options.hidden, "hidden images"),
        (options.visibility == "community", "community images"),
        (bool(options.members) != (options.visibility == "shared"), "members unless shared"),
    ):
        if wrong:
            raise InputError(
                "publish on",
                cloud,
                why=f"EC2 has no {name}",
                next_step="Leave the option out for this cloud",
            )


def user_tags(tags: Iterable[str]) -> dict[str, str]:
    """Tags given as "key=value" or "key"."""
    return {key: value for key, _, value in (tag.partition("=") for tag in tags)}


def pause(seconds: float, heartbeat: Callable[[], None]) -> None:
    """Sleep, with a heartbeat each second; it may raise."""
    end = time.monotonic() + seconds
    heartbeat()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        heartbeat()
