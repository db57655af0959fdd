"""What a guest calls itself: its os-release.

Source: os-release(5): shell assignments in /etc/os-release, else /usr/lib/os-release.
"""

from __future__ import annotations

import contextlib
import shlex
from typing import Protocol

_PLACES = ("/etc/os-release", "/usr/lib/os-release")
_MAX_FILE = 64 << 10  # bytes; real ones have a kilobyte
_FIELDS = ("ID", "VERSION_ID", "NAME", "PRETTY_NAME", "VERSION_CODENAME")


class Files(Protocol):
    """What reading needs of a tree."""

    def read(self, path: str, limit: int) -> bytes | None:
        """A regular file's content; None when it is none or has more than `limit` bytes."""


def read(files: Files) -> dict[str, str]:
    """The fields that name system and release; {} where the guest has no os-release."""
    for place in _PLACES:
        # The first is most often a link to the second, which the tree does not follow.
        content = files.read(place, _MAX_FILE)
        if content is not None:
            return parse(content.decode("utf-8", "backslashreplace"))
    return {}


def parse(text: str) -> dict[str, str]:
    """Those of the fields that the text sets; a line that no shell would take is left out."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name in _FIELDS:
            with contextlib.suppress(ValueError):
                found[name] = "".join(shlex.split(value)[:1])
    return {name: found[name] for name in _FIELDS if found.get(name)}
