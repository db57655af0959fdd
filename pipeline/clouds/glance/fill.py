"""Getting an image's bytes into its record in Glance, whoever else is at it, and comparing them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipeline.clouds.glance.api import GlanceApi, ImageRecord
from pipeline.clouds.glance.body import ImageBody
from pipeline.clouds.glance.errors import StatusError, TransientError
from pipeline.clouds.glance.images import BUSY, Part, server_digest
from pipeline.core.errors import CloudError
from pipeline.host.sparse import digests

_HASHES = ("sha512",)  # Glance's default hashing_algorithm; others are computed when met
_IMPORTS = 2  # an import that failed twice, for a reason that the cloud tells, fails again


class SpoiltError(Exception):
    """The image is gone, dead or holds other bytes: a new one must take its place.

    next_step: what to do when that happens again and again.
    """

    def __init__(
        self, why: str, next_step: str = "Show it to the cloud's operator: it loses or changes data"
    ) -> None:
        super().__init__(why)
        self.next_step = next_step


def refused(api: GlanceApi, part: Part, name: str, why: str, next_step: str) -> CloudError:
    """The error of a part that cannot be registered. name: the build's."""
    attempted = f"register the {part.role} of {name} on"
    return CloudError(attempted, api.name, why=why, next_step=next_step)


@dataclass
class _State:
    """Of one record while it is filled. broken: an upload of ours broke off."""

    busy_until: float
    failures: int = 0
    broken: bool = False
    changed: str = ""
    body: ImageBody | None = None


