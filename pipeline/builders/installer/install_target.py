"""What an installer is given to install on, and what of that becomes the image.

The machine has one blank virtio disk (command.py). The image takes the root and /boot from it, as
one file system.
"""

from __future__ import annotations

import fnmatch

DISK = "vda"
"""The name of the machine's only disk."""

_ESSENTIAL_VAR = ("/var", "/var/lib", "/var/db", "/var/lib/rpm", "/var/lib/dpkg")
_SPARE_USR = ("/usr/local", "/usr/src", "/usr/games", "/usr/share/doc", "/usr/lib/debug")


def is_machines_disk(name: str) -> bool:
    """Whether a disk's name, or a pattern of names, means the machine's disk."""
    name = name.removeprefix("/dev/")
    return name.startswith("disk/by-path/") or fnmatch.fnmatchcase(DISK, name)


def is_essential(point: str) -> bool:
    """Whether a system does not run without the content of this directory."""
    if point in ("/bin", "/sbin", *_ESSENTIAL_VAR):
        return True
    if f"{point}/".startswith(tuple(f"{spare}/" for spare in _SPARE_USR)):
        return False
    return f"{point}/".startswith(("/usr/", "/lib/", "/lib64/", "/etc/"))
