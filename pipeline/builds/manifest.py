"""manifest.json: what a finished build is, for people, for `upload` and for other programs.

The models are the schema; `json_schema` prints it and docs/reference/manifest.schema.json is its
copy, held equal by a test. `version` changes when a reader of the old form would misread the new
one; version 1 is read too (manifest_v1.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.builds import manifest_v1
from pipeline.core.checks import CheckReport, CheckTarget
from pipeline.core.errors import InputError
from pipeline.core.image import Artifact, Format, Image, Role, file_name
from pipeline.core.material import Material
from pipeline.core.resources import COMMAND
from pipeline.host.files import write_whole

VERSION: Literal[2] = 2
FILE = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArtifactRecord(_Record):
    """One file beside the manifest."""

    role: Role = Field(description="what it is: machine, kernel, ramdisk or disk")
    format: Format = Field(description="the form of its bytes: raw, qcow2 ...")
    file: str = Field(description="its name in the build's directory")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of all its bytes")
    size: int = Field(ge=0, description="length of the file in bytes")
    allocated: int = Field(ge=0, description="bytes it takes on the build's file system")


class RecipeRecord(_Record):
    """What was asked for."""

    name: str = Field(description="the recipe's name")
    description: str = Field(description="the recipe's own line about itself")
    digest: str = Field(description="sha256 over every input of the image step")


class LayerRecord(_Record):
    """One of the layers that a root of packages was made in."""

    kind: str = Field(description="core, base or image")
    key: str = Field(pattern=r"^[0-9a-f]{64}$", description="digest of what decides its content")


SourceKind = Literal["install", "packages", "disk"]


class SourceRecord(_Record):
    """Where the root filesystem came from."""

    kind: SourceKind = Field(
        description="installed here, made of packages here, or given with --disk"
    )
    file: str = Field(description="the disk's name, without its directory")
    volume: str = Field(description="the root's volume, for people")
    method: str = Field(description="how its bytes were copied")
    copied: int = Field(ge=0, description="bytes copied")
    layers: tuple[LayerRecord, ...] = Field(
        (), description="of a root made of packages, bottom first"
    )


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
    drivers: tuple[str, ...] | None = Field(
        None,
        description="modules for disks that ramdisk or kernel have, and for network cards that the "
        "guest has; null when the guest does not say what is part of its kernel",
    )


class StepRecord(_Record):
    """Where the time went; `reused` steps were done by an earlier run."""

    seconds: float = Field(description="how long it took")
    reused: bool = Field(description="whether an earlier run had done it")
    begun: float | None = Field(None, description="seconds after the build's start")


class InputsRecord(_Record):
    """What was asked of the build and what went into it, for its provenance."""

    parameters: dict[str, str | bool | tuple[str, ...]] = Field(
        description="the user's words, without values of variables: the answer file's digest is of"
        " those"
    )
    materials: tuple[Material, ...] = Field(description="what it was made from")
    builder: str = Field(description="a URI: who built it")
    epoch: str | None = Field(
        None, description="UTC, ISO 8601: the date of what it is made of, where that is known"
    )


class Manifest(_Record):
    """A finished build."""

    version: Literal[2] = VERSION
    name: str = Field(description="the recipe's name, of which the files' names begin")
    created: str = Field(description="UTC, ISO 8601")
    product: str = Field(description="version of this pipeline")
    recipe: RecipeRecord
    source: SourceRecord
    artifacts: tuple[ArtifactRecord, ...] = Field(
        description="the files: machine image, kernel and ramdisk, and whole disks of the same"
    )
    root: RootRecord
    boot: BootRecord
    customization: CustomizationRecord
    checks: tuple[CheckReport, ...] = Field(
        (), description="boot checks of exactly these files; empty when all were skipped"
    )
    properties: dict[str, str] = Field(description="image properties for the cloud")
    tools: dict[str, str] = Field(
        default_factory=dict, description="versions of the programs that made the files"
    )
    inputs: InputsRecord | None = Field(
        None, description="what went into it; null for builds of earlier releases"
    )
    steps: dict[str, StepRecord]
    acceleration: str | None = Field(
        None, description="kvm or tcg; null when this run started no guest"
    )

    def find(self, role: Role) -> ArtifactRecord | None:
        """The file of that role; None when the build has none."""
        return next((record for record in self.artifacts if record.role is role), None)

    @property
    def image_allocated(self) -> int:
        """Bytes that the machine image takes on the build's file system; 0 without one."""
        record = self.find(Role.MACHINE)
        return record.allocated if record else 0

    def check(self, target: CheckTarget) -> CheckReport | None:
        """The boot check of the triple or of the disk; None when it was skipped."""
        return next((check for check in self.checks if check.target == target), None)

    @property
    def failed_checks(self) -> tuple[CheckReport, ...]:
        """The boot checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def with_check(self, report: CheckReport) -> Manifest:
        """The manifest with this boot check in place of an earlier one of the same target."""
        others = [check for check in self.checks if check.target != report.target]
        order: tuple[CheckTarget, ...] = ("triple", "disk")
        checks = sorted((*others, report), key=lambda check: order.index(check.target))
        return self.model_copy(update={"checks": tuple(checks)})

    def digests(self, *roles: Role) -> dict[str, str]:
        """Role -> sha256 of those of the files; all of them without an argument. Of the whole disk
        the raw one's, which is the one that is checked."""
        return {
            str(record.role): record.sha256
            for record in self.artifacts
            if record.format == "raw" and (not roles or record.role in roles)
        }

    def described(self, directory: Path) -> Image:
        """The image that is written down; its files in `directory` need not be there any more."""
        return Image(
            name=self.name,
            architecture=self.boot.architecture,
            artifacts=tuple(
                Artifact(
                    record.role,
                    directory / record.file,
                    record.sha256,
                    record.size,
                    record.allocated,
                    record.format,
                )
                for record in self.artifacts
            ),
            kernel_version=self.boot.kernel_version,
            command_line=self.boot.command_line,
            properties=self.properties,
            checks=self.checks,
            drivers=None if self.boot.drivers is None else frozenset(self.boot.drivers),
        )

    def image(self, directory: Path) -> Image:
        """The image in `directory`, for `upload`. InputError when a file is gone or was cut."""
        image = self.described(directory)
        for artifact in image.artifacts:
            try:
                size = artifact.path.stat().st_size
            except FileNotFoundError:
                raise _stale(artifact.path, "it is gone") from None
            if size != artifact.size:
                why = f"it has {size} bytes where the manifest has {artifact.size}"
                raise _stale(artifact.path, why)
        return image


