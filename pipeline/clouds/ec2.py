"""EC2-compatible clouds with S3-backed images: Eucalyptus, OpenStack's ec2-api and their kin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.clouds.aws import Addressing, Site
from pipeline.clouds.protocol import PublishOptions
from pipeline.model import ImageSet, Registration
from pipeline.progress import Progress

Dialect = Literal["auto", "full", "minimal"]


@dataclass(frozen=True)
class Ec2Cloud:
    """protocol.Cloud over S3 bundles and RegisterImage; made by `open_ec2`."""

    name: str
    site: Site
    bucket: str
    prefix: str
    certificate: Path

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


def open_ec2(
    profile: str,
    *,
    bucket: str = "",
    prefix: str = "",
    certificate: Path | None = None,
    region: str = "",
    addressing: Addressing = "auto",
    dialect: Dialect = "auto",
) -> Ec2Cloud:
    """The S3-backed cloud of an AWS profile. InputError names the setting that is missing."""
    raise NotImplementedError
