"""What an installer is given to install on, and what of that becomes the image.

The machine has one blank virtio disk (command.py). The image takes the root and /boot from it, as
one file system.
"""

from __future__ import annotations

import fnmatch

DISK = "vda"
"""The name of the machine's only disk."""


def is_machines_disk(name: str) -> bool:
    """Whether a disk's name, or a pattern of names, means the machine's disk."""
    name = name.removeprefix("/dev/")
    return name.startswith("disk/by-path/") or fnmatch.fnmatchcase(DISK, name)
