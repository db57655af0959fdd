"""What is known of one file of a file system without reading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["file", "directory", "symlink", "other"]


@dataclass(frozen=True)
class Status:
    """What lstat(2) says. mode: the twelve permission bits; size in bytes."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
