"""OpenStack Glance: three linked images, registered as a whole or not at all.

Every upload of one build works on the same three records, whoever made them: they are hidden,
and their ids are made of the build's key, so that one of two uploads that create a record at once
is told that it is there. Glance itself lets one upload at a time write an image, so uploads that
run at once share the work, and a run that was killed is taken up where it stopped. The machine
image is marked as whole and shown last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.clouds.glance.api import GlanceApi, ImageRecord, Patience, missing_formats
from pipeline.clouds.glance.images import (
    Part,
    attributes,
    claims,
    differences,
    formats,
    is_own,
    is_whole,
    losers,
    parts,
    registration,
    told,
    updates,
)
from pipeline.clouds.glance.login import cloud_region, connect, member_ids, require_rights
from pipeline.clouds.glance.numbers import UsedNumbers
from pipeline.clouds.glance.upload import Upload, own, own_images, roles
from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.whole_disk import require_disk
from pipeline.core import identity
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import Progress
from pipeline.core.image import Image, Registration
from pipeline.core.passwords import without_passwords

_CHECK_SECONDS = 20.0  # a token from a cloud on another continent takes two


def open_glance(argument: str) -> GlanceCloud:
    """The cloud of that name in clouds.yaml; without one, that of the environment (OS_CLOUD)."""
    name = f"glance:{argument}" if argument else "glance"
    cloud_region(name, argument)  # a misspelt name is told at once
    return GlanceCloud(name, argument)


@dataclass(frozen=True)
class GlanceCloud:
    """protocol.Cloud over the Image API v2; made by `open_glance`."""

    name: str
    cloud: str
    patience: Patience = field(default_factory=Patience)

    def check(self) -> str:
        """See protocol.Cloud: one login, and one look at the image service that uploads use."""
        patience = replace(self.patience, tries=1, connect=_CHECK_SECONDS, read=_CHECK_SECONDS)
        with connect(self.name, self.cloud, patience) as api:
            require_rights(api)
            api.any_image("ask the image service of")
            return f"logged in; images are at {without_passwords(api.url)}"

    def probe(self, images: Image, options: PublishOptions) -> None:
        """See protocol.Cloud. Reads only; the right to create shows with the first call."""
        attempted = f"register {images.name} on"
        if options.regions:
            raise InputError(
                attempted,
                self.name,
                why="Glance does not copy images between regions",
                next_step="Name each region as a cloud of its own: --cloud glance:NAME",
            )
        if options.members and options.visibility != "shared":
            raise InputError(
                attempted,
                self.name,
                why=f"images of visibility {options.visibility} have no members",
                next_step="Add --visibility shared",
            )
        if options.whole_disk:
            require_disk(images, self.name)
        with connect(self.name, self.cloud, self.patience) as api:
            missing = missing_formats(api.schema(attempted), formats(options))
            if missing:
                raise CloudError(
                    attempted,
                    self.name,
                    why=f"it does not take {', '.join(dict.fromkeys(missing))}",
                    next_step="Ask its operator for them (container_formats and disk_formats in"
                    " glance-api.conf)"
                    + ("" if options.whole_disk else ", or upload the whole disk instead"),
                )
            if options.store:
                self._require_store(api, options.store, attempted)
            member_ids(api, options.members)
            own(api, images, options)

    def _require_store(self, api: GlanceApi, store: str, attempted: str) -> None:
        known = api.stores(attempted)
        if store not in known:
            raise InputError(
                attempted,
                self.name,
                why=f"it has no store {store}",
                next_step=f"Use one of: {', '.join(known)}"
                if known
                else "Leave --store out: the cloud has one store, or lets nobody choose",
            )

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        """See protocol.Cloud."""
        wanted = parts(images, options, self.name)
        with connect(self.name, self.cloud, self.patience) as api:
            found = own(api, images, options)
            claimed = claims(found, roles(wanted))
            whole = is_whole(claimed, roles(wanted))
            members = member_ids(api, options.members)
            shared = {
                image["id"]: api.members(image["id"], f"look for {images.name} on")
                for image in claimed.values()
                if members and image["visibility"] == "shared"
            }
        calls = [f"DELETE /v2/images/{image['id']}: surplus" for image in losers(found, claimed)]
        for part in () if whole else wanted:
            calls += _sending(part, claimed.get(part.role))
        for part in wanted:
            image = claimed.get(part.role)
            place = image["id"] if image else f"({part.role})"
            changes = _changes(part, images, options, claimed.get(wanted[-1].role), image)
            if changes or not whole:
                words = told(image or {}, changes) or "show it"
                calls.append(f"PATCH /v2/images/{place}: {words}")
            calls += [
                f"POST /v2/images/{place}/members: {member}"
                for member in members
                if not image or member not in shared.get(image["id"], ())
            ]
        return calls

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        """See protocol.Cloud."""
        wanted = parts(images, options, self.name)
        with connect(self.name, self.cloud, self.patience, progress) as api:
            members = member_ids(api, options.members)
            found = own(api, images, options)
            claimed = claims(found, roles(wanted))
            created = not is_whole(claimed, roles(wanted))
            last = claimed.get(wanted[-1].role, {})
            repaired = last if last.get(identity.MARK_STATE) == identity.WHOLE else None
            run = Upload(api, images, options, wanted, repaired)
            if not created:
                run.sweep(losers(found, claimed))
            else:
                try:
                    claimed = run.complete(claimed)
                except BaseException:
                    run.roll_back()
                    raise
            image = run.bring_up_to_date(claimed, members, completed=created)
            return registration(self.name, image, created=created)

    def generations(self, name: str) -> list[Registration]:
        """See protocol.Cloud."""
        marks = {identity.MARK_NAME: name, identity.MARK_STATE: identity.WHOLE}
        with connect(self.name, self.cloud, self.patience) as api:
            found = own_images(api, f"list the generations of {name} on", **marks)
        registered = [registration(self.name, image, created=False) for image in found]
        return sorted(registered, key=lambda each: each.generation, reverse=True)

    def withdraw(self, registration: Registration) -> None:
        """See protocol.Cloud. A kernel or ramdisk that another image of the project uses stays."""
        attempted = f"withdraw {registration.machine_id} from"
        with connect(self.name, self.cloud, self.patience) as api:
            ids = [registration.machine_id, registration.ramdisk_id, registration.kernel_id]
            found = [api.image(image_id, attempted) for image_id in ids if image_id]
            mine = [image for image in found if image is not None]
            for image in mine:
                key = image.get(identity.MARK_KEY, "")
                if key != registration.key or not is_own(image, api.project):
                    raise CloudError(
                        attempted,
                        self.name,
                        why=f"{image['id']} is not an image of this upload",
                        next_step="Delete it by other means if it has to go",
                    )
            self._require_unprotected(mine, attempted)
            numbers = UsedNumbers(api.url, api.project, registration.key)
            for image in mine:
                role = image.get(identity.MARK_ROLE, "")
                linked = image["id"] != registration.machine_id
                # The snapshot of a server starts with the kernel of the image it came from.
                if not linked or not api.images(attempted, **{f"{role}_id": image["id"]}):
                    api.delete(image["id"], attempted)
                    numbers.spend_id(role, image["id"])

    def _require_unprotected(self, images: list[ImageRecord], attempted: str) -> None:
        """CloudError that names all protected images among these."""
        protected = [image["id"] for image in images if image["protected"]]
        if protected:
            raise CloudError(
                attempted,
                self.name,
                why=f"{', '.join(protected)} {'is' if len(protected) == 1 else 'are'} protected",
                next_step="Run first: "
                + "; ".join(f"openstack image set --unprotected {each}" for each in protected),
            )


def _sending(part: Part, image: Mapping[str, Any] | None) -> list[str]:
    """The calls that make an image's record and send its data, as far as that is to be done."""
    calls = []
    if image is None:
        calls.append(f"POST /v2/images: {part.role} {part.name}, {part.container_format}, hidden")
    if image is None or image["status"] != "active":
        place = image["id"] if image else f"({part.role})"
        calls.append(f"PUT /v2/images/{place}/file: {part.size} bytes of {part.path}")
    return calls


def _changes(
    part: Part,
    images: Image,
    options: PublishOptions,
    machine: ImageRecord | None,
    image: ImageRecord | None,
) -> dict[str, Any]:
    """What an upload would set on an image; all of it where there is none yet."""
    if image is None or machine is None or machine.get(identity.MARK_STATE) != identity.WHOLE:
        wanted = attributes(part, images, options)
        if options.protected:
            wanted["protected"] = True
        return differences(image or {}, wanted)
    return differences(image, updates(part, images, options, machine, new=False))
