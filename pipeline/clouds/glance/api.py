"""Requests to one Glance: time-outs, retries, and errors that say what to do.

openstacksdk gives configuration, authentication and the catalogue. Its create_image is not used:
it takes a queued, empty image with the right hashes for an uploaded one, and makes a second image
where a first one differs. Source of paths and fields: the Image API v2 reference, up to v2.16.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from pipeline.clouds.glance.body import ChangedFileError
from pipeline.clouds.glance.errors import (
    LIBRARY_ERRORS,
    TRANSIENT,
    StatusError,
    TransientError,
    clean,
    raise_for,
    retry_after,
)
from pipeline.core.errors import CloudError
from pipeline.core.events import Progress, QuietProgress
from pipeline.host.retry import pause

_MEETINGS = 3  # deletions that meet others; an image in use stays so and is an error then

ImageRecord = dict[str, Any]
"""An image as the Image API v2 shows it."""


@dataclass(frozen=True)
class Patience:
    """How long to put up with a cloud. Times in seconds.

    tries, first, most: a failed request is tried again after `first`, twice that and so on up to
    `most`, each shortened by up to half at random so that many clients do not come back together.
    Six tries wait about half a minute in all, the time in which a restarted Glance or a switched
    load balancer is back. connect: the longest a connection, or one write on it, may take; three
    lost SYN packets cost 7 s. read: the longest silence before an answer; Glance answers an
    upload only when its store has the last byte. poll: between two looks at an image that another
    upload, or the cloud itself, is busy with. busy: how long such an image may stay busy, on top of
    a second for each MiB.
    """

    tries: int = 6
    first: float = 1.0
    most: float = 30.0
    connect: float = 30.0
    read: float = 300.0
    poll: float = 2.0
    busy: float = 600.0
    broken: float = 90.0

    def delay(self, failures: int, asked: float | None) -> float:
        """Seconds before the next try after so many failures; `asked` is the Retry-After."""
        if asked is not None:
            # Ten times our own limit is still a cloud that will be back while somebody watches.
            return min(asked, 10 * self.most)
        longest = min(self.most, self.first * 2.0 ** (failures - 1))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 # jitter, not a secret


_Result = TypeVar("_Result")


class GlanceApi:
    """One authenticated session; made by `glance_login.connect`."""

    def __init__(
        self,
        name: str,
        url: str,
        session: Any,
        patience: Patience,
        progress: Progress | None = None,
    ) -> None:
        self.name, self.patience = name, patience
        self.progress: Progress = progress or QuietProgress()
        self.url, self.project = url, ""
        self.identity = ""  # Keystone's URL; "" where there is none
        self.roles: tuple[str, ...] = ()
        self.session = session

    # -- images

    def images(self, attempted: str, **filters: str) -> list[ImageRecord]:
        """Our project's images that match, hidden ones too, oldest first."""
        found: list[ImageRecord] = []
        owner = {"owner": self.project} if self.project else {}
        # Hidden ones first: one that is shown between the requests is met twice, not missed.
        for hidden in ("true", "false"):
            query = {**filters, **owner, "os_hidden": hidden, "limit": "100"}
            page: str | None = f"images?{urlencode(query)}"
            while page:
                answer = self._json("GET", page, attempted)
                found += answer["images"]
                # The path of `next` leaves out where a front server has mounted Glance.
                page = f"images?{urlsplit(answer['next']).query}" if "next" in answer else None
        unique = {image["id"]: image for image in found}
        return sorted(unique.values(), key=lambda image: (image["created_at"], image["id"]))

    def any_image(self, attempted: str) -> None:
        """Ask for one image, whichever: whether the service answers this user at all."""
        self._json("GET", "images?limit=1", attempted)

    def image(self, image_id: str, attempted: str) -> ImageRecord | None:
        """The image, or None if there is none of that id."""
        try:
            return self._json("GET", f"images/{image_id}", attempted)
        except StatusError as error:
            if error.status == 404:
                return None
            raise

    def create(self, properties: Mapping[str, Any], attempted: str) -> ImageRecord:
        """A new record without data, of an id of our choice. StatusError 409: that id was given
        away, perhaps by this very call, whose first answer was lost.
        """
        return self._json("POST", "images", attempted, json=dict(properties))

    def patch(self, image_id: str, changes: Mapping[str, Any], attempted: str) -> None:
        """Set properties; each is added or replaced."""
        body = [{"op": "add", "path": f"/{_escaped(k)}", "value": changes[k]} for k in changes]
        kind = "application/openstack-images-v2.1-json-patch"
        self._call(
            "PATCH",
            f"images/{image_id}",
            attempted,
            data=json.dumps(body).encode(),
            headers={"Content-Type": kind},
        )

    def delete(self, image_id: str, attempted: str) -> None:
        """Delete; one that is gone already is no error."""
        for failures in itertools.count(1):
            try:
                self._call("DELETE", f"images/{image_id}", attempted)
            except StatusError as error:
                # Two deletions that meet get 400, 404 or 409, while the image is seen for a
                # moment more: what counts is that it goes.
                if error.status == 404 or self.image(image_id, attempted) is None:
                    return
                if error.status not in (400, 409) or failures >= _MEETINGS:
                    raise
            else:
                return
            self.pause(self.patience.poll, "an image is being deleted")

    def send(
        self,
        image_id: str,
        body: Iterable[memoryview],
        size: int,
        attempted: str,
        *,
        store: str = "",
    ) -> None:
        """Upload data in one request. TransientError: look at the image's status, then again."""
        # Glance compares the size at the end, so that a cut-off body never becomes an image.
        headers = {"X-OpenStack-Image-Size": str(size)}
        if store:
            headers["X-Image-Meta-Store"] = store
        self._upload(f"images/{image_id}/file", body, headers, attempted)

    def stage(self, image_id: str, body: Iterable[memoryview], attempted: str) -> None:
        """Upload data to the staging area, for `import_staged`. TransientError as for `send`."""
        self._upload(f"images/{image_id}/stage", body, {}, attempted)

    def _upload(
        self, path: str, body: Iterable[memoryview], headers: Mapping[str, str], attempted: str
    ) -> None:
        kind = {"Content-Type": "application/octet-stream"}
        try:
            self._request("PUT", path, attempted, {"data": body, "headers": {**kind, **headers}})
        except StatusError as error:
            if error.status in (
                404,
                409,
                410,
            ):  # another upload deleted or fills the record just now
                raise TransientError(error) from error
            raise

    def has_data(self, image_id: str, attempted: str) -> bool:
        """Whether an active image's data can be had; where downloads are forbidden nobody knows.

        Glance deletes the data before the record: a deletion that broke off in between leaves an
        active image, with all its hashes, of nothing.
        """
        try:
            answer = self.persist(
                lambda: self._request(
                    "GET",
                    f"images/{image_id}/file",
                    attempted,
                    {"headers": {"Range": "bytes=0-0"}, "stream": True},
                )
            )
        except StatusError as error:
            if error.status in (404, 410):
                return False
            if error.status in (401, 403):
                return True
            raise
        empty: bool = answer.status_code == HTTPStatus.NO_CONTENT
        answer.close()
        return not empty

    def import_staged(self, image_id: str, attempted: str, *, store: str = "") -> None:
        """Have the cloud take over what was staged; the image becomes active some time later."""
        body: dict[str, Any] = {"method": {"name": "glance-direct"}}
        if store:
            body["stores"] = [store]
        self._call("POST", f"images/{image_id}/import", attempted, json=body)

    def import_failure(self, image_id: str, attempted: str) -> str:
        """Why the newest import of an image failed, in the cloud's words; "" when it did not."""
        try:
            tasks = self._json("GET", f"images/{image_id}/tasks", attempted)["tasks"]
        except StatusError as error:
            if error.status in (403, 404, 405):  # a Glance before 22, or not for this user
                return ""
            raise
        newest: dict[str, Any] = max(
            tasks, key=lambda task: str(task.get("created_at", "")), default={}
        )
        return clean(newest.get("message") or "") if newest.get("status") == "failure" else ""

    def stores(self, attempted: str) -> list[str]:
        """The stores that a user may choose; none where the cloud has but one."""
        try:
            answer = self._json("GET", "info/stores", attempted)
        except StatusError as error:
            if error.status == 404:
                return []
            raise
        return [one["id"] for one in answer["stores"] if not one.get("read-only")]

    def members(self, image_id: str, attempted: str) -> set[str]:
        """The projects that an image is shared with."""
        answer = self._json("GET", f"images/{image_id}/members", attempted)
        return {member["member_id"] for member in answer["members"]}

    def ask_identity(self, path: str, attempted: str) -> dict[str, Any] | None:
        """An answer of Keystone's v3 API; None when it has none, or none for this user."""
        try:
            return self._json("GET", f"{self.identity}/v3/{path}", attempted)
        except StatusError as error:
            if error.status not in (403, 404):
                raise
            return None

    def import_methods(self, attempted: str) -> list[str]:
        """Ways of import that the cloud offers; none where it knows no import at all."""
        try:
            answer = self._json("GET", "info/import", attempted)
        except StatusError as error:
            if error.status == 404:
                return []
            raise
        methods: list[str] = answer["import-methods"]["value"]
        return methods

    def schema(self, attempted: str) -> dict[str, Any]:
        """What the cloud takes as an image: its schema lists the formats it allows."""
        return self._json("GET", "schemas/image", attempted)

    def add_member(self, image_id: str, member: str, attempted: str) -> None:
        """Share an image with a project; it must accept the image before it can list it."""
        try:
            self._call("POST", f"images/{image_id}/members", attempted, json={"member": member})
        except StatusError as error:
            if error.status != 409:  # a member already
                raise

    # -- the network

    def pause(self, seconds: float, why: str) -> None:
        """Sleep, so that the user's interrupt comes through."""
        with self.progress.task(f"{self.name}: {why}", unit="steps") as meter:
            pause(seconds, lambda: meter.advance(0))

    def persist(self, action: Callable[[], _Result]) -> _Result:
        """The action's result, tried again with growing delays while it fails for a moment."""
        for failures in itertools.count(1):
            try:
                return action()
            except TransientError as failure:
                if failures >= self.patience.tries:
                    raise failure.final from None
                delay = self.patience.delay(failures, failure.asked)
                self.pause(delay, f"{failure.final.why}; trying again in {delay:.1f} s")
        raise AssertionError("unreachable")

    def _json(self, method: str, path: str, attempted: str, **words: Any) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            response = self._request(method, path, attempted, words)
            try:
                answer = response.json()
            except ValueError as error:
                answer = error
            if isinstance(answer, dict):
                return answer
            raise TransientError(
                CloudError(
                    attempted,
                    self.name,
                    why=f"its answer to {method} {path} is not that of an Image API",
                    next_step="See whether the image endpoint of its catalogue is right",
                )
            )

        return self.persist(ask)

    def _call(self, method: str, path: str, attempted: str, **words: Any) -> None:
        self.persist(lambda: self._request(method, path, attempted, words))

    def _request(self, method: str, path: str, attempted: str, words: Mapping[str, Any]) -> Any:
        try:
            response = self.session.request(
                urljoin(f"{self.url}/", path),
                method,
                raise_exc=False,
                connect_retries=0,
                status_code_retries=0,
                timeout=(self.patience.connect, self.patience.read),
                **words,
            )
        except ChangedFileError as error:
            raise CloudError(
                attempted, self.name, why=str(error), next_step="Build it again"
            ) from error
        except LIBRARY_ERRORS as error:
            raise_for(error, attempted, self.name)
        if response.status_code < 400:
            return response
        refusal = StatusError(attempted, self.name, response.status_code, response.text)
        if response.status_code in TRANSIENT:
            raise TransientError(refusal, retry_after(response.headers))
        raise refusal


def _escaped(name: str) -> str:
    """A property's name in the path of a change (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def missing_formats(schema: Mapping[str, Any], wanted: Sequence[tuple[str, str]]) -> list[str]:
    """Which of the wanted (container, disk) formats a cloud's schema leaves out."""
    properties = schema.get("properties", {})

    def allowed(field: str, value: str) -> bool:
        choices = properties.get(field, {}).get("enum")
        return choices is None or value in choices

    return [
        f"{field} {value}"
        for container, disk in wanted
        for field, value in (("container_format", container), ("disk_format", disk))
        if not allowed(field, value)
    ]
