"""The story of a build: install, take the root out, make it an image, boot it, write it down.

Only this module knows the order. Three stages are remembered: the installed disk, the files made
from it, and the boot check of exactly those files; each is done again when an input, a template
or the code behind it changed.
"""

from __future__ import annotations

import secrets as random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pipeline
from pipeline import verify
from pipeline.builders import installer
from pipeline.builders.installer.answers import render
from pipeline.builds import history
from pipeline.builds.manifest import (
    FILE,
    CustomizationRecord,
    FileRecord,
    Manifest,
    RecipeRecord,
    RootRecord,
    SourceRecord,
    StageRecord,
    VerificationRecord,
    as_it_was,
    file_record,
    manifest_text,
    read_manifest,
    write_manifest,
)
from pipeline.builds.report import write_report
from pipeline.builds.workspace import Workspace
from pipeline.convert import assemble
from pipeline.convert.extract import extract, open_format
from pipeline.convert.shrink import left_out, shrink
from pipeline.core import settings
from pipeline.core.errors import DiskError, VerifyError
from pipeline.core.events import Progress
from pipeline.core.image import ROOT_LABEL, Acceleration, DiskImage, Role
from pipeline.core.request import SUFFIXES, BuildRequest, triple
from pipeline.core.secrets import Secrets
from pipeline.guest import inventory
from pipeline.guest.access.open import open_guest
from pipeline.guest.boot.select import collect
from pipeline.guest.customize.apply import customize
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.host.files import Replacements, finish, put_back_on_error, write_whole
from pipeline.host.fingerprint import stage_key
from pipeline.host.programs import Runner
from pipeline.host.sparse import image_file
from pipeline.host.versions import tool_versions
from pipeline.workflows.cache_keys import TEMPLATES, check_key, image_key


def build(request: BuildRequest, progress: Progress, secrets: Secrets) -> Manifest:
    """Build the recipe in build/NAME and return its manifest.

    A boot check that fails leaves the files with a manifest that says so and raises VerifyError.
    """
    workspace = Workspace(settings.build_dir() / request.recipe.name)
    log = workspace.directory / "commands.log"
    echo = progress.say if request.verbose else None
    with workspace.open(), Runner(log, secrets, echo) as runner:
        job = _Job(request, workspace, Tools(runner, progress, workspace.scratch))
        if request.fresh:
            workspace.forget("install", "image", "verify", "verify-disk")
        disk = job.install()
        image = job.make_files(disk)
        with ThreadPoolExecutor(thread_name_prefix="digest") as pool:
            # Hashing keeps one core busy for as long as the boot check waits for its guest.
            files = pool.submit(job.digests, image)
            contents = pool.submit(job.look_through, image)
            checks = job.check(image), job.check_disk(image)
            manifest = job.write_down(image, files.result(), contents.result(), *checks)
        write_report(workspace.directory)
    for name, record in (("verify", checks[0]), ("verify-disk", checks[1])):
        if record is not None and not record.passed:
            raise _refused(record, manifest.name, workspace.directory / name)
    return manifest


