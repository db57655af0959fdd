"""How the pipeline knows its own images on any cloud: names of the marks, and pure decisions.

The marks are image properties on Glance, tags on EC2, fields in the local catalogue.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from pipeline.core.image import Image

MARK_NAME = "image_pipeline_name"
"""The recipe's name."""
MARK_KEY = "image_pipeline_key"
"""`content_key` of the triple an image belongs to: same key, same triple."""
MARK_ROLE = "image_pipeline_role"
"""kernel, ramdisk, machine or disk."""
MARK_SHA256 = "image_pipeline_sha256"
"""Lower-case hex sha256 of the image's own bytes as sent."""
MARK_GENERATION = "image_pipeline_generation"
"""`next_generation`'s stamp."""
MARK_STATE = "image_pipeline_state"
"""`WHOLE` on the machine image once the triple is complete and proved; anything else before."""
MARK_VERIFIED = "image_pipeline_verified"
""" "true" or "false": whether the boot check passed on exactly these bytes."""

WHOLE = "whole"
PARTIAL = "partial"

_STAMP = "%Y%m%dT%H%M%SZ"
_STAMP_PATTERN = re.compile(r"\d{8}T\d{6}Z")


def content_key(images: Image, *, whole_disk: bool = False) -> str:
    """Identity of what is registered: hex sha256 over the name and the digests of the files.

    A whole disk has a key of its own, made of the same digests, for it holds the same content, and
    of the kernel command line, which lies in its boot loader.
    """
    parts = ["disk" if whole_disk else "triple", images.name, images.architecture]
    parts += [f"{file.role}:{file.sha256}" for file in images.triple]
    if whole_disk:
        parts.append(f"command line:{images.command_line}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def next_generation(existing: Iterable[str], now: datetime | None = None) -> str:
    """A UTC stamp such as "20261121T054000Z", later than every existing one.

    Stamps sort as text. A clock that went back, or two generations in one second, moves the
    stamp on by a second; texts that are no stamps are ignored.
    """
    stamp = (now or datetime.now(UTC)).astimezone(UTC).strftime(_STAMP)
    newest = max((text for text in existing if _STAMP_PATTERN.fullmatch(text)), default="")
    if newest < stamp:
        return stamp
    later = datetime.strptime(newest, _STAMP).replace(tzinfo=UTC) + timedelta(seconds=1)
    return later.strftime(_STAMP)
