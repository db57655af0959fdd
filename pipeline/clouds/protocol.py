"""What every cloud does, whatever its API: the contract that tests/contract holds for each.

- `publish` registers kernel, ramdisk and machine image in that order, linked, and returns ids.
- It finds what is there by content (the sha256 recorded on the image, tag or catalogue entry), so
  a rerun returns the same ids with `created` False and sends nothing.
- A changed build becomes a new generation; older ones stay until `withdraw` or `keep`.
- At any failure or interrupt nothing half-registered is visible: what this run made is rolled
  back, or stays hidden and is adopted by the next run.
- Two publishes of one build at once do not make two triples.
- Images that this pipeline did not make are never touched, whatever their name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pipeline.model import ImageSet, Registration
from pipeline.progress import Progress


@dataclass(frozen=True)
class PublishOptions:
    """How to register, the same words for every cloud.

    visibility: who may see the machine image; a cloud without that notion says so in `probe`.
    properties: added to the image set's own. keep: prune own older generations down to this
    many after the new one is proved; None keeps all.
    """

    visibility: Literal["private", "shared", "community", "public"] = "private"
    protected: bool = False
    hidden: bool = False
    tags: Sequence[str] = ()
    members: Sequence[str] = ()
    min_disk_gib: int = 0
    min_ram_mib: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)
    keep: int | None = None


class Cloud(Protocol):
    """One place images can be registered in. Errors are CloudError."""

    @property
    def name(self) -> str:
        """The user's word for it, such as "glance:mycloud"; unique in a run."""

    def probe(self, images: ImageSet, options: PublishOptions) -> None:
        """Fail now, in seconds, if credentials, permissions or image types will not do."""

    def plan(self, images: ImageSet, options: PublishOptions) -> list[str]:
        """The API calls `publish` would make now, one a line; changes nothing."""

    def publish(
        self, images: ImageSet, options: PublishOptions, progress: Progress
    ) -> Registration:
        """Register the triple, or find it; see the module's contract."""

    def generations(self, name: str) -> list[Registration]:
        """Whole triples of this pipeline under that name, newest first."""

    def withdraw(self, registration: Registration) -> None:
        """Deregister one of our own triples, machine image first, and delete its data."""
