"""How an installed disk comes to be: one protocol for every kind of builder.

A builder is made for one request by its `open` function (registry.py). Making it starts nothing and
changes nothing; `prepare` may download; only `build` installs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.core.image import Acceleration, DiskImage
from pipeline.core.material import Material
from pipeline.core.steps import Action
from pipeline.host.context import Tools


@dataclass(frozen=True)
class Built:
    """A disk with a system on it.

    versions: of the programs that made it, by name. epoch: by which all that is done to it is
    dated, seconds since 1970, so that the same inputs give the same bytes; None where they cannot.
    layers: what it was made in, bottom first: (kind, key). materials: what is in it, if known.
    """

    disk: DiskImage
    versions: Mapping[str, str]
    epoch: int | None = None
    layers: tuple[tuple[str, str], ...] = ()
    materials: tuple[Material, ...] = ()


class Builder(Protocol):
    """Makes the disk of one request.

    What every builder keeps to:
    - `identity` says the same for the same inputs, whatever the time, the path and the user; two
      requests with one identity give disks of the same content.
    - `build` leaves a whole disk under the name `out`, or nothing under it and an error that says
      why, with nothing left running.
    - No secret is in `identity`, `describe`, the evidence or an argument list.
    """

    def check(self) -> None:
        """Refuse a request that cannot work. InputError with what to write; starts nothing."""

    def given(self) -> DiskImage | None:
        """The disk that is there without being built; None where it must be built."""

    def identity(self) -> Mapping[str, object]:
        """What the disk depends on, as JSON; may download what must be known for it."""

    def build(
        self, out: Path, *, acceleration: Acceleration, evidence: Path, tools: Tools
    ) -> Built:
        """Build the disk `out`. evidence: a directory for consoles and logs, made anew."""

    def describe(self, acceleration: Acceleration) -> Sequence[Action]:
        """What `build` would do; nothing is downloaded or changed."""
