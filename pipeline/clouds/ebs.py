"""EC2 with EBS-backed images: AWS and clouds with the EBS direct API or ImportSnapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.clouds.aws import Addressing, Site
from pipeline.clouds.protocol import PublishOptions
from pipeline.model import ImageSet, Registration
from pipeline.progress import Progress

Method = Literal["auto", "direct", "import"]
BootMode = Literal["legacy-bios", "uefi", "uefi-preferred"]


@dataclass(frozen=True)
class EbsCloud:
    """protocol.Cloud over EBS snapshots and RegisterImage; made by `open_ebs`."""

    name: str
    site: Site
    bucket: str
    method: Method
    boot_mode: BootMode

    def probe(self, images: ImageSet, options: PublishOptions) -> None:
        """See protocol.Cloud."""
        raise NotImplementedError

    def plan(self, images: ImageSet, options: PublishOptions) -> list[str]:
        """See protocol.Cloud."""
        raise NotImplementedError

    def publish(
        self, images: ImageSet, options: PublishOptions, progress: Progress
    ) -> Registration:
        """See protocol.Cloud."""
        raise NotImplementedError

    def generations(self, name: str) -> list[Registration]:
        """See protocol.Cloud."""
        raise NotImplementedError

    def withdraw(self, registration: Registration) -> None:
        """See protocol.Cloud."""
        raise NotImplementedError


def open_ebs(
    profile: str,
    *,
    bucket: str = "",
    method: Method = "auto",
    boot_mode: BootMode = "uefi-preferred",
    region: str = "",
    addressing: Addressing = "auto",
) -> EbsCloud:
    """The EBS-backed cloud of an AWS profile. `bucket` is needed for method "import" alone."""
    raise NotImplementedError
