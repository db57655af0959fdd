"""Images and tags in the EC2 API, for S3-backed and EBS-backed clouds alike.

RegisterImage has no client token: it is sent without automatic retries, and after an answer that
did not come the image is looked for before it is sent again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.clouds.aws.session import ATTEMPTS, Site, code_of, is_transient, step
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.errors import CloudError, InputError
from pipeline.host.retry import Pauses, pause, poll

if TYPE_CHECKING:
    from types_boto3_ec2.client import EC2Client
    from types_boto3_ec2.type_defs import ImageTypeDef

# Seconds between looks at an image: small ones take a second, large ones minutes.
_POLLS = Pauses(first=0.2, longest=5.0, factor=1.5)
_COLLISIONS = Pauses(first=1.0, longest=20.0, factor=2.0, jitter=1.0)
_TURNS = Pauses(first=2.0, jitter=1.0)
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
            pause(_TURNS.after(1), heartbeat)
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
                pause(_COLLISIONS.after(attempt + 1))
                if find():
                    return None
        raise AssertionError("the last attempt returns or raises")

    def wait(
        self, image_id: str, what: str, seconds: float, heartbeat: Callable[[], None]
    ) -> RegisteredImage:
        """The image, once it is available; UnavailableError when it does not become so."""
        begun = time.monotonic()

        def over(image: RegisteredImage | None) -> bool:
            limit = seconds if image is not None else _APPEAR_SECONDS
            ended = image is not None and (image.failed or image.state == "available")
            return ended or time.monotonic() - begun > limit

        image = poll(
            lambda: self._seen(image_id, what),
            until=over,
            seconds=max(seconds, _APPEAR_SECONDS),
            pauses=_POLLS,
            heartbeat=heartbeat,
        )
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
        state = image.state if image is not None else "unknown to the cloud"
        raise UnavailableError(
            "register",
            f"{what} on {self._word}",
            why=f"{image_id} is still {state} after {time.monotonic() - begun:.0f} s",
            next_step="Try again: what was uploaded is kept",
        )

    def _seen(self, image_id: str, what: str) -> RegisteredImage | None:
        """The image as the cloud has it now, None while it is unknown."""
        from botocore.exceptions import ClientError

        with step(self._word, "wait for", what):
            try:
                entries = self._client.describe_images(ImageIds=[image_id])["Images"]
            except ClientError as error:
                if code_of(error) not in _GONE:
                    raise
                return None
        return RegisteredImage.of(entries[0]) if entries else None

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

    def permissions(
        self, image_id: str, options: PublishOptions, *, narrow: bool = True
    ) -> dict[str, Any]:
        """What would be changed of who may launch an image, as ModifyImageAttribute takes it.

        Only what the options ask for: nothing without a visibility, and nobody is taken out by
        further members. narrow: whether rights may be taken away at all.
        """
        if options.visibility is None:
            return {}
        with step(self._word, "look at the launch permissions of", image_id):
            answer = self._client.describe_image_attribute(
                ImageId=image_id, Attribute="launchPermission"
            )
        now: set[tuple[str, str]] = set()
        for entry in answer.get("LaunchPermissions") or []:
            # Some clouds fill both fields and leave one empty.
            now |= {(k, str(v)) for k, v in entry.items() if k in ("UserId", "Group") and v}
        everybody = {("Group", "all")}
        wanted = everybody if options.visibility == "public" else set()
        wanted |= {("UserId", member) for member in options.members}
        gone = {"private": now, "shared": now & everybody}.get(options.visibility, set()) - wanted
        changes: dict[str, Any] = {}
        if wanted - now:
            changes["Add"] = [{k: v} for k, v in sorted(wanted - now)]
        if narrow and gone:
            changes["Remove"] = [{k: v} for k, v in sorted(gone)]
        return changes

    def share(self, image_id: str, options: PublishOptions, *, narrow: bool = True) -> str:
        """Make `permissions` so; the change in words, "" when there was none."""
        changes = self.permissions(image_id, options, narrow=narrow)
        if changes:
            with step(self._word, "share", image_id):
                self._client.modify_image_attribute(
                    ImageId=image_id,
                    LaunchPermission=changes,  # type: ignore[arg-type] # built above
                )
        return permission_words(changes)

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

    def protect(self, image_id: str, protected: bool) -> None:
        """Let nobody deregister the image, or lift that protection."""
        with step(self._word, "protect" if protected else "lift the protection of", image_id):
            if protected:
                self._client.enable_image_deregistration_protection(ImageId=image_id)
            else:
                self._client.disable_image_deregistration_protection(ImageId=image_id)


def permission_words(changes: Mapping[str, Any]) -> str:
    """Changes of launch permissions for people: "launch permission + all, - 123456789012"."""
    words = [
        f"{sign} {next(iter(entry.values()))}"
        for sign, key in (("+", "Add"), ("-", "Remove"))
        for entry in changes.get(key, [])
    ]
    return f"launch permission {', '.join(words)}" if words else ""


def check_options(options: PublishOptions, cloud: str) -> None:
    """InputError for options that EC2 has no notion of."""
    for wrong, name in (
        (options.hidden, "hidden images"),
        (bool(options.store), "choice of a store"),
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
