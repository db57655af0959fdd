"""manifest.json: what a finished build is, for people, for `upload` and for other programs.

The models are the schema; `json_schema` prints it and docs/manifest.schema.json is its copy, held
equal by a test. `version` changes when a reader of the old form would misread the new one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.errors import InputError
from pipeline.core.image import Artifact, Image, Role
from pipeline.host.files import write_whole

VERSION: Literal[1] = 1
FILE = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    """One file beside the manifest."""

    file: str = Field(description="its name in the build's directory")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of all its bytes")
    bytes: int = Field(ge=0, description="length of the file")
    allocated: int = Field(ge=0, description="bytes it takes on the build's file system")


class RecipeRecord(_Record):
    """What was asked for."""

    name: str = Field(description="the recipe's name")
    description: str = Field(description="the recipe's own line about itself")
    digest: str = Field(description="sha256 over every input of the image stage")


class SourceRecord(_Record):
    """Where the root filesystem came from."""

    kind: Literal["install", "disk"] = Field(description="installed here, or given with --disk")
    file: str = Field(description="the disk's name, without its directory")
    volume: str = Field(description="the root's volume, for people")
    method: str = Field(description="how its bytes were copied")
    copied: int = Field(ge=0, description="bytes copied")


class RootRecord(_Record):
    """The root filesystem."""

    filesystem: str = Field(description="its type: ext4, xfs ...")
    label: str = Field(description="the label that root= and /etc/fstab name")
    uuid: str = Field(description="its UUID")
    bytes: int = Field(description="size of the file system")


class EditRecord(_Record):
    """One change of the guest's files; `change` is a unified diff or a phrase."""

    path: str = Field(description="absolute, in the guest")
    change: str = Field(description="a unified diff, or a phrase where the file is no text")


class CustomizationRecord(_Record):
    """What was changed in the root filesystem."""

    backend: str = Field(description="what edited: guestfs or e2fsprogs")
    edits: tuple[EditRecord, ...] = Field(description="files written, in order")
    removed: tuple[str, ...] = Field(description="paths deleted: host keys, caches, machine-id ...")
    kept_mounts: tuple[str, ...] = Field(
        description="lines of /etc/fstab that stay beside the root: their devices are no disks"
    )
    relabel: str = Field(description="what was done about SELinux labels; empty where it is off")
    warnings: tuple[str, ...] = Field(description="what may need a look")
    user: str = Field("root", description="who gets the SSH key of the metadata service")


class BootRecord(_Record):
    """What boots it."""

    kernel_version: str = Field(description="of kernel, ramdisk and modules alike")
    chosen: str = Field(description="why this kernel")
    command_line: str = Field(description="the kernel command line that is registered")
    architecture: str = Field(description="as uname(1) names it")


class AssertionRecord(_Record):
    """One thing the boot check looked at; `reached` is false when the boot ended before it."""

    name: str = Field(description="as docs/verify.md lists them")
    passed: bool = Field(description="whether it holds")
    reached: bool = Field(description="whether a boot came far enough to tell")
    detail: str = Field(description="what was seen")


class VerificationRecord(_Record):
    """The boot check of exactly these files."""

    passed: bool = Field(description="whether all assertions hold")
    seconds_to_ssh: float | None = Field(description="of the first boot; null without a login")
    boot_seconds: dict[str, float] = Field(description="how long each boot took, by its name")
    assertions: tuple[AssertionRecord, ...] = Field(description="in the order of causes")
    console_lines: tuple[str, ...] = Field(description="what matters for the first failure")

    @classmethod
    def from_report(cls, report: dict[str, Any]) -> VerificationRecord:
        """The part of verify.VerifyReport.to_json that is kept."""
        return cls.model_validate({name: report[name] for name in cls.model_fields})


class StageRecord(_Record):
    """Where the time went; `reused` stages were done by an earlier run."""

    seconds: float = Field(description="how long it took")
    reused: bool = Field(description="whether an earlier run had done it")
    begun: float | None = Field(None, description="seconds after the build's start")