@dataclass
class _Job:
    """One build in its directory, and the clock that runs with it."""

    request: BuildRequest
    workspace: Workspace
    tools: Tools
    clock: dict[str, StageRecord] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    versions: dict[str, str] = field(default_factory=dict)
    unshrunk: tuple[str, ...] = ()
    _acceleration: Acceleration | None = None

    @property
    def acceleration(self) -> Acceleration:
        """Measured when first needed: a build that reuses everything starts no guest."""
        if self._acceleration is None:
            self._acceleration = hypervisor.acceleration(self.tools, force=self.request.accelerator)
        return self._acceleration

    def install(self) -> DiskImage:
        """The disk given, the one an earlier run installed, or a fresh install."""
        recipe, directory = self.request.recipe, self.workspace.directory
        if self.request.disk is not None:
            return open_format(self.request.disk)
        tree = installer.obtain(recipe, self.tools)
        answers = render(
            recipe,
            nonce=random.token_hex(16),
            overrides=self.request.variables,
            builtins=tree.variables,
        )
        disk = DiskImage(directory / "disk.img", "raw")
        with self._timed("install") as stage:
            stage.key = stage_key("install", installer.identity(recipe, answers, tree))
            known = self.workspace.reuse("install", stage.key)
            if known is not None:
                stage.reused, self.versions = True, known
                return disk
            self.workspace.forget("install")
            write_whole(directory / answers.file_name, answers.saved)
            installer.install(
                recipe,
                answers,
                tree,
                disk.path,
                self.acceleration,
                self.tools,
                evidence=directory / "install",
            )
            versions = tool_versions(self.tools.run, ["qemu", "virt-install"])
            self.workspace.stamp("install", stage.key, [disk.path], versions)
            self.versions = versions
        return disk

    def make_files(self, disk: DiskImage) -> dict[str, Any]:
        """Root out of the disk, edited, with its kernel and ramdisk: what `stamp` remembers.

        Its "files" are below .stages/image until `write_down` gives them their names.
        """
        with self._timed("image") as stage:
            stage.key = image_key(self.request, disk)
            image = self.workspace.reuse("image", stage.key)
            if image is not None:
                stage.reused = True
                return image
            # The key is that of the inputs: the same edits made again are other bytes.
            self.workspace.forget("verify", "verify-disk")
            image = {"key": stage.key, **self._make_files(disk)}
            self._remember(image)
        return image

    def _make_files(self, disk: DiskImage) -> dict[str, Any]:
        request, tools = self.request, self.tools
        place = self.workspace.stage_directory("image")
        with self._timed("extract"):
            choice = request.root or request.recipe.root
            extraction = extract(disk, choice, tools, self._root_found)
        for note in extraction.notes:
            tools.progress.say(note)
        root = extraction.root
        with (
            self._timed("customize"),
            open_guest(
                root,
                extraction.boot,
                backend=request.backend,
                acceleration=self.acceleration,
                tools=tools,
            ) as opened,
        ):
            boot = collect(opened, place / "kernel", place / "ramdisk", tools)
            edits = customize(opened, user=request.recipe.user, templates=TEMPLATES, tools=tools)
            backend = opened.backend
        warnings = (*boot.warnings, *edits.warnings)
        for warning in warnings:
            tools.progress.warn(warning)
        warnings += self.unshrunk
        shrinks = request.recipe.shrink and not self.unshrunk
        size = shrink(root.path, tools) if shrinks else root.size
        finish(root.path, place / "machine")
        names = ["machine", "kernel", "ramdisk"]
        if request.wants_disk:
            with self._timed("disk image"):
                made = assemble.make_disk(
                    place / "machine",
                    place / "kernel",
                    place / "ramdisk",
                    request.recipe.command_line,
                    place / "disk",
                    tools,
                )
            finish(made["raw"], place / "disk")
            names.append("disk")
        files = {name: str((place / name).relative_to(self.workspace.directory)) for name in names}
        source = SourceRecord(
            kind="disk" if request.disk else "install",
            file=disk.path.name,
            volume=root.source,
            method=extraction.method,
            copied=extraction.copied,
        )
        return {
            "tools": tool_versions(tools.run, ["e2fsprogs", "qemu"]),
            "files": files,
            "source": source.model_dump(),
            "root": RootRecord(
                filesystem=root.filesystem, label=ROOT_LABEL, uuid=root.uuid, bytes=size
            ).model_dump(),
            "boot": {
                "kernel_version": boot.kernel_version,
                "chosen": boot.chosen_because,
                "architecture": request.recipe.architecture,
            },
            "customization": CustomizationRecord(
                backend=backend,
                edits=[{"path": edit.path, "change": edit.change} for edit in edits.edits],
                removed=edits.removed,
                kept_mounts=edits.kept_mounts,
                relabel=edits.relabel,
                warnings=warnings,
                user=self.request.recipe.user,
            ).model_dump(),
        }

    def _root_found(self, filesystem: str) -> None:
        """What there is to tell before the root is copied."""
        self.unshrunk = left_out(filesystem) if self.request.recipe.shrink else ()
        for warning in self.unshrunk:
            self.tools.progress.warn(warning)

    def _remember(self, image: dict[str, Any]) -> None:
        files = [self._file(image, role) for role in image["files"]]
        self.workspace.stamp("image", image["key"], files, image)

    def _file(self, image: Mapping[str, Any], role: str) -> Path:
        return self.workspace.directory / str(image["files"][role])

    def digests(self, image: Mapping[str, Any]) -> dict[str, FileRecord]:
        """The manifest's record of each file; one pass over each unless the manifest has it."""
        try:
            known = read_manifest(self.workspace.directory) if self._written_down(image) else None
        except Exception:  # an unreadable manifest only means that we hash again
            known = None
        records: dict[str, FileRecord] = {}
        with self._timed("digests") as stage:
            if known is not None and known.recipe.digest == image["key"]:
                stage.reused = True
                return {role: getattr(known, role) for role in image["files"]}
            paths = [self._file(image, role) for role in image["files"]]
            total = sum(path.stat().st_size for path in paths)
            with self.tools.progress.task("hash", total) as meter, ThreadPoolExecutor() as pool:
                found = pool.map(lambda path: image_file(Role.MACHINE, path, meter), paths)
                for role, record in zip(image["files"], found, strict=True):
                    records[role] = file_record(record, self.request.recipe.name + SUFFIXES[role])
        return records

    def check(self, image: Mapping[str, Any]) -> VerificationRecord | None:
        """Boot exactly these three files; None when they were not and the user wants no boot."""
        files = triple(self.request, {role: self._file(image, role) for role in image["files"]})
        return self._check("verify", files, image)

    def check_disk(self, image: Mapping[str, Any]) -> VerificationRecord | None:
        """Boot the whole disk by its own boot loader, under BIOS and UEFI, if there is one."""
        if "disk" not in image["files"]:
            return None
        disk = verify.WholeDisk(self._file(image, "disk"), user=self.request.recipe.user)
        return self._check("verify-disk", disk, image)

    def _check(
        self, name: str, target: verify.Triple | verify.WholeDisk, image: Mapping[str, Any]
    ) -> VerificationRecord | None:
        recipe, key = self.request.recipe, check_key(name, self.request, image["key"])
        known = self.workspace.reuse(name, key)
        if known is None and not self.request.verify:
            return None
        with self._timed(name) as stage:
            if known is not None:
                stage.reused = True
                return VerificationRecord.model_validate(known)
            report = verify.verify(
                target,
                acceleration=self.acceleration,
                minutes_per_boot=recipe.verify_minutes,
                evidence=self.workspace.directory / name,
                tools=self.tools,
            )
            record = VerificationRecord.from_report(report.to_json())
            if record.passed:  # a failed check is done again: its cause may lie in the host
                self.workspace.stamp(name, key, [], record.model_dump())
        return record

    def look_through(self, image: Mapping[str, Any]) -> inventory.Inventory | None:
        """What the root is made of; None when the last run wrote it down or nobody can tell."""
        if self._written_down(image):
            return None
        with self._timed("inventory"):
            try:
                return inventory.take(self._file(image, "machine"), image["root"]["filesystem"])
            except DiskError as error:
                self.tools.progress.say(f"no inventory: {error.why}")
                return None

    def _written_down(self, image: Mapping[str, Any]) -> bool:
        """Whether the files have their final names already."""
        return not str(image["files"]["machine"]).startswith(".")

    def write_down(
        self,
        image: dict[str, Any],
        files: Mapping[str, FileRecord],
        contents: inventory.Inventory | None,
        verification: VerificationRecord | None,
        disk_verification: VerificationRecord | None,
    ) -> Manifest:
        """Give the files their names and write the manifest, which makes the build whole."""
        directory, recipe = self.workspace.directory, self.request.recipe
        manifest = Manifest(
            name=recipe.name,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            product=pipeline.__version__,
            recipe=RecipeRecord(
                name=recipe.name, description=recipe.description, digest=image["key"]
            ),
            source=image["source"],
            machine=files["machine"],
            kernel=files["kernel"],
            ramdisk=files["ramdisk"],
            disk=files.get("disk"),
            root=image["root"],
            # The recipe's may have changed since the files were made.
            boot=image["boot"] | {"command_line": recipe.command_line},
            customization=image["customization"],
            verification=verification,
            disk_verification=disk_verification,
            properties=recipe.properties,
            tools=self.versions | image["tools"],
            stages=self.clock,
            acceleration=self._acceleration.accelerator if self._acceleration else None,
        )
        if all(stage.reused for stage in self.clock.values()):
            manifest = as_it_was(manifest, directory)
        named = {role: record.file for role, record in files.items()}
        if self._written_down(image):
            write_manifest(manifest, directory)
            return manifest
        history.keep(directory)
        waiting = {name: self._file(image, role) for role, name in named.items()}
        image["files"] = named
        earlier = (*(recipe.name + suffix for suffix in SUFFIXES.values()), inventory.FILE, FILE)
        # All that takes space is written before the last build is given up.
        with Replacements() as records:
            records.add(*self.workspace.record("image", image["key"], waiting, image))
            if contents is not None:
                records.add(directory / inventory.FILE, inventory.dump(contents))
            records.add(directory / FILE, manifest_text(manifest))
            # From here until the new manifest has its name there is no finished build, unless
            # something fails: then the last one is there again.
            with put_back_on_error(directory, earlier, self.workspace.scratch / "earlier"):
                (directory / FILE).unlink(missing_ok=True)
                for name, file in waiting.items():
                    file.replace(directory / name)
                if "disk" not in named:
                    (directory / (recipe.name + SUFFIXES["disk"])).unlink(missing_ok=True)
                (directory / inventory.FILE).unlink(missing_ok=True)
                records.commit()
        return manifest

    @contextmanager
    def _timed(self, name: str) -> Iterator[_Stage]:
        stage = _Stage()
        begun = time.monotonic()
        yield stage
        self.clock[name] = StageRecord(
            seconds=round(time.monotonic() - begun, 3),
            reused=stage.reused,
            begun=round(begun - self.begun, 3),
        )


@dataclass
class _Stage:
    key: str = ""
    reused: bool = False


def _refused(record: VerificationRecord, name: str, evidence: Path) -> VerifyError:
    failed = [a for a in record.assertions if a.reached and not a.passed]
    return VerifyError(
        "boot the image set",
        name,
        why="; ".join(f"{a.name}: {a.detail}" for a in failed) or "the boot check failed",
        next_step=f"The consoles are in {evidence}; `invoke console {name}` boots it on this "
        "terminal",
    )
