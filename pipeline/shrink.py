"""Shrink a finished root filesystem to its content, so that fewer zeros are hashed and sent."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.errors import DiskError
from pipeline.stage import Tools

_MINUTES = 30 * 60.0  # s; resize2fs moves blocks one by one, minutes for tens of GB on slow disks


def shrink(image: Path, tools: Tools) -> int:
    """Make the ext file system in `image` as small as it gets and cut the file to it; new bytes.

    The cloud's first boot or Nova grows it again. Raises DiskError for a file system resize2fs
    does not know, ProgramError when e2fsprogs refuses.
    """
    tools.run.run(["e2fsck", "-fy", image], timeout=_MINUTES, ok=(0, 1))
    tools.run.run(["resize2fs", "-M", image], timeout=_MINUTES)
    header = tools.run.run(["dumpe2fs", "-h", image], timeout=60).text
    size = filesystem_bytes(header)
    if size is None or size > image.stat().st_size:
        raise DiskError("shrink", image, why="dumpe2fs does not tell the size of its file system")
    os.truncate(image, size)
    tools.run.run(["e2fsck", "-fn", image], timeout=_MINUTES)
    return size


def filesystem_bytes(header: str) -> int | None:
    """Block count times block size from dumpe2fs -h; None when either is missing."""
    count = re.search(r"^Block count: +(\d+)$", header, re.MULTILINE)
    size = re.search(r"^Block size: +(\d+)$", header, re.MULTILINE)
    return int(count[1]) * int(size[1]) if count and size else None
