"""What lies in the build directory and where it is registered; builds shown and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.builds import history
from pipeline.builds.compare import Change, Comparison
from pipeline.builds.manifest import FILE, Manifest, read_manifest
from pipeline.builds.registrations import FILE as REGISTRATIONS
from pipeline.builds.registrations import registrations
from pipeline.builds.workspace import LOCK
from pipeline.core.checks import CheckTarget
from pipeline.core.errors import InputError
from pipeline.core.image import Registration
from pipeline.core.resources import COMMAND
from pipeline.core.text import human_bytes
from pipeline.host.locks import is_held

State = Literal["finished", "unfinished", "unreadable"]
_SHOWN = 40  # lines of a long list on a terminal; --json has all


@dataclass(frozen=True)
class Summary:
    """One directory of builds/.

    bytes: what all of it takes on its file system. boot_check: of all that was booted; failed: what
    did not pass of it.
    """

    name: str
    state: State
    busy: bool
    bytes: int
    created: str = ""
    kernel: str = ""
    boot_check: Literal["passed", "failed", "skipped", ""] = ""
    failed: tuple[CheckTarget, ...] = ()
    registered: tuple[Registration, ...] = ()
    earlier: int = 0


def build_directories(builds: Path) -> list[Path]:
    """One a build, finished or not, by name."""
    if not builds.is_dir():
        return []
    return sorted(p for p in builds.iterdir() if p.is_dir() and not p.name.startswith("."))


def summaries(builds: Path) -> list[Summary]:
    """Every build, by name."""
    return [summary(directory) for directory in build_directories(builds)]


def summary(directory: Path) -> Summary:
    """One build's line."""
    facts: dict[str, Any] = {
        "name": directory.name,
        "busy": is_held(directory / LOCK),
        "bytes": taken(directory),
        "registered": tuple(registrations(directory / REGISTRATIONS)),
        "earlier": len(history.entries(directory)),
    }
    if not (directory / FILE).exists():
        return Summary(state="unfinished", **facts)
    try:
        manifest = read_manifest(directory)
    except InputError:
        return Summary(state="unreadable", **facts)
    return Summary(
        state="finished",
        created=manifest.created,
        kernel=manifest.boot.kernel_version,
        boot_check=boot_check(manifest),
        failed=tuple(check.target for check in manifest.failed_checks),
        **facts,
    )


def boot_check(manifest: Manifest) -> Literal["passed", "failed", "skipped"]:
    """The outcome of all boot checks in one word: "passed" if all that were made passed."""
    if not manifest.checks:
        return "skipped"
    return "failed" if manifest.failed_checks else "passed"


def boot_check_words(check: str, failed: Sequence[CheckTarget]) -> str:
    """The outcome for people; a failed one says of what: "failed (disk)"."""
    return f"{check} ({', '.join(failed)})" if failed else check


def taken(path: Path) -> int:
    """Allocated bytes of a file or of everything below a directory; links are not followed."""
    try:
        total = path.lstat().st_blocks * 512
        if path.is_dir() and not path.is_symlink():
            total += sum(taken(child) for child in path.iterdir())
    except FileNotFoundError:  # a running build's scratch files come and go
        return 0
    return total


def summary_lines(known: Sequence[Summary]) -> list[str]:
    """A table, and below each build where it is registered."""
    if not known:
        return ["nothing was built here yet"]
    width = max(len(s.name) for s in known)
    lines = []
    for one in known:
        state = "being built" if one.busy else one.state
        outcome = boot_check_words(one.boot_check, one.failed)
        check = f"boot check {outcome}" if outcome else ""
        words = [f"{human_bytes(one.bytes):>10}", f"{state:11}", one.created, one.kernel, check]
        lines.append(f"{one.name:{width}}  " + "  ".join(word for word in words if word).rstrip())
        lines += [
            f"{'':{width}}  {r.cloud}: {r.machine_id}  {r.generation}".rstrip()
            for r in one.registered
        ]
    return lines


def show_lines(manifest: Manifest, known: Summary) -> list[str]:
    """Everything about one build that fits on a screen."""
    pairs = [
        ("recipe", manifest.recipe.description),
        ("built", f"{manifest.created} by image-pipeline {manifest.product}"),
        ("from", f"{manifest.source.file}, {manifest.source.volume} ({manifest.source.method})"),
        ("root", f"{manifest.root.filesystem} {manifest.root.label} {manifest.root.uuid}"),
        ("kernel", f"{manifest.boot.kernel_version} ({manifest.boot.chosen})"),
        ("command line", manifest.boot.command_line),
        ("boot check", boot_check_words(known.boot_check, known.failed)),
    ]
    lines = [manifest.name, *(f"  {name:13} {value}" for name, value in pairs)]
    for record in manifest.artifacts:
        size = f"{human_bytes(record.size)}, {human_bytes(record.allocated)} on disk"
        lines += [f"  {record.role:13} {record.file}  {size}", f"  {'':13} sha256 {record.sha256}"]
    for name, value in manifest.properties.items():
        lines.append(f"  {'property':13} {name}={value}")
    for edit in manifest.customization.edits:
        lines.append(f"  {'edited':13} {edit.path}")
    for check in manifest.checks:
        lines.append(f"  {check.target:13} boot check {'passed' if check.passed else 'FAILED'}")
        for assertion in check.assertions:
            word = "ok" if assertion.passed else "FAILED" if assertion.reached else "not reached"
            lines.append(f"  {word:13} {assertion.name}: {assertion.detail}")
    for entry in known.registered:
        ids = " ".join(i for i in (entry.machine_id, entry.kernel_id, entry.ramdisk_id) if i)
        lines.append(f"  {entry.cloud:13} {ids}  {entry.generation}".rstrip())
    if known.earlier:
        lines.append(f"  {'earlier':13} {known.earlier} kept, see `{COMMAND} diff`")
    return lines


def comparison_lines(found: Comparison) -> list[str]:
    """What differs, the largest first, long lists cut."""
    lines = [f"from the build of {found.old} to that of {found.new}"]
    if found.same:
        return [*lines, "nothing differs"]
    for title, changes in (
        ("manifest", found.fields),
        ("packages", found.packages),
        ("files", found.files),
    ):
        if changes is None:
            lines.append(f"{title}: not known of one of the builds")
        elif changes:
            lines.append(f"{title}: {len(changes)} differ")
            lines += [f"  {_change(change)}" for change in changes[:_SHOWN]]
            if len(changes) > _SHOWN:
                lines.append(f"  … {len(changes) - _SHOWN} more, all with --json")
        else:
            lines.append(f"{title}: the same")
    return lines


def _change(change: Change) -> str:
    old, new = _short(change.old), _short(change.new)
    if change.old is None:
        text = f"+ {change.name} {new}"
    elif change.new is None:
        text = f"- {change.name} {old}"
    else:
        text = f"~ {change.name} {old} → {new}"
    text += f" [{change.what}]" if change.what else ""
    sign = "+" if change.bytes > 0 else "-"
    return text + (f" ({sign}{human_bytes(abs(change.bytes))})" if change.bytes else "")


def _short(value: str | None) -> str:
    """A value that is a diff by its length alone: --json has it whole."""
    lines = (value or "").count("\n") + 1
    return f"({lines} lines)" if lines > 1 else value or ""
