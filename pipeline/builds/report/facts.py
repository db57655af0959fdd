"""What the report shows, as small records: the one place of the report that reads the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pipeline.builds import history, registrations
from pipeline.builds.compare import Comparison, compare, read_build
from pipeline.builds.manifest import (
    CustomizationRecord,
    Manifest,
    StepRecord,
)
from pipeline.builds.report import timeline
from pipeline.builds.report.evidence import Console, Evidence, gather, read_console
from pipeline.core.checks import CheckReport
from pipeline.core.image import Registration, Role
from pipeline.core.steps import StepName
from pipeline.core.text import human_bytes, human_seconds
from pipeline.guest.inventory import Inventory

State = Literal["passed", "failed", "skipped"]
COMMANDS = "commands.log"
_FOLDED = 60  # lines of a diff; longer ones are folded
_SOURCES = {
    "install": "Installed disk",
    "packages": "Root of packages",
    "disk": "Given disk",
}
_LABELS = {
    "none": "the guest has no policy",
    "labelled": "labelled with the guest's own policy",
    "first-boot": "to be labelled at the first boot",
}


@dataclass(frozen=True)
class Pair:
    """A name and its value."""

    name: str
    value: str


@dataclass(frozen=True)
class Step:
    """One step of the way from the recipe to the image."""

    role: str
    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A file beside the page. size, allocated: bytes. link: relative, percent-encoded."""

    role: str
    name: str
    link: str
    size: int
    allocated: int
    sha256: str


@dataclass(frozen=True)
class Assertion:
    """One line of a boot check; "skipped" when the boot ended before it."""

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class Check:
    """The boot check of one artifact. lines: of the console, about the first failure.

    seconds_to_ssh: None without a login.
    """

    artifact: str
    state: State
    assertions: tuple[Assertion, ...] = ()
    lines: tuple[str, ...] = ()
    boots: str = ""
    seconds_to_ssh: float | None = None
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True)
class Verdict:
    """What all boot checks say together, for the headline."""

    state: State
    text: str


@dataclass(frozen=True)
class DiffLine:
    """A line of a unified diff; kind is "added", "removed", "place" or "" for context."""

    text: str
    kind: str


@dataclass(frozen=True)
class Edit:
    """A changed file of the guest; either a diff or a phrase. open: the diff is short."""

    path: str
    phrase: str = ""
    diff: tuple[DiffLine, ...] = ()
    open: bool = False


