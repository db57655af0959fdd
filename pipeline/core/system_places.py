"""Which directories of a Linux system are the system itself."""

from __future__ import annotations

TOP = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/libx32", "/lib64")
"""With all below them: programs, libraries, settings."""
_BESIDE = (
    *("/usr/local", "/usr/src", "/usr/tmp", "/usr/home", "/usr/games", "/usr/portage", "/usr/obj"),
    *("/usr/lib/debug", "/usr/share/doc"),
)
"""Below those, and yet a system runs and updates itself without."""
_DATABASES = (
    *("/var/lib/dpkg", "/var/lib/rpm", "/var/lib/pacman", "/var/lib/apk", "/var/lib/zypp"),
    *("/var/lib/dnf", "/var/lib/yum", "/var/lib/alternatives", "/var/lib/selinux"),
    *("/var/lib/portage", "/var/lib/pkgtools", "/var/db/pkg", "/var/db/xbps"),
)
"""What package managers know of the system, with all below."""


def is_essential(place: str) -> bool:
    """Whether no system runs, or none can update itself, without what is at `place`."""
    if place in ("/var", "/var/lib", "/var/db"):
        return True
    if any(_below(place, beside) for beside in _BESIDE):
        return False
    return any(_below(place, top) for top in (*TOP, *_DATABASES))


def _below(place: str, top: str) -> bool:
    return f"{place}/".startswith(f"{top}/")