@dataclass
class Filling:
    """Fills the records of one upload. name: the build's. store: as in PublishOptions.

    direct: until the cloud turns out to forbid uploads but through its import.
    """

    api: GlanceApi
    name: str
    store: str = ""
    direct: bool = True
    _yielded: set[str] = field(default_factory=set)  # records whose maker was given time

    def fill(self, part: Part, image_id: str, *, ours: bool) -> None:
        """Until the record is active with exactly the part's bytes. Raises SpoiltError.

        ours: whether this upload made the record.
        """
        state = _State(self._busy_until(part))
        attempted = f"send the {part.role} of {self.name} on"
        while True:
            image = self.api.image(image_id, attempted)
            if image is None:
                raise SpoiltError("somebody deleted it", "Find out who, and run it again")
            status = image["status"]
            if status == "active":
                self._compare(part, image, state.body)
                return
            if status in BUSY:
                self._wait(part, image, state)
            elif status == "deactivated":
                raise self._refused(
                    part,
                    f"image {image_id} is deactivated",
                    "Ask the cloud's operator why; delete it to have it sent again",
                )
            elif status != "queued":
                raise SpoiltError(f"it is {status}")
            elif not ours and image_id not in self._yielded:
                # Two uploads that begin at once can leave the image in "saving" for ever; one
                # that was killed will not begin.
                self._yielded.add(image_id)
                self.api.pause(2 * self.api.patience.poll, "leaving it to who made the record")
            else:
                self._try(part, image_id, state, attempted)

    def _wait(self, part: Part, image: ImageRecord, state: _State) -> None:
        """For an image that is busy; an error when it stays so for too long."""
        status = image["status"]
        if state.broken and state.changed not in ("", image["updated_at"]):
            # Not what we broke off: another upload has begun since.
            state.broken, state.busy_until = False, self._busy_until(part)
        state.changed = image["updated_at"]
        if time.monotonic() > state.busy_until:
            # Staged data waits for ever for the import of a run that was killed.
            if state.broken or status == "uploading":
                raise SpoiltError(f"it stays {status} after an upload broke off")
            raise self._refused(
                part,
                f"image {image['id']} stays in the state {status}",
                "Wait for the upload that runs elsewhere; if none does, run"
                f" `openstack image delete {image['id']}`",
            )
        imported = state.body is not None and not self.direct
        where = "the cloud imports it" if imported else "by another upload or the cloud itself"
        self.api.pause(self.api.patience.poll, f"the {part.role} is {status}, {where}")

    def _try(self, part: Part, image_id: str, state: _State, attempted: str) -> None:
        """Send the data once more, unless that has failed too often."""
        if state.body is not None and not self.direct and state.failures >= _IMPORTS:
            self._require_import(part, image_id, attempted)
        if state.failures >= self.api.patience.tries:
            raise self._refused(
                part,
                f"{image_id} is empty again after each of {state.failures} uploads",
                "Ask its operator: the log of Glance says why it gives the data up",
            )
        state.failures += 1
        try:
            state.body = self._send(part, image_id, attempted)
        except TransientError as failure:
            status = failure.final.status if isinstance(failure.final, StatusError) else 0
            if state.failures >= self.api.patience.tries:
                if status == 409 and not self.direct:
                    # What a killed run staged lies in the way, and the record looks empty.
                    raise SpoiltError("its staging area stays taken") from failure
                raise failure.final from None
            delay = self.api.patience.delay(state.failures, failure.asked)
            self.api.pause(delay, f"{failure.final.why}; sending again in {delay:.1f} s")
            if status not in (404, 409, 410):  # those: it is deleted, or another's upload
                state.broken = True
                state.busy_until = time.monotonic() + self.api.patience.broken

    def _require_import(self, part: Part, image_id: str, attempted: str) -> None:
        """CloudError with the cloud's reason when its import of the image failed."""
        if why := self.api.import_failure(image_id, attempted):
            raise self._refused(
                part,
                f"its import failed {_IMPORTS} times: {why}",
                "Ask its operator; where it converts what is imported, it cannot take"
                f" {part.container_format}/{part.disk_format}",
            )

    def _busy_until(self, part: Part) -> float:
        return time.monotonic() + self.api.patience.busy + part.size / (1 << 20)

    def _send(self, part: Part, image_id: str, attempted: str) -> ImageBody:
        label = f"{self.api.name}: {part.role} of {self.name}"
        with self.api.progress.task(label, total=part.size) as meter:
            body = ImageBody(part.path, part.size, part.sha256, meter, _HASHES)
            if self.direct:
                try:
                    self.api.send(image_id, body, part.size, attempted, store=self.store)
                except StatusError as error:
                    if error.status not in (403, 405):
                        raise
                    if "glance-direct" not in self.api.import_methods(attempted):
                        raise
                    self.direct = False
                else:
                    return body
            self.api.stage(image_id, body, attempted)
            self.api.import_staged(image_id, attempted, store=self.store)
            return body

    def _compare(self, part: Part, image: ImageRecord, body: ImageBody | None) -> None:
        """Our bytes against what the cloud says it holds."""
        if image["disk_format"] != part.disk_format:
            raise self._refused(
                part,
                f"the cloud converts what is imported, {part.disk_format} to"
                f" {image['disk_format']}, so that nobody can compare it with what was built",
                f"Build the disk in that format (qemu-img convert -O {image['disk_format']}), or"
                " ask the cloud's operator to take image_conversion out of its import plugins",
            )
        found = server_digest(image)
        if found is None:
            raise self._refused(part, "the cloud tells no hash of it", "Ask its operator why")
        algorithm, value = found
        ours = body.hexdigest(algorithm) if body else None
        if ours is None:
            ours = self._digest(part, algorithm)
        if (image["size"], value) != (part.size, ours):
            raise SpoiltError(
                f"the cloud holds {image['size']} bytes with {algorithm} {value}, we sent"
                f" {part.size} with {ours}"
            )
        attempted = f"look at the {part.role} of {self.name} on"
        if body is None and not self.api.has_data(image["id"], attempted):
            raise SpoiltError("its data is gone")

    def _digest(self, part: Part, algorithm: str) -> str:
        try:
            with self.api.progress.task(f"hashing {part.path.name}", total=part.size) as meter:
                return digests(part.path, [algorithm], meter)[algorithm]
        except (OSError, EOFError) as error:
            raise self._refused(
                part, f"{part.path} cannot be read: {error}", "Build it again"
            ) from error

    def _refused(self, part: Part, why: str, next_step: str) -> CloudError:
        return refused(self.api, part, self.name, why, next_step)
