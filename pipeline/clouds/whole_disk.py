"""The whole disk of a build as clouds register it."""

from __future__ import annotations

from pipeline.core.errors import InputError
from pipeline.core.image import Artifact, Image


def require_disk(images: Image, cloud: str) -> Artifact:
    """The whole disk of the build; InputError when it has none."""
    if images.disk is None:
        raise InputError(
            f"register a whole disk of {images.name} on",
            cloud,
            why="the build has none",
            next_step="Build it with --disk-image, or set disk_image in its recipe",
        )
    return images.disk
