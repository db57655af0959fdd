"""One upload of a build to Glance: who uses which record, its data, its marks. See glance.py."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.clouds.glance.api import GlanceApi, ImageRecord, Patience
from pipeline.clouds.glance.errors import StatusError
from pipeline.clouds.glance.fill import Filling, SpoiltError, refused
from pipeline.clouds.glance.images import (
    Part,
    attributes,
    claims,
    differences,
    inherited,
    is_own,
    is_whole,
    links,
    losers,
    record_id,
    told,
    unfinished,
    updates,
)
from pipeline.clouds.glance.numbers import UsedNumbers
from pipeline.clouds.protocol import PublishOptions
from pipeline.core import identity
from pipeline.core.errors import CloudError
from pipeline.core.image import Image

# Each time, another upload of the build deleted what this one used. Two agree after one such
# meeting; five are more than anybody starts at once.
_CLAIM_TRIES = 5
_DELETED_IDS = 32  # how often a build's image was deleted and made again, as far as it is asked for
_SPOILT_TRIES = 3  # a cloud that stores wrong bytes three times has a broken disk or proxy


@dataclass
class Upload:
    """One publish of one build."""

    api: GlanceApi
    images: Image
    options: PublishOptions
    parts: Sequence[Part]
    repaired: ImageRecord | None = (
        None  # a machine image that is whole while others of its triple lack
    )
    made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wanted = inherited(self.options, self.repaired) if self.repaired else self.options
        self.numbers = UsedNumbers(self.api.url, self.api.project, self._key())
        self.filling = Filling(self.api, self.images.name, self.options.store)

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
                if is_whole(claimed, roles(self.parts)):
                    return claimed
        raise self._error(
            self.parts[-1],
            "its images change while they are registered",
            "See whether another upload of this build is rolling back, and run it again",
        )

    def bring_up_to_date(
        self, claimed: Mapping[str, ImageRecord], members: Sequence[str], *, completed: bool
    ) -> ImageRecord:
        """Set what the options ask for on a whole triple; the machine image as it is then.

        completed: whether this upload made it whole; else each change is told.
        """
        last = self.parts[-1]
        for part in reversed(self.parts):
            image = claimed.get(part.role)
            if image is None:
                raise self._error(part, "it was deleted meanwhile", "Run it again")
            new = completed and self._is_new(image)
            options = self.wanted if new else self.options
            wanted = updates(part, self.images, options, claimed[last.role], new=new)
            if changes := differences(image, wanted):
                if not completed:
                    words = told(image, changes)
                    self.api.progress.say(f"{self.api.name}: {part.role} {image['id']}: {words}")
                self.api.patch(image["id"], changes, self._attempted("update", part))
            for member in members:
                self.api.add_member(image["id"], member, self._attempted("share", part))
            if self.options.store and self.options.store not in image.get("stores", "").split(","):
                self.api.progress.warn(
                    f"{self.api.name}: {part.role} {image['id']} stays in the store"
                    f" {image.get('stores') or 'it is in'}"
                )
        found = self.api.image(claimed[last.role]["id"], self._attempted("look at", last))
        if found is None:
            raise self._error(last, "it was deleted meanwhile", "Run it again")
        return found

    def _is_new(self, image: ImageRecord) -> bool:
        """Whether the image gets the values of a new one, and not only what was asked for."""
        return self.repaired is None or image["id"] in self.made

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
                if is_whole(claims(found, roles(self.parts)), roles(self.parts)):
                    return
                for image in found:
                    if image["id"] == image_id:
                        self._delete(image, "roll back on", api)
        except CloudError:
            return

    def sweep(self, late: Sequence[ImageRecord]) -> None:
        """Delete what stands beside a whole triple, as far as that can be done now.

        A busy cloud may carry out the last request of a killed run when the next run is done.
        """
        for image in late:
            with contextlib.suppress(CloudError):
                self._delete(image, f"delete the surplus {image['name']} on")

    # -- who uses which record

    def _claim(self, known: Mapping[str, ImageRecord] | None = None) -> dict[str, ImageRecord]:
        """The record of each role, made where there is none. known: those there are, if known."""
        claimed = claims(self._own(), roles(self.parts)) if known is None else dict(known)
        for part in self.parts:
            if part.role not in claimed:
                claimed[part.role] = self._make(part, claimed)
        return claimed

    def _make(self, part: Part, claimed: Mapping[str, ImageRecord]) -> ImageRecord:
        """A record of the part's: a new one, or the one that another upload made meanwhile."""
        attempted = self._attempted("register", part)
        first = self.numbers.first(part.role)
        for number in range(first, first + _DELETED_IDS + 1):
            final = number == first + _DELETED_IDS
            chosen = record_id(self.api.project, self._key(), part.role, number)
            # A build deleted that often is not worth asking further: surplus records are found.
            image_id = str(uuid.uuid4()) if final else chosen
            record = unfinished(part, self.images, self.wanted, self._key(), image_id)
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
                if error.status == 413 or final:
                    raise
                if found is None:
                    self.numbers.spend(part.role, number)
            else:
                self.made.append(image_id)
                return image
        raise AssertionError("unreachable")

    def _settle(self) -> dict[str, ImageRecord]:
        """Those that count, as far as there are; surplus ones are deleted by who sees them."""
        found = self._own()
        claimed = claims(found, roles(self.parts))
        for image in losers(found, claimed):
            self._delete(image, f"delete the surplus {image['name']} on")
        return claimed

    def _delete(self, image: ImageRecord, attempted: str, api: GlanceApi | None = None) -> None:
        (api or self.api).delete(image["id"], attempted)
        self.numbers.spend_id(image.get(identity.MARK_ROLE, ""), image["id"])

    # -- data

    def _fill(self, part: Part, claimed: dict[str, ImageRecord]) -> dict[str, ImageRecord]:
        """Get the part's bytes into its record, replacing the record when that is spoilt."""
        for _ in range(_SPOILT_TRIES):
            image = claimed[part.role]
            try:
                self.filling.fill(part, image["id"], ours=image["id"] in self.made)
            except SpoiltError as error:
                why, next_step = str(error), error.next_step
                self.api.progress.warn(f"{self.api.name}: {part.role} {image['id']}: {why}")
                self._delete(image, self._attempted("replace", part))
                claimed = self._claim()
            else:
                return claimed
        raise self._error(part, why, next_step)

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
                raise StatusError(attempted, self.api.name, 404, "")
            new = self._is_new(image)
            wanted = attributes(part, self.images, self.wanted if new else self.options, new=new)
            wanted["os_hidden"] = True
            if changes := differences(image, wanted):
                self.api.patch(image["id"], changes, attempted)
        attempted = self._attempted("finish", last)
        image_id = claimed[last.role]["id"]
        image = self.api.image(image_id, attempted) or {"id": image_id}
        new = self._is_new(image)
        wanted = attributes(last, self.images, self.wanted if new else self.options, new=new)
        wanted |= links(claimed)
        wanted[identity.MARK_STATE] = identity.WHOLE
        if image.get(identity.MARK_STATE) != identity.WHOLE:
            marks = {identity.MARK_NAME: self.images.name, identity.MARK_STATE: identity.WHOLE}
            older = own_images(self.api, attempted, **marks)
            stamps = [each.get(identity.MARK_GENERATION, "") for each in older]
            wanted[identity.MARK_GENERATION] = identity.next_generation(stamps)
        if changes := differences(image, wanted):
            self.api.patch(image_id, changes, attempted)

    # -- small words

    def _key(self) -> str:
        return identity.content_key(self.images, whole_disk=self.options.whole_disk)

    def _own(self, api: GlanceApi | None = None) -> list[ImageRecord]:
        return own(api or self.api, self.images, self.options)

    def _attempted(self, verb: str, part: Part) -> str:
        return f"{verb} the {part.role} of {self.images.name} on"

    def _error(self, part: Part, why: str, next_step: str) -> CloudError:
        return refused(self.api, part, self.images.name, why, next_step)


def own(api: GlanceApi, images: Image, options: PublishOptions) -> list[ImageRecord]:
    """The build's own images, unfinished ones too, oldest first."""
    key = identity.content_key(images, whole_disk=options.whole_disk)
    return own_images(api, f"look for {images.name} on", **{identity.MARK_KEY: key})


def own_images(api: GlanceApi, attempted: str, **marks: str) -> list[ImageRecord]:
    """Our images with these marks, oldest first, without copies that others made of them."""
    return [image for image in api.images(attempted, **marks) if is_own(image, api.project)]


def roles(wanted: Sequence[Part]) -> list[str]:
    """Of the parts, in order."""
    return [part.role for part in wanted]