class Manifest(_Record):
    """A finished build."""

    version: Literal[1] = VERSION
    name: str = Field(description="the recipe's name, of which the files' names begin")
    created: str = Field(description="UTC, ISO 8601")
    product: str = Field(description="version of this pipeline")
    recipe: RecipeRecord
    source: SourceRecord
    machine: FileRecord
    kernel: FileRecord
    ramdisk: FileRecord
    disk: FileRecord | None = Field(None, description="bootable whole disk of the same three")
    root: RootRecord
    boot: BootRecord
    customization: CustomizationRecord
    verification: VerificationRecord | None = Field(None, description="null when it was skipped")
    disk_verification: VerificationRecord | None = Field(
        None, description="the boot check of `disk`, under BIOS and UEFI"
    )
    properties: dict[str, str] = Field(description="image properties for the cloud")
    tools: dict[str, str] = Field(
        default_factory=dict, description="versions of the programs that made the files"
    )
    stages: dict[str, StageRecord]
    acceleration: str | None = Field(
        None, description="kvm or tcg; null when this run started no guest"
    )

    def image_set(self, directory: Path, *, whole_disk: bool = False) -> Image:
        """The files in `directory`, for `upload`. InputError when one was changed since.

        whole_disk: `verified` speaks of the whole disk, not of the three files.
        """
        check = self.disk_verification if whole_disk else self.verification

        def file(role: Role, record: FileRecord) -> Artifact:
            path = directory / record.file
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                raise _stale(path, "it is gone") from None
            if size != record.bytes:
                raise _stale(path, f"it has {size} bytes where the manifest has {record.bytes}")
            return Artifact(role, path, record.sha256, record.bytes, record.allocated)

        return Image(
            name=self.name,
            architecture=self.boot.architecture,
            machine=file(Role.MACHINE, self.machine),
            kernel=file(Role.KERNEL, self.kernel),
            ramdisk=file(Role.RAMDISK, self.ramdisk),
            kernel_version=self.boot.kernel_version,
            command_line=self.boot.command_line,
            verified=check is not None and check.passed,
            properties=self.properties,
            disk=directory / self.disk.file if self.disk else None,
            disk_sha256=self.disk.sha256 if self.disk else "",
        )


def file_record(image: Artifact, name: str) -> FileRecord:
    """The manifest's form of an image file that will be called `name`."""
    return FileRecord(file=name, sha256=image.sha256, bytes=image.size, allocated=image.allocated)


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """The last file of a build: with it the build is whole."""
    write_whole(directory / FILE, manifest_text(manifest))


def manifest_text(manifest: Manifest) -> str:
    """The content of manifest.json."""
    return manifest.model_dump_json(indent=1) + "\n"


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a finished build; InputError when there is none or it is not ours."""
    path = directory / FILE
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            "use the build",
            directory.name,
            why=f"there is no {path}, so it was never finished",
            next_step=f"Run `invoke build {directory.name}`",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            "read",
            path,
            why=f"it is no manifest of version {VERSION}: {place} {first['msg']}",
            next_step=f"Run `invoke build {directory.name}` again",
        ) from error


def as_it_was(manifest: Manifest, directory: Path) -> Manifest:
    """The manifest of a run that did nothing, with when and how fast the files were made.

    manifest: what that run would write. directory: has the manifest before it.
    """
    try:
        before = read_manifest(directory)
    except InputError:
        return manifest
    alike = ("recipe", "verification", "disk_verification")
    if any(getattr(before, name) != getattr(manifest, name) for name in alike):
        return manifest
    kept = ("created", "product", "acceleration", "tools")
    stages = {n: s.model_copy(update={"reused": True}) for n, s in before.stages.items()}
    return manifest.model_copy(
        update={name: getattr(before, name) for name in kept} | {"stages": stages}
    )


def json_schema() -> str:
    """JSON Schema (2020-12) of the manifest."""
    schema: dict[str, Any] = Manifest.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _stale(path: Path, why: str) -> InputError:
    return InputError(
        "use", path, why=why, next_step=f"Run `invoke build {path.parent.name}` again"
    )
