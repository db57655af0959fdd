"""What a triple looks like in Glance: properties, marks, and who wins. Pure decisions."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.clouds.glance.api import ImageRecord
from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.whole_disk import require_disk
from pipeline.core import identity
from pipeline.core.architecture import known, words
from pipeline.core.checks import FIRMWARES
from pipeline.core.image import Image, Registration, Role
from pipeline.disk.blocks.identify import disk_format

KERNEL, RAMDISK, MACHINE, DISK = "kernel", "ramdisk", "machine", "disk"

BUSY = ("saving", "uploading", "importing")
"""States of an image whose data is on its way."""

MARK_ID = "image_pipeline_id"
"""The image's own id."""
_NAMESPACE = uuid.UUID("6f0f7c52-4a0e-4a3c-9d0b-2f4e5b1c7a15")  # drawn once, for `record_id`

# Nova and the v1 API took an Amazon image only with both formats alike; v2 checks that no more.
_FORMATS = {Role.KERNEL: "aki", Role.RAMDISK: "ari", Role.MACHINE: "ami"}


@dataclass(frozen=True)
class Part:
    """One image to register. size in bytes."""

    role: str
    name: str
    path: Path
    size: int
    sha256: str
    container_format: str
    disk_format: str


def parts(images: Image, options: PublishOptions, cloud: str) -> tuple[Part, ...]:
    """What to register, in order; the last stands for all."""
    if options.whole_disk:
        disk = require_disk(images, cloud)
        form = disk_format(disk.path)
        return (Part(DISK, images.name, disk.path, disk.size, disk.sha256, "bare", form),)
    return tuple(
        Part(
            str(file.role),
            images.name if file.role is Role.MACHINE else f"{images.name}-{file.role}",
            file.path,
            file.size,
            file.sha256,
            _FORMATS[file.role],
            _FORMATS[file.role],
        )
        for file in images.triple
    )


def formats(options: PublishOptions) -> list[tuple[str, str]]:
    """(container, disk) formats that the cloud must take; of a whole disk the container only."""
    if options.whole_disk:
        return [("bare", "raw")]
    return [(each, each) for each in _FORMATS.values()]


def attributes(
    part: Part, images: Image, options: PublishOptions, *, new: bool = True
) -> dict[str, Any]:
    """What the image shall say once it is whole, but for its links and its protection.

    new: whether the image is made by this upload. One that was there before keeps what the
    options do not ask for.
    """
    wanted: dict[str, Any] = {
        "name": part.name,
        "architecture": words(images.architecture).glance,
        identity.MARK_VERIFIED: str(images.verified(whole_disk=options.whole_disk)).lower(),
    }
    asked: dict[str, tuple[Any, Any]] = {  # option, value of a new image
        "visibility": (options.visibility, "private"),
        "os_hidden": (options.hidden, False),
        "tags": (sorted(set(options.tags)) or None, []),
    }
    if part.role in (MACHINE, DISK):
        asked |= {"min_disk": (options.min_disk_gib, 0), "min_ram": (options.min_ram_mib, 0)}
        # Nova starts such an instance by UEFI whatever the image says; other readers need the word.
        if needs_uefi(images):
            wanted["hw_firmware_type"] = "uefi"
        wanted |= images.properties
        if part.role == MACHINE:
            wanted["os_command_line"] = images.command_line
        wanted |= options.properties
    for name, (option, default) in asked.items():
        if option is not None or new:
            wanted[name] = default if option is None else option
    return wanted


def needs_uefi(images: Image) -> bool:
    """Whether machines of the image's architecture have no other firmware."""
    return FIRMWARES[known(images.architecture)] == ("uefi",)


def inherited(options: PublishOptions, machine: ImageRecord) -> PublishOptions:
    """The options of an image that is made again beside a whole machine image: like that one."""
    return replace(
        options,
        visibility=options.visibility or machine["visibility"],
        protected=machine["protected"] if options.protected is None else options.protected,
        hidden=machine["os_hidden"] if options.hidden is None else options.hidden,
    )


def updates(
    part: Part, images: Image, options: PublishOptions, machine: ImageRecord, *, new: bool
) -> dict[str, Any]:
    """What an image of a whole triple shall say: what was asked for, nothing else.

    machine: the triple's machine image. A kernel or ramdisk that is hidden beside one that is
    shown was left so by an upload that was killed.
    """
    wanted = attributes(part, images, options, new=new)
    if options.protected is not None:
        wanted["protected"] = options.protected
    if "os_hidden" not in wanted and part.role not in (MACHINE, DISK) and not machine["os_hidden"]:
        wanted["os_hidden"] = False
    return wanted


def told(image: ImageRecord, changes: Mapping[str, Any]) -> str:
    """The changes in words, "visibility: public -> private, protected: True -> False"."""

    def word(value: Any) -> str:
        return " ".join(value) or "none" if isinstance(value, list) else str(value)

    return ", ".join(
        f"{name}: {word(image.get(name, 'unset'))} -> {word(value)}"
        for name, value in changes.items()
    )


