"""Make an installed root file system an image: its label, fstab, key script and hygiene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.guest import Guest
from pipeline.stage import Tools


@dataclass(frozen=True)
class Edit:
    """One changed guest path: `change` is a unified diff, or a phrase for what is not text."""

    path: str
    change: str


@dataclass(frozen=True)
class Customization:
    """What was done to the root file system.

    removed: guest paths. kept_mounts, dropped_mounts: lines of the old fstab. relabel: how
    SELinux labels were treated: "labelled" with the guest's own policy, "first-boot"
    (/.autorelabel), or "none" for a guest without a policy.
    """

    edits: tuple[Edit, ...]
    removed: tuple[str, ...]
    kept_mounts: tuple[str, ...]
    dropped_mounts: tuple[str, ...]
    warnings: tuple[str, ...]
    relabel: Literal["none", "labelled", "first-boot"]


def customize(guest: Guest, *, user: str, templates: Path, tools: Tools) -> Customization:
    """Edit the guest in place and say what was changed.

    user: who gets the SSH key. templates: the directory of the guest-side files.
    """
    raise AssertionError  # replaced by the next commit
