"""The second step of a build: root out of the disk, edited, with its kernel and ramdisk."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from pydantic import BaseModel

from pipeline.builds.manifest import (
    CustomizationRecord,
    EditRecord,
    LayerRecord,
    RootRecord,
    SourceKind,
    SourceRecord,
)
from pipeline.convert import assemble, grub
from pipeline.convert.conversion import Wanted, convert
from pipeline.convert.extract import Extraction, extract, foresee
from pipeline.convert.formats.protocol import Options
from pipeline.convert.formats.registry import FORMATS
from pipeline.convert.shrink import kept_in_size, left_out, shrink
from pipeline.convert.survey import EXT
from pipeline.convert.volume_copy import Foreseen
from pipeline.core.checks import ROOT_LABEL
from pipeline.core.image import DiskImage, Format, Mount, PartitionImage, Role
from pipeline.core.material import Material
from pipeline.core.request import BuildRequest
from pipeline.core.resources import TEMPLATES
from pipeline.core.steps import Action, StepName
from pipeline.disk.blocks.source import RawFile
from pipeline.guest.access.open import open_guest
from pipeline.guest.boot.loader_files import take_loader
from pipeline.guest.boot.select import BootFiles, collect
from pipeline.guest.customize.apply import Customization, customize
from pipeline.host.files import finish
from pipeline.host.fingerprint import code_of, step_key
from pipeline.host.versions import tool_versions
from pipeline.workflows.boot_preview import foresee_boot_files
from pipeline.workflows.install_step import InstalledDisk
from pipeline.workflows.job import Job
from pipeline.workflows.steps import Step

_ROOT = "PRIVATE/root.img"
_COPY_CHECKS = ("e2fsck -f -n DISK?offset=BYTES", f"e2fsck -f -p {_ROOT}")
_EDITS = (f"debugfs -w -f edits.debugfs {_ROOT}", f"e2fsck -fn {_ROOT}")
_SHRINK = (
    f"e2fsck -fp {_ROOT}",
    f"dumpe2fs -h {_ROOT}",
    f"resize2fs -P {_ROOT}",
    f"resize2fs {_ROOT} BLOCKS",
    f"dumpe2fs -h {_ROOT}",
    f"e2fsck -fn {_ROOT}",
)


class FoundKernel(BaseModel):
    """What boots the image. architecture: as uname(1) names it. drivers: as in `BootFiles`."""

    kernel_version: str
    chosen: str
    architecture: str
    drivers: tuple[str, ...] | None = None


class Output(BaseModel):
    """The whole disk in another format. file: its name in the build's directory; sizes in bytes."""

    format: Format
    file: str
    sha256: str
    size: int
    allocated: int


class MadeFiles(BaseModel):
    """The files that were made, and all that the manifest says of how.

    files: by role, names in the build's directory. outputs: the disk in other formats. waiting:
    they lie aside until the build is whole and have not their final names yet. materials: what the
    disk was installed from.
    """

    key: str
    files: dict[Role, str]
    waiting: bool
    outputs: tuple[Output, ...] = ()
    source: SourceRecord
    root: RootRecord
    kernel: FoundKernel
    customization: CustomizationRecord
    tools: dict[str, str]
    materials: tuple[Material, ...] = ()


