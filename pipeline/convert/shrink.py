"""Shrink a finished root filesystem to its content, so that fewer zeros are hashed and sent."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.convert.survey import EXT
from pipeline.core.errors import DiskError
from pipeline.guest.access.fsck import e2fsck
from pipeline.host.context import Tools

_BOUND = 30 * 60.0  # s; resize2fs moves blocks one by one, minutes for tens of GB on slow disks
_STABLE_INODES = 0x800  # resize2fs(8) refuses to move inodes whose numbers encryption uses
_ROOM = 64 << 20  # bytes left free: first-boot keys and logs fit before a cloud grows the volume


def shrink(image: Path, tools: Tools) -> int:
    """Cut the ext file system in `image`, and the file, to its content and some room; new bytes.

    Nova grows it again to the flavor's disk. Raises DiskError for a file system whose size
    e2fsprogs does not tell, ProgramError when it refuses.
    """
    run = tools.run.run
    # resize2fs wants a file system that was checked since its last mount. What preening does not
    # mend was found by nobody before: it must not be mended by guess.
    _checked(image, "-fp", tools)
    now, block = geometry(run(["dumpe2fs", "-h", image], timeout=_BOUND).text, image)
    least = minimum(run(["resize2fs", "-P", image], timeout=_BOUND).text, image)
    wanted = least + _ROOM // block
    if wanted < now:
        run(["resize2fs", image, str(wanted)], timeout=_BOUND)
        now, block = geometry(run(["dumpe2fs", "-h", image], timeout=_BOUND).text, image)
    os.truncate(image, now * block)
    _checked(image, "-fn", tools)
    return now * block


def _checked(image: Path, how: str, tools: Tools) -> None:
    """DiskError if e2fsck finds damage."""
    found = e2fsck(image, tools, how, timeout=_BOUND)
    if found.damaged:
        raise DiskError(
            "shrink",
            image,
            why=f"e2fsck finds it damaged: {found.words}",
            next_step="Set shrink = false in the recipe, and report this",
        )


def kept_in_size(image: Path) -> tuple[str, ...]:
    """Why the ext file system in `image` is not shrunk, for people; () if it can be.

    Layout: ext4 disk format, superblock at byte 1024, feature_compat at 92.
    """
    with image.open("rb") as file:
        file.seek(1024 + 92)
        features = int.from_bytes(file.read(4), "little")
    if not features & _STABLE_INODES:
        return ()
    return (
        "shrink is left out: the file system has the feature stable_inodes, whose files may not "
        "move, so the image keeps the size of the installed volume",
    )


def left_out(filesystem: str) -> tuple[str, ...]:
    """Why a root with such a file system is not shrunk, for people; () if it is."""
    if filesystem in EXT:
        return ()
    return (
        f"shrink is left out: a file system of type {filesystem} cannot be made smaller, "
        "so the image keeps the size of the installed volume",
    )


def geometry(header: str, image: Path) -> tuple[int, int]:
    """Block count and block size in bytes from what `dumpe2fs -h` prints."""
    return _number(r"^Block count: +(\d+)$", header, image), _number(
        r"^Block size: +(\d+)$", header, image
    )


def minimum(said: str, image: Path) -> int:
    """Blocks from what `resize2fs -P` prints."""
    return _number(r"^Estimated minimum size of the filesystem: (\d+)$", said, image)


def _number(pattern: str, text: str, image: Path) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise DiskError("shrink", image, why="e2fsprogs does not tell the size of its file system")
    return int(found[1])
