"""What went into a build, for its provenance: the user's words, and a given disk's digest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from pipeline.builds.manifest import Manifest, read_manifest
from pipeline.core.errors import InputError
from pipeline.core.image import Role
from pipeline.core.material import Material
from pipeline.core.passwords import without_passwords
from pipeline.core.request import BuildRequest
from pipeline.core.steps import Action, StepName
from pipeline.host.sparse import image_file
from pipeline.workflows.image_step import MadeFiles
from pipeline.workflows.install_step import InstalledDisk
from pipeline.workflows.job import Job
from pipeline.workflows.steps import Step


def words(request: BuildRequest) -> dict[str, str | bool | tuple[str, ...]]:
    """What the user asked for, as a manifest keeps it.

    Values of variables are not told, for nobody says which of them are secret; the digest of the
    answer file is one of them too.
    """
    recipe = request.recipe
    asked: dict[str, str | bool | tuple[str, ...]] = {
        "installer": "" if request.disk is not None else recipe.installer,
        "trees": () if request.disk is not None else tuple(map(_place, recipe.trees)),
        "disk": request.disk.name if request.disk is not None else "",
        "root": request.root or recipe.root,
        "variables": tuple(sorted({*recipe.variables, *request.variables})),
        "backend": request.backend,
        "user": recipe.user,
        "shrink": recipe.shrink,
        "diskImage": request.wants_disk,
    }
    return {name: value for name, value in asked.items() if value not in ("", ())}


def _place(tree: str) -> str:
    """An install tree without its password; of a directory of this host the name alone."""
    return without_passwords(tree) if "://" in tree else PurePath(tree).name


class HashSource(Step[tuple[Material, ...]]):
    """The digest of a given disk, taken while the guest of the boot check boots.

    Not without a boot check: a run without one would wait for it.
    """

    name = StepName.SOURCE
    background = True

    def __init__(self, job: Job, disk: Step[InstalledDisk], files: Step[MadeFiles]) -> None:
        super().__init__(disk, files)
        self.job = job
        self.disk, self.files = disk, files

    def wanted(self) -> bool:
        """Whether a disk was given whose digest is known, or can be had beside a boot check."""
        if self.job.request.disk is None or not self.disk.known:
            return False
        written = self._written()
        if written is not None and _of(written, self.disk.value):
            return True
        return self.job.request.verify and (written is None or not written.checks)

    def reuse(self) -> tuple[Material, ...] | None:
        """The manifest's, if it is of these files."""
        written = self._written()
        return None if written is None else _of(written, self.disk.value) or None

    def _written(self) -> Manifest | None:
        """The manifest of an earlier run, if the files are the same."""
        if not self.files.known or self.files.value.waiting:
            return None
        try:
            manifest = read_manifest(self.job.directory)
        except InputError:
            return None
        return manifest if manifest.recipe.digest == self.files.value.key else None

    def run(self) -> tuple[Material, ...]:
        """Read it once."""
        path = self.disk.value.path
        return (Material(name=path.name, sha256=image_file(Role.DISK, path).sha256),)

    def describe(self) -> Sequence[Action]:
        """Nothing to say: it is part of writing the build down."""
        return []


def _of(manifest: Manifest, disk: InstalledDisk) -> tuple[Material, ...]:
    """What the manifest has of the given disk."""
    known = manifest.inputs.materials if manifest.inputs is not None else ()
    return tuple(material for material in known if material.name == disk.path.name)
