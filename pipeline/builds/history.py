"""What is kept of the builds that a new one replaced: their manifests and inventories, no images.

build/NAME/history/CREATED-DIGEST/ holds manifest.json and inventory.json.gz, so that it reads
like a build's own directory.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pipeline.builds.manifest import FILE, read_manifest
from pipeline.core.errors import InputError
from pipeline.core.resources import COMMAND
from pipeline.guest import inventory

DIRECTORY = "history"
KEPT = 20  # builds; one with 50,000 files takes about 1 MB
_PREVIOUS = "previous"


def keep(directory: Path) -> Path | None:
    """Keep the build that stands in `directory`, which is about to be replaced.

    Call it before the manifest is removed. Returns where it went; None when there was no readable
    build. The oldest beyond `KEPT` are deleted.
    """
    try:
        manifest = read_manifest(directory)
    except InputError:  # an unreadable manifest describes nothing that could be compared later
        return None
    stamp = re.sub(r"[^0-9TZ]", "", manifest.created)
    place = directory / DIRECTORY / f"{stamp}-{manifest.recipe.digest[:12]}"
    if not place.exists():
        partial = place.with_name(f".{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            for name in (FILE, inventory.FILE):
                if (directory / name).exists():
                    shutil.copyfile(directory / name, partial / name)
            partial.replace(place)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    for old in entries(directory)[KEPT:]:
        shutil.rmtree(old)
    return place


def entries(directory: Path) -> list[Path]:
    """Kept builds, newest first."""
    place = directory / DIRECTORY
    if not place.is_dir():
        return []
    return sorted((p for p in place.iterdir() if not p.name.startswith(".")), reverse=True)


def directory_of(builds: Path, name: str) -> Path:
    """The directory of the build of that name, there or not; InputError for what is no name."""
    if name in ("", ".", "..") or "/" in name:
        raise InputError(
            "find the build",
            name,
            why=f"{name!r} is no build's name, which is that of a recipe",
            next_step=f"`{COMMAND} list` shows the builds",
        )
    return builds / name


def locate(builds: Path, word: str) -> Path:
    """The directory a user's word means: NAME, NAME@previous or NAME@DIGEST (its first digits).

    InputError when there is none or several.
    """
    name, at, which = word.partition("@")
    directory = directory_of(builds, name)
    if not directory.is_dir():
        raise InputError(
            "find the build",
            word,
            why=f"there is no directory {directory}",
            next_step=f"`{COMMAND} list` shows the builds",
        )
    if not at:
        return directory
    kept = entries(directory)
    found = kept[:1] if which == _PREVIOUS else [p for p in kept if _is(p, which)]
    if len(found) != 1:
        known = ", ".join(f"{name}@{path.name.partition('-')[2]}" for path in kept)
        raise InputError(
            "find the build",
            word,
            why=f"{len(found) or 'no'} kept builds match",
            next_step=f"Choose {name}@{_PREVIOUS} or one of: {known}"
            if known
            else "A build is kept when the next one of its recipe takes its place",
        )
    return found[0]


def _is(path: Path, which: str) -> bool:
    stamp, _, digest = path.name.partition("-")
    return bool(which) and (digest.startswith(which) or stamp.startswith(which))
