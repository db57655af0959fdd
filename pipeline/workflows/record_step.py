"""What is written down of a build: digests, inventory, bills of materials, provenance, manifest.

With the last the build is whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pipeline
from pipeline.builds import history
from pipeline.builds.manifest import (
    FILE,
    BootRecord,
    InputsRecord,
    Manifest,
    RecipeRecord,
    artifact_record,
    as_it_was,
    manifest_text,
    read_manifest,
)
from pipeline.builds.workspace import document_names
from pipeline.core import settings
from pipeline.core.checks import CheckReport
from pipeline.core.errors import DiskError
from pipeline.core.image import OUTPUTS, SUFFIXES, Artifact, Role, file_name
from pipeline.core.steps import Action, StepName
from pipeline.guest import inventory
from pipeline.guest.inventory import Inventory
from pipeline.host.files import Replacements, put_back_on_error
from pipeline.host.sparse import image_file
from pipeline.workflows.image_step import MadeFiles, Output
from pipeline.workflows.inputs_step import HashSource, words
from pipeline.workflows.install_step import InstalledDisk
from pipeline.workflows.job import Job
from pipeline.workflows.steps import Step


class Digests(Step[dict[Role, Artifact]]):
    """The digest of each file: one pass over each, unless the manifest has it.

    Runs beside the boot check, which waits for its guest while this keeps one core busy.
    """

    name = StepName.DIGESTS
    background = True

    def __init__(self, job: Job, files: Step[MadeFiles]) -> None:
        super().__init__(files)
        self.job = job
        self.files = files

    def reuse(self) -> dict[Role, Artifact] | None:
        """The manifest's, if it is of these files."""
        if not self.files.known or self.files.value.waiting:
            return None
        try:
            known = read_manifest(self.job.directory)
        except Exception:  # an unreadable manifest only means that we hash again
            return None
        if known.recipe.digest != self.files.value.key:
            return None
        return {
            artifact.role: artifact
            for artifact in known.described(self.job.directory).artifacts
            if artifact.format == "raw"
        }

    def run(self) -> dict[Role, Artifact]:
        """Hash them all at once."""
        made = self.files.value
        paths = {role: self.job.directory / name for role, name in made.files.items()}
        total = sum(path.stat().st_size for path in paths.values())
        with self.job.tools.progress.task("hash", total) as meter, ThreadPoolExecutor() as pool:
            found = pool.map(lambda role: image_file(role, paths[role], meter), paths)
            return {artifact.role: artifact for artifact in found}

    def describe(self) -> Sequence[Action]:
        """Nothing to say: it is part of writing the build down."""
        return []


class TakeInventory(Step[Inventory | None]):
    """What the root is made of; None when the last run wrote it down or nobody can tell."""

    name = StepName.INVENTORY
    background = True

    def __init__(self, job: Job, files: Step[MadeFiles]) -> None:
        super().__init__(files)
        self.job = job
        self.files = files

    def wanted(self) -> bool:
        """Whether the files are new."""
        return not self.files.known or self.files.value.waiting

    def run(self) -> Inventory | None:
        """Look through the machine image."""
        made = self.files.value
        try:
            return inventory.take(
                self.job.directory / made.files[Role.MACHINE], made.root.filesystem
            )
        except DiskError as error:
            self.job.tools.progress.say(f"no inventory: {error.why}")
            return None

    def describe(self) -> Sequence[Action]:
        """Nothing to say: it is part of writing the build down."""
        return []