class MakeFiles(Step[MadeFiles]):
    """Extract, customise, select kernel and ramdisk, shrink, assemble a whole disk."""

    name = StepName.IMAGE

    def __init__(self, job: Job, disk: Step[InstalledDisk]) -> None:
        super().__init__(disk)
        self.job = job
        self.disk = disk
        self._unshrunk: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Digest of the disk's identity, the request, every template and the code behind it."""
        request, recipe = self.job.request, self.job.request.recipe
        inputs = {
            "disk": _identity(self.disk.value.path),
            "root": request.root or recipe.root,
            "user": recipe.user,
            "backend": request.backend,
            "shrink": recipe.shrink,
            "disk image": request.wants_disk,
            "outputs": (recipe.outputs, recipe.vcpus, recipe.memory_mib)
            if recipe.outputs
            else None,
            "command line": recipe.command_line if request.wants_disk else None,
            "hardware": astuple(recipe.hardware),
            "architecture": recipe.architecture,
        }
        return step_key("image", inputs, [*code_of(__name__), TEMPLATES])

    def reuse(self) -> MadeFiles | None:
        """The files of an earlier run, if neither the disk nor what makes them changed."""
        if not self.disk.known:
            return None
        return self.job.workspace.lookup(StepName.IMAGE, self.key, MadeFiles)

    def run(self) -> MadeFiles:
        """Make them; they lie aside until the build is whole."""
        job = self.job
        # The key is that of the inputs: the same edits made again are other bytes.
        job.workspace.invalidate(StepName.VERIFY, StepName.VERIFY_DISK)
        place = job.workspace.step_directory(StepName.IMAGE)
        made = self._make(self.disk.value.image, place)
        names = [*made.files.values(), *(output.file for output in made.outputs)]
        files = [job.directory / name for name in names]
        job.workspace.remember(StepName.IMAGE, made.key, files, made)
        return made

    def _make(self, disk: DiskImage, place: Path) -> MadeFiles:
        job, recipe = self.job, self.job.request.recipe
        with job.clock.part(StepName.EXTRACT):
            choice = job.request.root or recipe.root
            extraction = extract(disk, choice, job.tools, self._root_found)
        for note in extraction.notes:
            job.tools.progress.say(note)
        boot, edits, backend = self._customize(extraction, place)
        warnings = (*boot.warnings, *edits.warnings)
        for warning in warnings:
            job.tools.progress.warn(warning)
        root = extraction.root
        if recipe.shrink and not self._unshrunk:
            self._unshrunk = kept_in_size(root.path)
            for warning in self._unshrunk:
                job.tools.progress.warn(warning)
        shrinks = recipe.shrink and not self._unshrunk
        size = shrink(root.path, job.tools) if shrinks else root.size
        finish(root.path, place / Role.MACHINE)
        roles = [Role.MACHINE, Role.KERNEL, Role.RAMDISK]
        if job.request.wants_disk:
            self._assemble(place)
            roles.append(Role.DISK)
        outputs = tuple(self._output(place, form) for form in dict.fromkeys(recipe.outputs))
        return MadeFiles(
            key=self.key,
            files={role: str((place / role).relative_to(job.directory)) for role in roles},
            waiting=True,
            outputs=outputs,
            source=SourceRecord(
                kind=kind_of_source(job.request),
                file=disk.path.name,
                volume=root.source,
                method=extraction.method,
                copied=extraction.copied,
                layers=tuple(
                    LayerRecord(kind=kind, key=key) for kind, key in self.disk.value.layers
                ),
            ),
            root=RootRecord(
                filesystem=root.filesystem, label=ROOT_LABEL, uuid=root.uuid, bytes=size
            ),
            kernel=FoundKernel(
                kernel_version=boot.kernel_version,
                chosen=boot.chosen_because,
                architecture=recipe.architecture,
                drivers=boot.drivers,
            ),
            customization=CustomizationRecord(
                backend=backend,
                edits=tuple(EditRecord(path=e.path, change=e.change) for e in edits.edits),
                removed=edits.removed,
                kept_mounts=edits.kept_mounts,
                relabel=edits.relabel,
                warnings=(*self._unshrunk, *warnings),
                user=recipe.user,
            ),
            tools=tool_versions(job.tools.run, ["e2fsprogs", "qemu"]),
            materials=self.disk.value.materials,
        )

    def _root_found(self, filesystem: str) -> None:
        """Tell before the copy what will not be done with such a root."""
        self._unshrunk = left_out(filesystem) if self.job.request.recipe.shrink else ()
        for warning in self._unshrunk:
            self.job.tools.progress.warn(warning)

    def _customize(
        self, extraction: Extraction, place: Path
    ) -> tuple[BootFiles, Customization, str]:
        job, recipe = self.job, self.job.request.recipe
        separate, mounts, esp = _boot_volumes(extraction)
        with (
            job.clock.part(StepName.CUSTOMIZE),
            open_guest(
                extraction.root,
                separate,
                backend=job.request.backend,
                acceleration=lambda: job.appliance_acceleration,
                tools=job.tools,
                epoch=self.disk.value.epoch,
            ) as guest,
        ):
            boot = collect(
                guest,
                place / Role.KERNEL,
                place / Role.RAMDISK,
                job.tools,
                mounts=mounts,
                esp=esp,
                hardware=recipe.hardware,
                whole_disk=job.request.wants_disk,
            )
            if self._needs_loader:
                take_loader(guest, recipe.architecture, grub.MODULES, self._loader)
            edits = customize(
                guest,
                user=recipe.user,
                templates=TEMPLATES,
                tools=job.tools,
                by_type=extraction.by_type,
            )
            return boot, edits, guest.backend

    @property
    def _needs_loader(self) -> bool:
        """Whether the whole disk's boot loader must come out of the guest."""
        architecture = self.job.request.recipe.architecture
        if not self.job.request.wants_disk or architecture == "x86_64":
            return False
        return grub.host_modules(architecture) is None

    @property
    def _loader(self) -> Path:
        return self.job.tools.scratch / "loader"

    def _assemble(self, place: Path) -> None:
        with self.job.clock.part(StepName.ASSEMBLE):
            assemble.make_disk(
                place / Role.MACHINE,
                place / Role.KERNEL,
                place / Role.RAMDISK,
                self.job.request.recipe.command_line,
                place / Role.DISK,
                self.job.tools,
                architecture=self.job.request.recipe.architecture,
                loader=self._loader if self._needs_loader else None,
            )

    def _output(self, place: Path, form: Format) -> Output:
        """The whole disk in another format, beside it."""
        job, recipe = self.job, self.job.request.recipe
        options = Options(
            name=recipe.name,
            cpus=recipe.vcpus,
            memory_mib=recipe.memory_mib,
            architecture=recipe.architecture,
        )
        target = place / f"{Role.DISK}.{form}"
        with RawFile(place / Role.DISK) as disk:
            done = convert(disk, target, Wanted(FORMATS[form], options), job.tools)
        return Output(
            format=form,
            file=str(target.relative_to(job.directory)),
            sha256=done.sha256,
            size=done.size,
            allocated=done.allocated,
        )

    def describe(self) -> Sequence[Action]:
        """Copy, edit, shrink, assemble; one action where the files are there."""
        if self.known:
            what = "use the files made from it: neither it nor what makes them changed"
            return [Action(what, reused=True)]
        request, recipe = self.job.request, self.job.request.recipe
        copies = self._foreseen()
        ext = "" if request.backend == "e2fsprogs" else ", if it is a clean ext file system"
        edits = Action(f"edit it{ext}: label, fstab, key script, hygiene", _EDITS)
        if request.backend == "guestfs" or any(c.filesystem not in EXT for c in copies[:1]):
            edits = Action("edit it in libguestfs's appliance: label, fstab, key script, hygiene")
        actions = [self._copies(copies), *self._boot_files(), edits]
        if recipe.shrink:
            unshrunk = left_out(copies[0].filesystem) if copies else ()
            shrinks = Action("shrink it to its content", _SHRINK)
            actions += [Action(why) for why in unshrunk] or [shrinks]
        if request.wants_disk:
            actions.append(Action("make a bootable GPT disk of the three files"))
        if recipe.outputs:
            actions.append(Action(f"write it as {', '.join(recipe.outputs)} too, and compare them"))
        return actions

    def _boot_files(self) -> list[Action]:
        """Kernel and ramdisk that would be taken, where the disk is there to tell."""
        if not self.disk.known:
            return []
        choice = self.job.request.root or self.job.request.recipe.root
        return [Action(foresee_boot_files(self.disk.value.image, choice, self.job))]

    def _foreseen(self) -> Sequence[Foreseen]:
        """What would be copied of the disk, root first; nothing while there is no disk."""
        if not self.disk.known:
            return ()
        choice = self.job.request.root or self.job.request.recipe.root
        return foresee(self.disk.value.image, choice, self.job.tools)

    def _copies(self, copies: Sequence[Foreseen]) -> Action:
        if not copies:
            found = self.job.request.root or self.job.request.recipe.root or "found by inspection"
            return Action(f"copy the root filesystem ({found}) and a separate /boot", _COPY_CHECKS)
        checks = tuple(shlex.join(each.check) for each in copies if each.check)
        return Action("; ".join(each.what for each in copies), checks)


def kind_of_source(request: BuildRequest) -> SourceKind:
    """Where the root of a request comes from, in the manifest's word."""
    if request.disk is not None:
        return "disk"
    return request.recipe.source


def _boot_volumes(
    extraction: Extraction,
) -> tuple[PartitionImage | None, tuple[Mount, ...], str]:
    """(/boot for the backend, volumes for our own readers, where the EFI system partition is).

    A /boot of FAT is read without an appliance; it is looked into as the firmware's partition too.
    """
    boot, esp = extraction.boot, extraction.esp
    if boot is None or boot.filesystem != "vfat":
        return boot, (esp,) if esp else (), esp.at if esp else ""
    mount = Mount("/boot", boot)
    return None, (mount, esp) if esp else (mount,), esp.at if esp else "/boot"


def _identity(disk: Path) -> list[str | int]:
    # Not the path: a build directory that is moved keeps what it has.
    status = disk.stat()
    return [disk.name, status.st_dev, status.st_size, status.st_mtime_ns, status.st_ino]