def artifact_record(artifact: Artifact, name: str) -> ArtifactRecord:
    """The manifest's form of an artifact of the build `name`."""
    return ArtifactRecord(
        role=artifact.role,
        format=artifact.format,
        file=file_name(name, artifact.role, artifact.format),
        sha256=artifact.sha256,
        size=artifact.size,
        allocated=artifact.allocated,
    )


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
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and document.get("version") == manifest_v1.VERSION:
            document = manifest_v1.upgrade(document)
        return Manifest.model_validate_json(json.dumps(document))
    except FileNotFoundError:
        raise InputError(
            "use the build",
            directory.name,
            why=f"there is no {path}, so it was never finished",
            next_step=f"Run `{COMMAND} build {directory.name}`",
        ) from None
    except OSError as error:
        raise InputError(
            "read",
            path,
            why=error.strerror or str(error),
            next_step="Mend its rights, or move it away and build again",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = ".".join(str(part) for part in first["loc"]) + f" {first['msg']}"
        raise InputError(
            "read",
            path,
            why=f"it is no manifest of version {VERSION} or {manifest_v1.VERSION}: {why}",
            next_step=f"Run `{COMMAND} build {directory.name}` again",
        ) from error


def as_it_was(manifest: Manifest, directory: Path) -> Manifest:
    """The manifest of a run that did nothing, with when and how fast the files were made.

    manifest: what that run would write. directory: has the manifest before it.
    """
    try:
        before = read_manifest(directory)
    except InputError:
        return manifest
    alike = ("recipe", "checks")
    if any(getattr(before, name) != getattr(manifest, name) for name in alike):
        return manifest
    kept = ("created", "product", "acceleration", "tools", "inputs")
    steps = {n: s.model_copy(update={"reused": True}) for n, s in before.steps.items()}
    return manifest.model_copy(
        update={name: getattr(before, name) for name in kept} | {"steps": steps}
    )


def json_schema() -> str:
    """JSON Schema (2020-12) of the manifest."""
    schema: dict[str, Any] = Manifest.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _stale(path: Path, why: str) -> InputError:
    return InputError(
        "use", path, why=why, next_step=f"Run `{COMMAND} build {path.parent.name}` again"
    )