class WriteDown(Step[Manifest]):
    """Gives the files their names and writes the manifest, which makes the build whole."""

    def __init__(
        self,
        job: Job,
        disk: Step[InstalledDisk],
        files: Step[MadeFiles],
        digests: Digests,
        *,
        source: HashSource,
        contents: TakeInventory,
        checks: Sequence[Step[CheckReport | None]],
    ) -> None:
        super().__init__(disk, files, digests, source, contents, *checks)
        self.job = job
        self.disk, self.files = disk, files
        self.digests, self.source = digests, source
        self.contents, self.checks = contents, checks
        self.builder = settings.builder()  # a wrong one is told before anything is done

    def run(self) -> Manifest:
        """Write it down."""
        made, artifacts, contents = self.files.value, self.digests.value, self.contents.value
        manifest = self._manifest(made, artifacts)
        if made.waiting:
            self._replace(made, manifest, contents)
        else:
            self._renew(manifest)
        return manifest

    def _renew(self, manifest: Manifest) -> None:
        """Write the manifest of files that stay, and what is derived of it where that changes."""
        directory = self.job.directory
        names = document_names(manifest.name)
        text = manifest_text(manifest)
        with Replacements() as records:
            known = all((directory / name).exists() for name in names.values())
            if not known or _content(directory / FILE) != text:
                # Imported where it is needed: a build that changes nothing does without it.
                from pipeline.builds import bill

                for form, document in bill.derive(manifest, directory).items():
                    if _content(directory / names[form]) != document:
                        records.add(directory / names[form], document)
            records.add(directory / FILE, text)
            records.commit()

    def _manifest(self, made: MadeFiles, artifacts: dict[Role, Artifact]) -> Manifest:
        job, recipe = self.job, self.job.request.recipe
        manifest = Manifest(
            name=recipe.name,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            product=pipeline.__version__,
            recipe=RecipeRecord(name=recipe.name, description=recipe.description, digest=made.key),
            source=made.source,
            artifacts=tuple(
                artifact_record(artifact, recipe.name)
                for artifact in (
                    *(artifacts[role] for role in made.files),
                    *map(_artifact, made.outputs),
                )
            ),
            root=made.root,
            # The recipe's command line may have changed since the files were made.
            boot=BootRecord(**made.kernel.model_dump(), command_line=recipe.command_line),
            customization=made.customization,
            checks=tuple(step.value for step in self.checks if step.value is not None),
            properties=recipe.properties,
            inputs=InputsRecord(
                epoch=_date(self.disk.value.epoch),
                parameters=words(job.request),
                materials=(*made.materials, *(self.source.value or ())),
                builder=self.builder,
            ),
            tools=self.disk.value.versions | made.tools,
            steps=job.clock.steps,
            acceleration=job.accelerator,
        )
        if all(step.reused for step in job.clock.steps.values()):
            return as_it_was(manifest, job.directory)
        return manifest

    def _replace(self, made: MadeFiles, manifest: Manifest, contents: Inventory | None) -> None:
        """Put the new build in the earlier one's place: all of it, or nothing."""
        from pipeline.builds import bill

        directory, name = self.job.directory, self.job.name
        history.keep(directory)
        named = {role: name + SUFFIXES[role] for role in made.files}
        outputs = {file_name(name, Role.DISK, o.format): o for o in made.outputs}
        waiting = {named[role]: directory / file for role, file in made.files.items()}
        waiting |= {file: directory / output.file for file, output in outputs.items()}
        kept = tuple(o.model_copy(update={"file": file}) for file, o in outputs.items())
        final = made.model_copy(update={"files": named, "outputs": kept, "waiting": False})
        # Of every format: those of the last build that this one has not are taken away.
        others = [file_name(name, Role.DISK, form) for form in OUTPUTS]
        documents = document_names(name)
        earlier = (
            *(name + suffix for suffix in SUFFIXES.values()),
            *others,
            *documents.values(),
            inventory.FILE,
            FILE,
        )
        # All that takes space is written before the last build is given up.
        with Replacements() as records:
            entry = self.job.workspace.entry(StepName.IMAGE, made.key, waiting, final)
            records.add(*entry)
            if contents is not None:
                records.add(directory / inventory.FILE, inventory.dump(contents))
            for form, text in bill.documents(manifest, contents).items():
                records.add(directory / documents[form], text)
            records.add(directory / FILE, manifest_text(manifest))
            # From here until the new manifest has its name there is no finished build, unless
            # something fails: then the last one is there again.
            with put_back_on_error(directory, earlier, self.job.workspace.scratch / "earlier"):
                (directory / FILE).unlink(missing_ok=True)
                for file, aside in waiting.items():
                    aside.replace(directory / file)
                if Role.DISK not in named:
                    (directory / (name + SUFFIXES[Role.DISK])).unlink(missing_ok=True)
                for file in others:
                    if file not in waiting:
                        (directory / file).unlink(missing_ok=True)
                (directory / inventory.FILE).unlink(missing_ok=True)
                records.commit()

    def _stays(self) -> bool:
        """Of a dry run: whether the finished build stays as it is."""
        checked = all(step.known for step in self.checks)
        named = self.files.known and not self.files.value.waiting
        return named and (checked or not self.job.request.verify)

    def describe(self) -> Sequence[Action]:
        """What is written; a single reused action when the build stays as it is."""
        directory = self.job.directory
        if self._stays():
            return [Action(f"leave {directory / FILE} as it is", reused=True)]
        if self.files.known and not self.files.value.waiting:
            return [Action(f"write {directory / FILE}")]
        roles = [r for r in SUFFIXES if r is not Role.DISK or self.job.request.wants_disk]
        names = [self.job.name + SUFFIXES[role] for role in roles]
        outputs = dict.fromkeys(self.job.request.recipe.outputs)
        names += [file_name(self.job.name, Role.DISK, form) for form in outputs]
        made = ", ".join(str(directory / name) for name in names)
        return [Action(f"write {made}"), Action(f"write {directory / FILE}")]


def _artifact(output: Output) -> Artifact:
    """A disk in another format as the manifest lists it."""
    return Artifact(
        Role.DISK,
        Path(output.file),
        output.sha256,
        output.size,
        output.allocated,
        output.format,
    )


def _content(path: Path) -> str | None:
    """The text of a file; None without one."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _date(epoch: int | None) -> str | None:
    """Seconds since 1970 as the manifest writes times."""
    return None if epoch is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
