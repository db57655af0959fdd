"""OpenStack Glance: three linked images, registered as a whole or not at all.

Every upload of one build works on the same three records, whoever made them: they are hidden,
and their ids are made of the build's key, so that one of two uploads that create a record at once
is told that it is there. Glance itself lets one upload at a time write an image, so uploads that
run at once share the work, and a run that was killed is taken up where it stopped. The machine
image is marked as whole and shown last.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.clouds.glance.api import (
    GlanceApi,
    ImageRecord,
    Patience,
    StatusError,
    TransientError,
    cloud_region,
    connect,
    missing_formats,
)
from pipeline.clouds.glance.body import ImageBody
from pipeline.clouds.glance.images import (
    BUSY,
    Part,
    attributes,
    claims,
    differences,
    formats,
    is_own,
    is_whole,
    links,
    losers,
    parts,
    record_id,
    registration,
    server_digest,
    unfinished,
)
from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.whole_disk import require_disk
from pipeline.core import identity
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import Progress
from pipeline.core.image import Image, Registration
from pipeline.host.sparse import digests

_HASHES = ("sha512",)  # Glance's default hashing_algorithm; others are computed when met
# Each time, another upload of the build deleted what this one used. Two agree after one such
# meeting; five are more than anybody starts at once.
_CLAIM_TRIES = 5
_DELETED_IDS = 32  # how often a build's image was deleted and made again, as far as it is asked for
_SPOILT_TRIES = 3  # a cloud that stores wrong bytes three times has a broken disk or proxy


class _SpoiltError(Exception):
    """The image is gone, dead or holds other bytes: a new one must take its place.

    next_step: what to do when that happens again and again.
    """

    def __init__(
        self, why: str, next_step: str = "Show it to the cloud's operator: it loses or changes data"
    ) -> None:
        super().__init__(why)
        self.next_step = next_step


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
            self._own(api, images, options)

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        """See protocol.Cloud."""
        wanted = parts(images, options, self.name)
        with connect(self.name, self.cloud, self.patience) as api:
            found = self._own(api, images, options)
        claimed = claims(found, _roles(wanted))
        calls = [f"DELETE /v2/images/{image['id']}: surplus" for image in losers(found, claimed)]
        whole = is_whole(claimed, _roles(wanted))
        for part in wanted:
            image = claimed.get(part.role)
            if image is None:
                calls.append(
                    f"POST /v2/images: {part.role} {part.name}, {part.container_format}, hidden"
                )
            place = image["id"] if image else f"({part.role})"
            if image is None or image["status"] != "active":
                calls.append(f"PUT /v2/images/{place}/file: {part.size} bytes of {part.path}")
        for part in wanted:
            image = claimed.get(part.role)
            changes = differences(image or {}, attributes(part, images, options))
            if changes or not whole:
                words = ", ".join(changes) or "show it"
                calls.append(f"PATCH /v2/images/{image['id'] if image else part.role}: {words}")
        return calls

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        """See protocol.Cloud."""
        wanted = parts(images, options, self.name)
        with connect(self.name, self.cloud, self.patience, progress) as api:
            run = _Run(self, api, images, options, wanted)
            found = self._own(api, images, options)
            claimed = claims(found, _roles(wanted))
            created = not is_whole(claimed, _roles(wanted))
            if not created:
                run.sweep(losers(found, claimed))
            else:
                try:
                    claimed = run.complete(claimed)
                except BaseException:
                    run.roll_back()
                    raise
            return registration(self.name, run.bring_up_to_date(claimed), created=created)

    def generations(self, name: str) -> list[Registration]:
        """See protocol.Cloud."""
        marks = {identity.MARK_NAME: name, identity.MARK_STATE: identity.WHOLE}
        with connect(self.name, self.cloud, self.patience) as api:
            found = _own_images(api, f"list the generations of {name} on", **marks)
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
                if image["protected"]:
                    raise CloudError(
                        attempted,
                        self.name,
                        why=f"{image['id']} is protected",
                        next_step=f"Run `openstack image set --unprotected {image['id']}` first",
                    )
            for image in mine:
                link = f"{image.get(identity.MARK_ROLE)}_id"
                linked = image["id"] != registration.machine_id
                # The snapshot of a server starts with the kernel of the image it came from.
                if not linked or not api.images(attempted, **{link: image["id"]}):
                    api.delete(image["id"], attempted)

    def _own(self, api: GlanceApi, images: Image, options: PublishOptions) -> list[ImageRecord]:
        key = identity.content_key(images, whole_disk=options.whole_disk)
        return _own_images(api, f"look for {images.name} on", **{identity.MARK_KEY: key})


@dataclass
class _Run:
    """One publish of one build."""

    cloud: GlanceCloud
    api: GlanceApi
    images: Image
    options: PublishOptions
    parts: Sequence[Part]
    made: list[str] = field(default_factory=list)
    direct: bool = True  # until the cloud turns out to forbid uploads but through its import
    yielded: set[str] = field(default_factory=set)  # records whose maker was given time

    def complete(self, known: Mapping[str, ImageRecord]) -> dict[str, ImageRecord]:
        """Make or adopt the images, fill them, show them; the machine image last.

        known: those that count, as they were just now.
        """
        found: Mapping[str, ImageRecord] | None = known
        for left in reversed(range(_CLAIM_TRIES)):
            try:
                claimed, found = self._claim(found), None
                for part in self.parts:
                    claimed = self._fill(part, claimed)
                self._finish(claimed)
                claimed = self._settle()
            except StatusError as error:
                # Another upload may have counted other records than we; it deleted ours then.
                if error.status not in (404, 410) or not left:
                    raise
            else:
                if is_whole(claimed, _roles(self.parts)):
                    return claimed
        raise self._error(
            self.parts[-1],
            "its images change while they are registered",
            "See whether another upload of this build is rolling back, and run it again",
        )

    def bring_up_to_date(self, claimed: Mapping[str, ImageRecord]) -> ImageRecord:
        """Set what differs from the options on a whole triple; the last image as it is then."""
        for part in reversed(self.parts):
            image = claimed.get(part.role)
            if image is None:
                raise self._error(part, "it was deleted meanwhile", "Run it again")
            wanted = attributes(part, self.images, self.options)
            wanted["protected"] = self.options.protected
            changes = differences(image, wanted)
            if changes:
                self.api.patch(image["id"], changes, self._attempted("update", part))
            for member in self.options.members:
                self.api.add_member(image["id"], member, self._attempted("share", part))
        last = self.parts[-1]
        found = self.api.image(claimed[last.role]["id"], self._attempted("look at", last))
        if found is None:
            raise self._error(last, "it was deleted meanwhile", "Run it again")
        return found

    def roll_back(self) -> None:
        """Delete what this run made, unless somebody has finished it; in seconds, or not at all.

        What cannot be deleted now is hidden, and the next upload of this build takes it up.
        """
        quick = Patience(tries=1, connect=5.0, read=10.0)
        api = GlanceApi(self.api.name, self.api.url, self.api.session, quick)
        api.project = self.api.project
        try:
            for image_id in reversed(self.made):
                # Looked at each time: another upload of the build may be about to finish it.
                found = self._own(api)
                if is_whole(claims(found, _roles(self.parts)), _roles(self.parts)):
                    return
                if any(image["id"] == image_id for image in found):
                    api.delete(image_id, "roll back on")
        except CloudError:
            return

    def sweep(self, late: Sequence[ImageRecord]) -> None:
        """Delete what stands beside a whole triple, as far as that can be done now.

        A busy cloud may carry out the last request of a killed run when the next run is done.
        """
        for image in late:
            with contextlib.suppress(CloudError):
                self.api.delete(image["id"], f"delete the surplus {image['name']} on")

    # -- who uses which record

    def _claim(self, known: Mapping[str, ImageRecord] | None = None) -> dict[str, ImageRecord]:
        """The record of each role, made where there is none. known: those there are, if known."""
        claimed = claims(self._own(), _roles(self.parts)) if known is None else dict(known)
        for part in self.parts:
            if part.role not in claimed:
                claimed[part.role] = self._make(part, claimed)
        return claimed

    def _make(self, part: Part, claimed: Mapping[str, ImageRecord]) -> ImageRecord:
        """A record of the part's: a new one, or the one that another upload made meanwhile."""
        attempted = self._attempted("register", part)
        for number in range(_DELETED_IDS + 1):
            chosen = record_id(self.api.project, self._key(), part.role, number)
            # A build deleted that often is not worth asking further: surplus records are found.
            image_id = chosen if number < _DELETED_IDS else str(uuid.uuid4())
            record = unfinished(part, self.images, self.options, self._key(), image_id)
            if part is self.parts[-1]:
                record |= links(claimed)
            try:
                image = self.api.create(record, attempted)
            except StatusError as error:
                # 409: somebody has it, or had it. 413: Glance looks at the quota before the id.
                if error.status not in (409, 413):
                    raise
                found = self.api.image(image_id, attempted)
                if found and is_own(found, self.api.project):
                    return found
                if error.status == 413 or number == _DELETED_IDS:
                    raise
            else:
                self.made.append(image_id)
                return image
        raise AssertionError("unreachable")

    def _settle(self) -> dict[str, ImageRecord]:
        """Those that count, as far as there are; surplus ones are deleted by who sees them."""
        found = self._own()
        claimed = claims(found, _roles(self.parts))
        for image in losers(found, claimed):
            self.api.delete(image["id"], f"delete the surplus {image['name']} on")
        return claimed

    # -- data

    def _fill(self, part: Part, claimed: dict[str, ImageRecord]) -> dict[str, ImageRecord]:
        """Get the part's bytes into its record, replacing the record when that is spoilt."""
        for _ in range(_SPOILT_TRIES):
            image = claimed[part.role]
            try:
                self._fill_record(part, image["id"])
            except _SpoiltError as error:
                why, next_step = str(error), error.next_step
                self.api.progress.warn(f"{self.cloud.name}: {part.role} {image['id']}: {why}")
                self.api.delete(image["id"], self._attempted("replace", part))
                claimed = self._claim()
            else:
                return claimed
        raise self._error(part, why, next_step)

    def _fill_record(self, part: Part, image_id: str) -> None:
        """Until the record is active with exactly the part's bytes. Raises _SpoiltError."""
        body: ImageBody | None = None
        failures, broken, changed = 0, False, ""
        busy_until = self._busy_until(part)
        attempted = self._attempted("send", part)
        while True:
            image = self.api.image(image_id, attempted)
            if image is None:
                raise _SpoiltError("somebody deleted it", "Find out who, and run it again")
            status = image["status"]
            if status == "active":
                self._compare(part, image, body)
                return
            if status in BUSY:
                if broken and changed not in ("", image["updated_at"]):
                    # Not what we broke off: another upload has begun since.
                    broken, busy_until = False, self._busy_until(part)
                changed = image["updated_at"]
                if time.monotonic() > busy_until:
                    # Staged data waits for ever for the import of a run that was killed.
                    if broken or status == "uploading":
                        raise _SpoiltError(f"it stays {status} after an upload broke off")
                    raise self._error(
                        part,
                        f"image {image_id} stays in the state {status}",
                        "Wait for the upload that runs elsewhere; if none does, run"
                        f" `openstack image delete {image_id}`",
                    )
                self.api.pause(self.api.patience.poll, f"the {part.role} is {status} elsewhere")
                continue
            if status == "deactivated":
                raise self._error(
                    part,
                    f"image {image_id} is deactivated",
                    "Ask the cloud's operator why; delete it to have it sent again",
                )
            if status != "queued":
                raise _SpoiltError(f"it is {status}")
            if image_id not in self.made and image_id not in self.yielded:
                # Two uploads that begin at once can leave the image in "saving" for ever; one
                # that was killed will not begin.
                self.yielded.add(image_id)
                self.api.pause(2 * self.api.patience.poll, "leaving it to who made the record")
                continue
            if failures >= self.api.patience.tries:
                raise self._error(
                    part,
                    f"{image_id} is empty again after each of {failures} uploads",
                    "Ask its operator: the log of Glance says why it gives the data up",
                )
            failures += 1
            try:
                body = self._send(part, image_id, attempted)
            except TransientError as failure:
                status = failure.final.status if isinstance(failure.final, StatusError) else 0
                if failures >= self.api.patience.tries:
                    if status == 409 and not self.direct:
                        # What a killed run staged lies in the way, and the record looks empty.
                        raise _SpoiltError("its staging area stays taken") from failure
                    raise failure.final from None
                delay = self.api.patience.delay(failures, failure.asked)
                self.api.pause(delay, f"{failure.final.why}; sending again in {delay:.1f} s")
                if status not in (404, 409, 410):  # those: it is deleted, or another's upload
                    broken = True
                    busy_until = time.monotonic() + self.api.patience.broken

    def _busy_until(self, part: Part) -> float:
        return time.monotonic() + self.api.patience.busy + part.size / (1 << 20)

    def _send(self, part: Part, image_id: str, attempted: str) -> ImageBody:
        label = f"{self.cloud.name}: {part.role} of {self.images.name}"
        with self.api.progress.task(label, total=part.size) as meter:
            body = ImageBody(part.path, part.size, part.sha256, meter, _HASHES)
            if self.direct:
                try:
                    self.api.send(image_id, body, part.size, attempted)
                except StatusError as error:
                    if error.status not in (403, 405):
                        raise
                    if "glance-direct" not in self.api.import_methods(attempted):
                        raise
                    self.direct = False
                else:
                    return body
            self.api.stage(image_id, body, attempted)
            self.api.import_staged(image_id, attempted)
            return body

    def _compare(self, part: Part, image: ImageRecord, body: ImageBody | None) -> None:
        """Our bytes against what the cloud says it holds."""
        found = server_digest(image)
        if found is None:
            raise self._error(part, "the cloud tells no hash of it", "Ask its operator why")
        algorithm, value = found
        ours = body.hexdigest(algorithm) if body else None
        if ours is None:
            ours = self._digest(part, algorithm)
        if (image["size"], value) != (part.size, ours):
            raise _SpoiltError(
                f"the cloud holds {image['size']} bytes with {algorithm} {value}, we sent"
                f" {part.size} with {ours}"
            )
        if body is None and not self.api.has_data(image["id"], self._attempted("look at", part)):
            raise _SpoiltError("its data is gone")

    def _digest(self, part: Part, algorithm: str) -> str:
        try:
            with self.api.progress.task(f"hashing {part.path.name}", total=part.size) as meter:
                return digests(part.path, [algorithm], meter)[algorithm]
        except (OSError, EOFError) as error:
            raise self._error(
                part, f"{part.path} cannot be read: {error}", "Build it again"
            ) from error

    def _finish(self, claimed: Mapping[str, ImageRecord]) -> None:
        """Attributes of kernel and ramdisk, then the machine image, whole; then show the others.

        A triple is seen from the moment its machine image is, and everything it needs works then.
        """
        *others, last = self.parts
        for part in others:
            attempted = self._attempted("finish", part)
            image = self.api.image(claimed[part.role]["id"], attempted)
            if image is None or image["status"] != "active":
                # Another upload rolled back while the machine image was sent.
                raise StatusError(attempted, self.cloud.name, 404, "")
            wanted = attributes(part, self.images, self.options) | {"os_hidden": True}
            if changes := differences(image, wanted):
                self.api.patch(image["id"], changes, attempted)
        attempted = self._attempted("finish", last)
        image_id = claimed[last.role]["id"]
        image = self.api.image(image_id, attempted) or {}
        wanted = attributes(last, self.images, self.options) | links(claimed)
        wanted[identity.MARK_STATE] = identity.WHOLE
        if image.get(identity.MARK_STATE) != identity.WHOLE:
            marks = {identity.MARK_NAME: self.images.name, identity.MARK_STATE: identity.WHOLE}
            older = _own_images(self.api, attempted, **marks)
            stamps = [each.get(identity.MARK_GENERATION, "") for each in older]
            wanted[identity.MARK_GENERATION] = identity.next_generation(stamps)
        if changes := differences(image, wanted):
            self.api.patch(image_id, changes, attempted)

    # -- small words

    def _key(self) -> str:
        return identity.content_key(self.images, whole_disk=self.options.whole_disk)

    def _own(self, api: GlanceApi | None = None) -> list[ImageRecord]:
        return self.cloud._own(api or self.api, self.images, self.options)

    def _attempted(self, verb: str, part: Part) -> str:
        return f"{verb} the {part.role} of {self.images.name} on"

    def _error(self, part: Part, why: str, next_step: str) -> CloudError:
        attempted = self._attempted("register", part)
        return CloudError(attempted, self.cloud.name, why=why, next_step=next_step)


def _own_images(api: GlanceApi, attempted: str, **marks: str) -> list[ImageRecord]:
    """Our images with these marks, oldest first, without copies that others made of them."""
    return [image for image in api.images(attempted, **marks) if is_own(image, api.project)]


def _roles(wanted: Sequence[Part]) -> list[str]:
    return [part.role for part in wanted]
