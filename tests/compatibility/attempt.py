"""One attempt: a disk is made, `invoke build demo --disk DISK --no-verify` runs, others judge."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compatibility.document import FAILS, REFUSED, UNTRIED, WORKS, Row
from tests.fixtures.demo import invoke
from tests.fixtures.disks import Entry, listing, mounted
from tests.fixtures.disks.tools import run

_UNSUPPORTED = (2, 5)  # exit codes: wrong input, a damaged or unsupported disk
_EMULATED = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
_MOST = 420  # characters of an error


@dataclass(frozen=True)
class Made:
    """A disk to try. files: what the root holds, by those who put it there; None: no root at all.

    features: a file system image as it was made, whose features the result must still have.
    options: more words for `build`.
    """

    disk: Path
    files: Mapping[str, Entry] | None = None
    features: Path | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A row to be tried. make: makes the disk in an empty directory, or raises Unmade.

    named: an expression that the error must have, for what is not supported; "" for what must work.
    """

    name: str
    made_by: str
    make: Callable[[Path], Made]
    named: str = ""


class Unmade(Exception):
    """This host cannot make the disk; the text says why."""


def attempt(case: Case, directory: Path | None = None) -> Row:
    """Try one case below `directory` (the usual place for temporary files when there is none)."""
    with tempfile.TemporaryDirectory(prefix="compatibility-", dir=directory) as name:
        place = Path(name)
        try:
            made = case.make(place)
        except (Unmade, AssertionError, FileNotFoundError) as reason:
            return Row(case.name, case.made_by, UNTRIED, _short(str(reason), place))
        outcome, words = _tried(made, case.named, place)
    return Row(case.name, case.made_by, outcome, words)


def _tried(made: Made, named: str, place: Path) -> tuple[str, str]:
    words = ("build", "demo", "--disk", str(made.disk), "--no-verify", "--quiet", *made.options)
    try:
        done = invoke(place, *words, IMAGE_PIPELINE_BUILD=str(place / "build"))
    except subprocess.TimeoutExpired as late:
        return FAILS, f"no end within {late.timeout:.0f} s"
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    said = _short("\n".join(lines), place)
    if done.returncode == 0:
        manifest = json.loads((place / "build/demo/manifest.json").read_text())
        faults = [] if made.files is None else _faults(made, manifest, place / "build/demo")
        return (FAILS, "; ".join(faults)) if faults else (WORKS, _how(manifest))
    if named and done.returncode in _UNSUPPORTED and re.search(named, said, re.IGNORECASE):
        return REFUSED, f"exit {done.returncode}: {said}"
    return FAILS, f"exit {done.returncode}: {said}"


def _how(manifest: Mapping[str, Any]) -> str:
    method = str(manifest["source"]["method"])
    return f"{method}; edited through {manifest['customization']['backend']}"


def _faults(made: Made, manifest: Mapping[str, Any], build: Path) -> list[str]:
    """What is wrong with the image, by the file system's checker, its features and every file."""
    image = build / "demo.img"
    kind = str(manifest["root"]["filesystem"])
    checker = ["xfs_repair", "-n", "-f"] if kind == "xfs" else ["e2fsck", "-f", "-n"]
    done = subprocess.run([*checker, image], capture_output=True, text=True, check=False)
    faults = [f"{checker[0]} of the image: {done.stdout[-300:]}"] if done.returncode else []
    if made.features is not None and kind != "xfs":
        before, after = _features(made.features), _features(image)
        # A journal is what ext3 and ext4 have after a check; it is not what is held here.
        if before != after:
            faults.append(f"features {' '.join(sorted(before ^ after))} differ")
    assert made.files is not None
    edited = {str(edit["path"]).lstrip("/") for edit in manifest["customization"]["edits"]}
    try:
        found = _content(image, kind, build)
    except AssertionError as refused:
        return [*faults, f"its files were not compared: {str(refused)[-200:]}"]
    return faults + list(_differences(made.files, found, edited))[:3]


def _features(image: Path) -> set[str]:
    line = re.search(r"^Filesystem features:(.*)$", run("dumpe2fs", "-h", image), re.MULTILINE)
    assert line
    return set(line[1].split())


def _content(image: Path, kind: str, scratch: Path) -> dict[str, Entry]:
    """Every file, by the kernel; where that cannot mount it, by debugfs or guestfish.

    Not every kernel has XFS of version 4; that of guestfish's appliance is another one.
    """
    replay = "norecovery" if kind == "xfs" else "noload"
    try:
        with mounted(image, scratch / "top", "ro", replay) as top:
            return listing(top)
    except AssertionError:
        out = scratch / "dumped"
        out.mkdir()
    if kind == "xfs":
        tar = scratch / "dumped.tar"
        options = ("--format=raw", "-a", image, "-m", "/dev/sda", "tar-out", "/", tar)
        run("guestfish", "--ro", *options, env=_EMULATED)
        run("tar", "-x", "--numeric-owner", "-f", tar, "-C", out)
    else:
        run("debugfs", "-R", f"rdump / {out}", image)
    found = listing(out)
    shutil.rmtree(out)
    return found


def _differences(
    before: Mapping[str, Entry], after: Mapping[str, Entry], edited: Iterable[str]
) -> Iterable[str]:
    """Files below /usr, /srv and /boot that are not what they were, though no edit names them."""
    known = set(edited)
    for path, entry in before.items():
        if not path.startswith(("usr/", "srv/", "boot/")) or path in known:
            continue
        if path not in after:
            yield f"/{path} is missing"
        elif (after[path].content, after[path].mode) != (entry.content, entry.mode):
            yield f"/{path} is not what it was"


def _short(text: str, place: Path) -> str:
    """An error in a line, without this run's paths and with no marks of Markdown."""
    clean = re.sub(r"\s+", " ", text.replace(f"{place}/", "")).replace("`", "'").strip()
    return clean if len(clean) <= _MOST else clean[:_MOST].rsplit(" ", 1)[0] + " ..."