@dataclass(frozen=True)
class Customization:
    """What was changed in the root file system."""

    pairs: tuple[Pair, ...]
    edits: tuple[Edit, ...]
    removed: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What the page shows; None or empty where the build has none of it."""

    name: str
    description: str
    created: str
    product: str
    verdict: Verdict
    figures: tuple[Pair, ...]
    steps: tuple[Step, ...]
    properties: tuple[Pair, ...]
    timings: Mapping[str, StepRecord]
    inventory: Inventory | None
    checks: tuple[Check, ...]
    files: tuple[File, ...]
    customization: Customization
    comparison: Comparison | None = None
    registrations: tuple[Registration, ...] = ()
    install: Evidence = field(default_factory=Evidence)
    commands: Console | None = None
    answers: Console | None = None


def read_facts(directory: Path) -> Facts:
    """The facts of the finished build in `directory`. InputError when there is none."""
    build = read_build(directory)
    manifest, listing = build.manifest, build.inventory
    # A kept build of this very digest is this one, written down again.
    before = next(
        (
            old
            for old in map(read_build, history.entries(directory))
            if old.manifest.recipe.digest != manifest.recipe.digest
        ),
        None,
    )
    checks = tuple(_checks(manifest, directory))
    properties = (
        Pair("Kernel command line", manifest.boot.command_line),
        *(Pair(name, value) for name, value in sorted(manifest.properties.items())),
    )
    return Facts(
        name=manifest.name,
        description=manifest.recipe.description,
        created=manifest.created,
        product=manifest.product,
        verdict=verdict(checks),
        figures=tuple(_figures(manifest, listing, checks)),
        steps=tuple(_steps(manifest)),
        properties=properties,
        timings=manifest.steps,
        inventory=listing,
        checks=checks,
        files=tuple(_files(manifest)),
        customization=_customization(manifest.customization),
        comparison=compare(before, build) if before is not None else None,
        registrations=tuple(registrations.registrations(directory / registrations.FILE)),
        install=gather(directory / "install"),
        commands=_text(directory / COMMANDS),
        answers=_answers(directory),
    )


def verdict(checks: tuple[Check, ...]) -> Verdict:
    """The worst of the checks: one failed check of any artifact is the headline."""
    failed = [check for check in checks if check.state == "failed"]
    skipped = [check for check in checks if check.state == "skipped"]
    if failed:
        several = f": {' and '.join(_small(c) for c in failed)}" if len(checks) > 1 else ""
        return Verdict("failed", f"boot check failed{several}")
    if len(skipped) == len(checks):
        return Verdict("skipped", "not boot-checked")
    if skipped:
        unknown = " and ".join(_small(c) for c in skipped)
        return Verdict("skipped", f"boots; {unknown} not boot-checked")
    return Verdict("passed", "boots")


def _small(check: Check) -> str:
    return check.artifact[:1].lower() + check.artifact[1:]


def _checks(manifest: Manifest, directory: Path) -> Iterator[Check]:
    yield _check("Triple", manifest.check("triple"), directory / StepName.VERIFY)
    of_disk = manifest.check("disk")
    if manifest.find(Role.DISK) is not None or of_disk is not None:
        yield _check("Whole disk", of_disk, directory / StepName.VERIFY_DISK)


def _check(artifact: str, record: CheckReport | None, evidence: Path) -> Check:
    if record is None:
        return Check(artifact, "skipped", evidence=gather(evidence))
    return Check(
        artifact,
        "passed" if record.passed else "failed",
        assertions=tuple(
            Assertion(
                each.name,
                "passed" if each.passed else "failed" if each.reached else "skipped",
                each.detail if each.reached else "not reached",
            )
            for each in record.assertions
        ),
        lines=record.console_lines,
        boots=", ".join(f"{n} {human_seconds(s)}" for n, s in record.boot_seconds.items()),
        seconds_to_ssh=record.seconds_to_ssh,
        evidence=gather(evidence),
    )


def _figures(
    manifest: Manifest, listing: Inventory | None, checks: tuple[Check, ...]
) -> Iterator[Pair]:
    seconds = next((check.seconds_to_ssh for check in checks if check.seconds_to_ssh), None)
    figures = [
        ("Kernel", manifest.boot.kernel_version),
        ("Root file system", f"{human_bytes(manifest.root.bytes)} {manifest.root.filesystem}"),
        ("On disk", human_bytes(manifest.image_allocated)),
        ("Packages", f"{len(listing.packages):,}" if listing and listing.packages else None),
        ("Files", f"{len(listing.entries):,}" if listing else None),
        ("SSH after", f"{seconds:.1f} s" if seconds else None),
        ("Took", human_seconds(timeline.elapsed(manifest.steps))),
        ("Guests ran with", manifest.acceleration),
    ]
    yield from (Pair(name, value) for name, value in figures if value)


def _steps(manifest: Manifest) -> Iterator[Step]:
    recipe, source, root, boot = manifest.recipe, manifest.source, manifest.root, manifest.boot
    yield _step("Recipe", recipe.name, recipe.description, f"inputs {recipe.digest[:12]}")
    yield _step(
        _SOURCES[source.kind],
        source.file,
        source.volume,
        f"{human_bytes(source.copied)} by {source.method}",
    )
    yield _step(
        "Root filesystem", f"{root.filesystem}, {root.label}", human_bytes(root.bytes), root.uuid
    )
    yield _step("Triple", boot.architecture, f"kernel {boot.kernel_version}", boot.chosen)


def _step(role: str, name: str, *lines: str) -> Step:
    return Step(role, name, tuple(filter(None, lines)))


def _files(manifest: Manifest) -> Iterator[File]:
    for record in manifest.artifacts:
        # A relative reference: "./" keeps a name with a colon from being read as a scheme.
        link = f"./{quote(record.file)}"
        yield File(record.role, record.file, link, record.size, record.allocated, record.sha256)


def _customization(record: CustomizationRecord) -> Customization:
    pairs = [
        ("Edited with", record.backend),
        ("SELinux", _LABELS.get(record.relabel, record.relabel)),
        ("Mounts kept", "\n".join(record.kept_mounts)),
    ]
    return Customization(
        pairs=tuple(Pair(name, value) for name, value in pairs if value),
        edits=tuple(_edit(each.path, each.change) for each in record.edits),
        removed=record.removed,
        warnings=record.warnings,
    )


def _edit(path: str, change: str) -> Edit:
    if "\n" not in change:
        return Edit(path, phrase=change)
    lines = tuple(DiffLine(line, _kind(line)) for line in change.splitlines())
    return Edit(path, diff=lines, open=change.count("\n") <= _FOLDED)


def _kind(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "place"
    return {"+": "added", "-": "removed", "@": "place"}.get(line[:1], "")


def _text(path: Path) -> Console | None:
    return read_console(path) if path.is_file() else None


def _answers(directory: Path) -> Console | None:
    for pattern in ("*.ks", "*.cfg"):
        for path in sorted(directory.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                return read_console(path, "Answers given to the installer")
    return None
