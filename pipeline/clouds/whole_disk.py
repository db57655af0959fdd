"""The whole disk of a build as clouds register it."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import Progress, QuietProgress
from pipeline.core.image import Image
from pipeline.host.sparse import digests


def require_disk(images: Image, cloud: str) -> Path:
    """The whole disk of the build; InputError when it has none."""
    if images.disk is None:
        raise InputError(
            f"register a whole disk of {images.name} on",
            cloud,
            why="the build has none",
            next_step="Build it with --disk-image, or set disk_image in its recipe",
        )
    return images.disk


def disk_digest(images: Image, cloud: str, progress: Progress | None = None) -> str:
    """sha256 of the build's whole disk, read now; CloudError when the manifest says another."""
    path = require_disk(images, cloud)
    shown = progress or QuietProgress()
    with shown.task(f"{cloud}: hashing {path.name}", total=path.stat().st_size) as meter:
        digest = digests(path, ["sha256"], meter)["sha256"]
    if images.disk_sha256 not in ("", digest):
        raise CloudError(
            f"register a whole disk of {images.name} on",
            cloud,
            why=f"{path} is no longer what the build made: its sha256 is {digest}, the manifest"
            f" says {images.disk_sha256}",
            next_step="Build it again",
        )
    return digest
