"""What every cloud does, whatever its API: the contract that tests/contract holds for each.

- `publish` registers kernel, ramdisk and machine image in that order, linked, and returns ids.
- It finds what is there by content (`identity.content_key`, recorded on every image, tag or
  catalogue entry), so a rerun returns the same ids with `created` False and sends nothing.
  Attributes that the cloud can change later (tags, properties, visibility) are brought up to date
  where the options ask for them; each change is told, and what was not asked for stays.
- A changed build becomes a new generation; older ones stay until `withdraw`. Pruning is not the
  clouds' work: pipeline/workflows/publish.py does it, after the new generation is proved.
- At any failure or interrupt nothing half-registered is visible: what this run made is rolled
  back, or stays hidden and is adopted by the next run.
- Two publishes of one build at once do not make two triples.
- Images that this pipeline did not make are never touched, whatever their name.
- A long call uses `progress` at least every few seconds while it moves or waits: that is how the
  user's interrupt reaches it. `progress` may raise `Interrupted` from any of its methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pipeline.core.errors import CloudError
from pipeline.core.events import Progress
from pipeline.core.image import Image, Registration


class Interrupted(BaseException):
    """The user stopped the run: not an Exception, so that no retry or rollback swallows it."""


@dataclass(frozen=True)
class PublishOptions:
    """How to register, the same words for every cloud.

    What is None was not asked for: a new image gets the cautious value (private, not protected,
    shown, no minimum), and one that is there keeps what it has, whoever set it.

    visibility: who may see the images; a cloud without that notion says so in `probe`.
    members: projects or accounts that images of visibility "shared" are shared with; those that
    are members already stay. properties: added to the image's own. keep: prune own older
    generations down to this many, the new one included, after it is proved; None keeps all.
    whole_disk: register `Image.disk` in place of the triple; a cloud that cannot says so in
    `probe`. regions: further regions that get a copy by the cloud's own API, where it has one.
    store: the cloud's store for the bytes, where it has several; "" leaves it to the cloud.
    """

    visibility: Literal["private", "shared", "community", "public"] | None = None
    protected: bool | None = None
    hidden: bool | None = None
    tags: Sequence[str] = ()
    members: Sequence[str] = ()
    min_disk_gib: int | None = None
    min_ram_mib: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    keep: int | None = None
    whole_disk: bool = False
    regions: Sequence[str] = ()
    store: str = ""


class InUseError(CloudError):
    """An image is named by something that would stop working without it; it was not withdrawn."""


class Cloud(Protocol):
    """One place images can be registered in. Errors are CloudError.

    Opening one reads configuration only; the first request is made by `probe` or later. Each
    method opens and closes its own connections. One object is used by one thread at a time.
    """

    @property
    def name(self) -> str:
        """The user's word for it, such as "glance:mycloud"; unique in a run."""

    def check(self) -> str:
        """Ask each service that an upload uses, as this user; a line that says who or where.

        Nothing secret is in it. PipelineError when an upload could not work.
        """

    def probe(self, images: Image, options: PublishOptions) -> None:
        """Fail now, in seconds, if credentials, permissions or image types will not do."""

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        """The API calls `publish` would make now, one a line; changes nothing."""

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        """Register the triple, or find it; see the module's contract."""

    def generations(self, name: str) -> list[Registration]:
        """Whole triples of this pipeline under that name, newest first; `created` is False."""

    def withdraw(self, registration: Registration) -> None:
        """Deregister one of our own triples, machine image first, and delete its data.

        What is gone already is no error: a withdrawal that was interrupted can be repeated.
        InUseError, before anything is deleted, where the cloud tells that it is still needed.
        """
