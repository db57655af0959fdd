"""What a user may ask of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.core.recipe import Recipe

Backend = Literal["auto", "guestfs", "e2fsprogs"]
"""What edits the guest: libguestfs, e2fsprogs, or whichever fits."""


@dataclass(frozen=True)
class PackageSources:
    """Where packages come from, in place of what the recipe says.

    mirrors: URLs of the distribution's main archive, tried in order. repositories: as
    `front_door.repository` takes each. keys: files of OpenPGP keys for these repositories. proxy:
    for all of them.
    """

    mirrors: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    keys: tuple[Path, ...] = ()
    proxy: str = ""


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for.

    disk: an installed disk in place of an install. root: which volume, overriding the recipe.
    variables: values for the kickstart's variables. backend: guestfs or e2fsprogs, or "auto".
    sources: where packages come from, in place of the recipe's places.
    accelerator: "kvm", "tcg" or "" for the faster. fresh: reuse nothing. refresh: ask the mirrors
    of packages for what is new. verbose: show every program as it starts.
    """

    recipe: Recipe
    disk: Path | None = None
    root: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    backend: Backend = "auto"
    accelerator: str = ""
    verify: bool = True
    disk_image: bool = False
    fresh: bool = False
    refresh: bool = False
    sources: PackageSources = PackageSources()
    verbose: bool = False

    @property
    def wants_disk(self) -> bool:
        """Whether a bootable whole disk is made too."""
        return self.recipe.disk_image or self.disk_image or bool(self.recipe.outputs)
