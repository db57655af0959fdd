"""What of the builds can go: leftovers of killed runs, installed disks, old generations."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.builds import history
from pipeline.builds.listing import build_directories, taken
from pipeline.builds.manifest import read_manifest
from pipeline.builds.registrations import FILE as REGISTRATIONS
from pipeline.builds.registrations import registrations, remove_from_record, superseded
from pipeline.builds.workspace import LOCK
from pipeline.clouds.protocol import Cloud, InUseError
from pipeline.core.errors import CloudError, HostError, InputError, PipelineError
from pipeline.core.events import Progress
from pipeline.core.identity import content_key
from pipeline.core.image import Registration
from pipeline.core.resources import COMMAND
from pipeline.core.text import human_bytes
from pipeline.host.locks import exclusive, is_held


@dataclass(frozen=True)
class Wish:
    """What the user wants to be rid of.

    names: builds, all when empty. clouds: in place of those each build is registered on. keep:
    registered generations to keep; with 0 no cloud is asked. disks: installed disks, too.
    """

    names: tuple[str, ...] = ()
    clouds: tuple[str, ...] = ()
    keep: int = 0
    disks: bool = False


@dataclass(frozen=True)
class Leftover:
    """Something `prune` can delete.

    kind: "scratch" (of a run that was killed), "unfinished" (a step's files that the next build
    would reuse), "disk" (an installed disk, likewise) or "generation" (registered images).
    careful: deleted only after --yes.
    """

    kind: Literal["scratch", "unfinished", "disk", "generation"]
    name: str
    what: str
    bytes: int
    careful: bool
    path: Path | None = None
    registration: Registration | None = None


@dataclass(frozen=True)
class Answer:
    """What was found and what of it was deleted.

    dry_run: nothing, because disks or generations are among it and --yes was missing.
    """

    dry_run: bool
    found: tuple[Leftover, ...]
    deleted: tuple[Leftover, ...]
    failures: tuple[PipelineError, ...]


def prune(
    builds: Path, wish: Wish, open_cloud: Callable[[str], Cloud], progress: Progress, *, yes: bool
) -> Answer:
    """Delete what can go. Unless `yes`: of what is left by killed runs the scratch alone; and
    nothing at all, only a list, where disks or generations would go.
    """
    found, refusals = find(builds, wish, open_cloud)
    dry_run = not yes and any(one.kind in ("disk", "generation") for one in found)
    chosen = [] if dry_run else [one for one in found if yes or not one.careful]
    deleted, failures = delete(chosen, builds, open_cloud, progress)
    return Answer(dry_run, tuple(found), tuple(deleted), (*refusals, *failures))


def find(
    builds: Path, wish: Wish, open_cloud: Callable[[str], Cloud]
) -> tuple[list[Leftover], list[PipelineError]]:
    """What can go, and what the clouds that failed said. InputError for an unknown build."""
    found: list[Leftover] = []
    refusals: list[PipelineError] = []
    known = [path.name for path in build_directories(builds)]
    missing = set(wish.names) - set(known)
    if missing and not wish.clouds:
        raise InputError(
            "prune",
            ", ".join(sorted(missing)),
            why=f"there is no such build in {builds}",
            next_step=f"`{COMMAND} list` shows the builds; name a --cloud to prune there alone",
        )
    for name in wish.names or known:
        if name in known:  # a name for a cloud alone may be no build's here, or any path
            found += local_leftovers(builds / name, disks=wish.disks)
        if wish.keep < 1:
            continue
        recorded = registrations(builds / name / REGISTRATIONS) if name in known else []
        for word in dict.fromkeys(wish.clouds or [entry.cloud for entry in recorded]):
            try:
                found += old_generations(name, open_cloud(word), wish.keep, builds)
            except PipelineError as error:
                # A cloud that the record names and nobody has set up any more stops no other.
                if wish.clouds and not isinstance(error, CloudError):
                    raise
                refusals.append(error)
    return found, refusals


def local_leftovers(directory: Path, *, disks: bool) -> Iterator[Leftover]:
    """What a build's directory holds besides a finished build; nothing while it is being built.

    disks: the installed disk, too.
    """
    if is_held(directory / LOCK):
        return
    name = directory.name
    partial = (*directory.glob("*.partial"), *directory.glob(f"{history.DIRECTORY}/*.partial"))
    for path in (directory / ".work", *partial):
        if path.exists():
            yield Leftover("scratch", name, str(path), taken(path), careful=False, path=path)
    for path in sorted((directory / ".stages").glob("*")):
        if path.is_dir() and any(path.iterdir()):
            yield Leftover("unfinished", name, str(path), taken(path), careful=True, path=path)
    disk = directory / "disk.img"
    if disks and disk.exists():
        yield Leftover("disk", name, str(disk), taken(disk), careful=True, path=disk)


def old_generations(name: str, cloud: Cloud, keep: int, builds: Path) -> list[Leftover]:
    """Registered generations beyond the newest `keep`; never the only one that is known to boot."""
    known = [path.name for path in build_directories(builds)]
    verdicts = known_verdicts(builds / name) if name in known else {}
    return [
        Leftover(
            "generation",
            name,
            f"{cloud.name}: {old.generation or 'undated'} {old.machine_id}",
            0,
            careful=True,
            registration=old,
        )
        for old in to_withdraw(cloud.generations(name), keep, verdicts)
    ]


def to_withdraw(
    generations: Sequence[Registration], keep: int, verdicts: Mapping[str, bool]
) -> list[Registration]:
    """Which generations (newest first) go; triples and whole disks are counted apart.

    verdicts: by content key, whether the boot check passed; a key that is missing is not known.
    When the boot check refused all that stay, the newest it did not refuse stays too.
    """
    going: list[Registration] = []
    for kind in (True, False):
        alike = [g for g in generations if bool(g.kernel_id) is kind]
        if not alike:
            continue
        old = superseded(alike, alike[0], keep)
        staying = [g for g in alike if g not in old]
        if not any(verdicts.get(g.key, True) for g in staying):
            spared = next((g for g in old if verdicts.get(g.key, True)), None)
            old = [g for g in old if g is not spared]
        going += old
    return going


def known_verdicts(directory: Path) -> dict[str, bool]:
    """Content key -> whether its boot check passed, of the build and its earlier ones.

    A triple and the whole disk of the same build have a key and a boot check each.
    """
    verdicts = {}
    for place in [*reversed(history.entries(directory)), directory]:
        try:
            manifest = read_manifest(place)
        except InputError:
            continue
        image = manifest.described(place)
        for whole_disk in (False, True):
            key = content_key(image, whole_disk=whole_disk)
            verdicts[key] = image.verified(whole_disk=whole_disk)
    return verdicts


def delete(
    leftovers: Iterable[Leftover],
    builds: Path,
    open_cloud: Callable[[str], Cloud],
    progress: Progress,
) -> tuple[list[Leftover], list[PipelineError]]:
    """Delete them; those deleted, and why the others could not be. One failure stops no other.

    open_cloud: from a cloud's name to the cloud.
    """
    deleted: list[Leftover] = []
    failures: list[PipelineError] = []
    for leftover in leftovers:
        directory = builds / leftover.name
        try:
            if leftover.path is not None:
                with exclusive(directory / LOCK, f"the build {leftover.name}"):
                    _delete_path(leftover.path)
            elif leftover.registration is not None:
                open_cloud(leftover.registration.cloud).withdraw(leftover.registration)
                if directory in build_directories(builds):
                    remove_from_record(directory / REGISTRATIONS, leftover.registration)
        except InUseError as error:
            progress.warn(str(error))
        except PipelineError as error:
            failures.append(error)
        except OSError as error:
            why = error.strerror or str(error)
            step = "Mend its rights, or delete it as its owner"
            failures.append(HostError("delete", leftover.what, why=why, next_step=step))
        else:
            progress.say(f"deleted {leftover.what}")
            deleted.append(leftover)
    return deleted, failures


def _delete_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def lines(answer: Answer) -> list[str]:
    """One line a leftover, and what they take together."""
    if not answer.found:
        return ["there is nothing to prune"]
    text = [
        f"{one.kind:10} {human_bytes(one.bytes) if one.path else '':>10}  {one.what}"
        for one in answer.found
    ]
    text.append(f"together {human_bytes(sum(one.bytes for one in answer.found))} on this host")
    if answer.dry_run:
        text.append("nothing was deleted: add --yes to delete all of it")
    elif any(one.kind == "unfinished" for one in answer.found if one not in answer.deleted):
        text.append("the next build can use what is unfinished: add --yes to delete it, too")
    return text
