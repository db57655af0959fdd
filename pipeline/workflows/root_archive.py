"""A root of packages as one tar.gz, from a few words: no recipe, no kernel, no image."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.builders.packages.front_door import checked
from pipeline.builders.packages.layered import LayeredRoot
from pipeline.convert.ext4.make import make_image
from pipeline.core.errors import InputError
from pipeline.core.events import Progress
from pipeline.core.packages import PackageSystem
from pipeline.core.recipe import Recipe
from pipeline.core.request import BuildRequest, PackageSources
from pipeline.core.secrets import Secrets
from pipeline.host.context import Tools
from pipeline.host.programs import Runner

_USED_BY = "genfs"


@dataclass(frozen=True)
class RootArchive:
    """A finished archive. size: bytes; sha256: of all of them; packages: how many it has."""

    path: Path
    size: int
    sha256: str
    packages: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"path": str(self.path)}


def root_request(
    words: Mapping[str, Any], *, refresh: bool = False, sources: PackageSources | None = None
) -> BuildRequest:
    """The request that fields of `PackageSystem` make; without a base unless they name one.

    InputError with every fault.
    """
    subject = str(words.get("distribution", ""))
    system = checked(PackageSystem, {"base": (), **words}, subject, "make a root of")
    recipe = Recipe(name=_USED_BY, description="", source="packages", system=system)
    return BuildRequest(recipe, refresh=refresh, sources=sources or PackageSources())


def plan(request: BuildRequest, out: Path, progress: Progress, secrets: Secrets) -> list[str]:
    """What `make` would do, a sentence a line; the mirrors are asked where they are not known."""
    with tempfile.TemporaryDirectory() as scratch, Runner(secrets=secrets) as runner:
        root = LayeredRoot(request, Tools(runner, progress, Path(scratch)))
        root.backend.check()
        return [*root.describe(), f"write {out}"]


def make(
    request: BuildRequest,
    out: Path,
    progress: Progress,
    secrets: Secrets,
    *,
    echo: Callable[[str], None] | None = None,
) -> RootArchive:
    """Make the layers that lack, and write all of them as one archive.

    The same packages and words give the same bytes. Nothing has the name `out` that is not whole.
    """
    begun = time.monotonic()
    out = out.absolute()
    if not out.parent.is_dir():
        raise InputError(
            "write the archive",
            out,
            why="there is no such directory",
            next_step=f"Make {out.parent}, or name another",
        )
    if out.is_dir():
        raise InputError(
            "write the archive",
            out,
            why="it is a directory",
            next_step=f"Name a file, such as {out / 'root.tar.gz'}",
        )
    with (
        tempfile.TemporaryDirectory(prefix=".genfs-", dir=out.parent) as scratch,
        Runner(secrets=secrets, echo=echo) as runner,
    ):
        tools = Tools(runner, progress, Path(scratch))
        root = LayeredRoot(request, tools)
        root.backend.check()
        with root.made(_USED_BY, tools.scratch) as layers:
            trees = [layer.tree for layer in layers]
            make_image(root.isolation, trees, tools=tools, epoch=layers[0].epoch, archive=out)
        count = len(root.packages)
    with out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return RootArchive(out, out.stat().st_size, digest, count, round(time.monotonic() - begun, 3))
