"""manifest.json: what a finished build is, for people, for `upload` and for other programs.

The models are the schema; `json_schema` prints it and docs/manifest.schema.json is its copy, held
equal by a test. `version` changes when a reader of the old form would misread the new one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import InputError
from pipeline.model import ImageFile, ImageSet, Role
from pipeline.workspace import write_whole

VERSION: Literal[1] = 1
FILE = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    """One file beside the manifest."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, description="length of the file")
    allocated: int = Field(ge=0, description="bytes it takes on the build's file system")


class RecipeRecord(_Record):
    """What was asked for."""

    name: str
    description: str
    digest: str = Field(description="sha256 over every input of the image stage")


class SourceRecord(_Record):
    """Where the root filesystem came from."""

    kind: Literal["install", "disk"]
    file: str
    volume: str = Field(description="the root's volume, for people")
    method: str = Field(description="how its bytes were copied")
    copied: int = Field(ge=0, description="bytes copied")


class RootRecord(_Record):
    """The root filesystem."""

    filesystem: str
    label: str
    uuid: str
    bytes: int


class EditRecord(_Record):
    """One change of the guest's files; `change` is a unified diff or a phrase."""

    path: str
    change: str


class CustomizationRecord(_Record):
    """What was changed in the root filesystem."""

    backend: str
    edits: tuple[EditRecord, ...]
    removed: tuple[str, ...]
    kept_mounts: tuple[str, ...]
    relabel: str
    warnings: tuple[str, ...]


class BootRecord(_Record):
    """What boots it."""

    kernel_version: str
    chosen: str = Field(description="why this kernel")
    command_line: str
    architecture: str


class AssertionRecord(_Record):
    """One thing the boot check looked at; `reached` is false when the boot ended before it."""

    name: str
    passed: bool
    reached: bool
    detail: str


class VerificationRecord(_Record):
    """The boot check of exactly these files."""

    passed: bool
    seconds_to_ssh: float | None
    boot_seconds: dict[str, float]
    assertions: tuple[AssertionRecord, ...]
    console_lines: tuple[str, ...] = Field(description="what matters for the first failure")

    @classmethod
    def from_report(cls, report: dict[str, Any]) -> VerificationRecord:
        """The part of verify.VerifyReport.to_json that is kept."""
        return cls.model_validate({name: report[name] for name in cls.model_fields})


class StageRecord(_Record):
    """Where the time went; `reused` stages were done by an earlier run."""

    seconds: float
    reused: bool
    begun: float | None = Field(None, description="seconds after the build's start")


class Manifest(_Record):
    """A finished build."""

    version: Literal[1] = VERSION
    name: str
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
    properties: dict[str, str]
    tools: dict[str, str] = Field(
        default_factory=dict, description="versions of the programs that made the files"
    )
    stages: dict[str, StageRecord]
    acceleration: str | None = Field(
        None, description="kvm or tcg; null when this run started no guest"
    )

    def image_set(self, directory: Path, *, whole_disk: bool = False) -> ImageSet:
        """The files in `directory`, for `upload`. InputError when one was changed since.

        whole_disk: `verified` speaks of the whole disk, not of the three files.
        """
        check = self.disk_verification if whole_disk else self.verification

        def file(role: Role, record: FileRecord) -> ImageFile:
            path = directory / record.file
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                raise _stale(path, "it is gone") from None
            if size != record.bytes:
                raise _stale(path, f"it has {size} bytes where the manifest has {record.bytes}")
            return ImageFile(role, path, record.sha256, record.bytes, record.allocated)

        return ImageSet(
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
        )


def file_record(image: ImageFile, name: str) -> FileRecord:
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