def record_id(project: str, key: str, role: str, number: int) -> str:
    """The id to create an image of the build under: all who upload the build ask for the same.

    number: from 0; the next when the one before belongs to an image that was deleted, whose id
    Glance keeps until its operator purges the database.
    """
    return str(uuid.uuid5(_NAMESPACE, "/".join((project, key, role, str(number)))))


def is_own(image: ImageRecord, project: str) -> bool:
    """Whether an image with our marks is ours: a copy has them too, but not the id they tell.

    Nova gives the snapshot of a server all properties of the image it was started from. project:
    ours, or "" where the cloud has none.
    """
    told: bool = image.get(MARK_ID) == image["id"]
    return told and project in ("", image.get("owner"))


def unfinished(
    part: Part, images: Image, options: PublishOptions, key: str, image_id: str
) -> dict[str, Any]:
    """The record to create: hidden and marked as ours, with all else it shall have."""
    state = {identity.MARK_STATE: identity.PARTIAL} if part.role in (MACHINE, DISK) else {}
    return attributes(part, images, options) | {
        "id": image_id,
        "os_hidden": True,
        **state,
        "container_format": part.container_format,
        "disk_format": part.disk_format,
        identity.MARK_NAME: images.name,
        identity.MARK_KEY: key,
        identity.MARK_ROLE: part.role,
        identity.MARK_SHA256: part.sha256,
        MARK_ID: image_id,
    }


def links(claimed: Mapping[str, ImageRecord]) -> dict[str, str]:
    """kernel_id and ramdisk_id for the machine image; none for a whole disk."""
    if not {KERNEL, RAMDISK} <= set(claimed):
        return {}
    return {"kernel_id": claimed[KERNEL]["id"], "ramdisk_id": claimed[RAMDISK]["id"]}


def differences(image: ImageRecord, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What to set on an image so that it says `wanted`.

    Nothing is taken away: tags and properties that somebody added stay.
    """
    changes = {key: value for key, value in wanted.items() if image.get(key) != value}
    if "tags" in changes:
        tags = set(image.get("tags", ())) | set(wanted["tags"])
        if tags == set(image.get("tags", ())):
            del changes["tags"]
        else:
            changes["tags"] = sorted(tags)
    return changes


def claims(found: Sequence[ImageRecord], roles: Sequence[str]) -> dict[str, ImageRecord]:
    """The image of each role that counts; the same answer for all who see the same images.

    What belongs to a finished machine image wins, then what has data or gets it just now, then the
    oldest. There is one of each role, unless a database that lags told an upload that the record
    there is none.
    """
    last = [i for i in found if i.get(identity.MARK_ROLE) == roles[-1]]
    linked: set[str | None] = set()
    for machine in sorted(last, key=_rank):
        if machine.get(identity.MARK_STATE) == identity.WHOLE:
            linked = {machine["id"], machine.get("kernel_id"), machine.get("ramdisk_id")}
            break
    claimed: dict[str, ImageRecord] = {}
    for image in sorted(found, key=lambda image: (image["id"] not in linked, _rank(image))):
        role = image.get(identity.MARK_ROLE, "")
        if role in roles:
            claimed.setdefault(role, image)
    return claimed


def _rank(image: ImageRecord) -> tuple[bool, bool, str, str]:
    status = image["status"]
    return status != "active", status not in BUSY, image["created_at"], image["id"]


def losers(found: Sequence[ImageRecord], claimed: Mapping[str, ImageRecord]) -> list[ImageRecord]:
    """Images of the same key that lost to another of their role."""
    kept = {image["id"] for image in claimed.values()}
    return [
        image
        for image in found
        if image.get(identity.MARK_ROLE) in claimed and image["id"] not in kept
    ]


def is_whole(claimed: Mapping[str, ImageRecord], roles: Sequence[str]) -> bool:
    """Whether every image is there, active, and the last one marked as finished and linked."""
    if set(claimed) != set(roles) or any(i["status"] != "active" for i in claimed.values()):
        return False
    last = claimed[roles[-1]]
    linked = all(last.get(word) == value for word, value in links(claimed).items())
    return last.get(identity.MARK_STATE) == identity.WHOLE and linked


def server_digest(image: ImageRecord) -> tuple[str, str] | None:
    """(algorithm, hex digest) that the cloud computed: the multihash, or MD5 on an old Glance."""
    if image.get("os_hash_algo") and image.get("os_hash_value"):
        return image["os_hash_algo"], image["os_hash_value"]
    return ("md5", image["checksum"]) if image.get("checksum") else None


def registration(cloud: str, image: ImageRecord, *, created: bool) -> Registration:
    """A finished machine image or whole disk as the pipeline's record."""
    return Registration(
        cloud=cloud,
        name=image[identity.MARK_NAME],
        kernel_id=image.get("kernel_id") or "",
        ramdisk_id=image.get("ramdisk_id") or "",
        machine_id=image["id"],
        created=created,
        generation=image.get(identity.MARK_GENERATION, ""),
        key=image.get(identity.MARK_KEY, ""),
    )
