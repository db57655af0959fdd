"""The state of a recipe's Debian repositories: signed, whole, kept until it is asked for anew.

A new state comes to be in a directory of its own, gets its name by a rename, and then becomes the
current one; whatever fails before leaves the earlier state as it was. apt checks signatures, dates
and digests; because apt takes some failures for warnings, what it did is looked at again.
"""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.builders.packages.apt import words as apt_words
from pipeline.builders.packages.apt.config import (
    DEBIAN_NAMES,
    PrivateApt,
    private_apt,
    repository_urls,
    sources,
)
from pipeline.builders.packages.apt.index import IndexFile
from pipeline.builders.packages.apt.keys import keyring
from pipeline.builders.packages.protocol import RepositoryState
from pipeline.core.errors import HostError, InputError, PipelineError
from pipeline.core.packages import PackageSystem, Repository
from pipeline.core.text import printable
from pipeline.host.context import Tools
from pipeline.host.files import write_whole
from pipeline.host.locks import exclusive
from pipeline.host.programs import Completed
from pipeline.host.retry import Pauses, pause

_UPDATE = 1800.0  # s; Debian's indexes are 10 MB, and apt itself gives silent mirrors up
_ROUNDS = 2  # over all mirrors: one that is being updated is whole again soon
_BETWEEN = Pauses(3.0)
_KEPT = 3  # states; a build that still reads an earlier one keeps it that long
_BUSY = 900.0  # s that another process may take to refresh the same repositories
_CURRENT = "current.json"


@dataclass(frozen=True)
class Kept:
    """A state as it lies on the disk: its record, the indexes, and the URL that answered."""

    state: RepositoryState
    indexes: tuple[IndexFile, ...]
    urls: Mapping[str, str]


def home(system: PackageSystem, cache: Path) -> Path:
    """Where the states of the same repositories, keys and architecture are."""
    words = [
        system.architecture,
        str(system.check_valid_until),
        *(
            json.dumps(
                [r.name, repository_urls(system, r), r.suites, r.components],
            )
            + hashlib.sha256(keyring(r.keys)).hexdigest()
            for r in system.repositories
        ),
    ]
    return cache / "apt" / hashlib.sha256("\n".join(words).encode()).hexdigest()[:20]


def kept(directory: Path) -> Kept | None:
    """The current state below `directory`, if there is a whole one."""
    try:
        record = json.loads((directory / _CURRENT).read_text())
        place = directory / record["directory"]
        return read(RepositoryState(record["digest"], record["date"], place))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read(state: RepositoryState) -> Kept:
    """What lies in a state's directory; OSError or ValueError where it is not whole."""
    record = json.loads((state.directory / "state.json").read_text())
    indexes = tuple(
        IndexFile(state.directory / "lists" / file, name) for file, name in record["indexes"]
    )
    for index in indexes:
        index.path.stat()
    return Kept(state, indexes, record["urls"])


def refresh(system: PackageSystem, tools: Tools, directory: Path) -> Kept:
    """Ask the repositories, and make what they say the current state."""
    with exclusive(directory / "lock", "the repositories of the recipe", wait=_BUSY):
        for stale in directory.glob(".new-*"):
            shutil.rmtree(stale, ignore_errors=True)
        new = directory / f".new-{os.getpid()}"
        try:
            return _refresh(system, tools, directory, new)
        except OSError as error:
            raise _host_error(directory, error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _refresh(system: PackageSystem, tools: Tools, directory: Path, new: Path) -> Kept:
    before = kept(directory)
    for name in ("lists/partial", "cache", "sources", "keys"):
        (new / name).mkdir(parents=True)
    if before is not None:
        # apt asks only for what has changed, and puts a new file in place of a changed one.
        for file in (before.state.directory / "lists").iterdir():
            if file.is_file() and file.name != "lock":
                (new / "lists" / file.name).hardlink_to(file)
    for repository in system.repositories:
        (new / "keys" / f"{repository.name}.gpg").write_bytes(keyring(repository.keys))
    apt = private_apt(system, tools, new)
    urls = _update(apt)
    digest, date = _signed(apt)
    _write_record(new, _indexes(apt, urls), urls)
    place = directory / digest[:20]
    if (place / "state.json").exists() and before and before.state.digest == digest:
        return before
    shutil.rmtree(place, ignore_errors=True)
    new.rename(place)
    # Sources and apt's cache hold the paths under their final name.
    apt = private_apt(system, tools, place)
    _write_sources(apt, urls)
    with apt.configured() as env:
        apt.run(["apt-cache", "gencaches"], env, timeout=300)
    record = {"digest": digest, "date": date, "directory": place.name}
    write_whole(directory / _CURRENT, json.dumps(record))
    _forget(directory, place)
    return read(RepositoryState(digest, date, place))


def _update(apt: PrivateApt) -> dict[str, str]:
    """Ask until every repository was answered by one of its mirrors; the URLs that answered."""
    mirrors = {r.name: repository_urls(apt.system, r) for r in apt.system.repositories}
    asked = dict.fromkeys(mirrors, 0)
    while True:
        urls = {name: mirrors[name][number % len(mirrors[name])] for name, number in asked.items()}
        _write_sources(apt, urls)
        with apt.configured() as env:
            done = apt.run(["apt-get", "-q", "update"], env, timeout=_UPDATE, ok=(0, 100))
        output = apt.said(done)
        found = apt_words.failures(output, urls)
        if done.returncode == 0 and not found:
            return urls
        _judge(apt, done, output, found, urls)
        for failure in found:
            asked[failure.repository] += 1
            number, count = asked[failure.repository], len(mirrors[failure.repository])
            if number >= count * _ROUNDS:
                raise HostError(
                    "fetch the index of the repository",
                    f"{failure.repository} ({', '.join(mirrors[failure.repository])})",
                    why=failure.why,
                    next_step=failure.next_step
                    or "Check the network, or name another mirror in the recipe",
                )
            if count > 1:
                apt.tools.progress.say(
                    f"{failure.repository}: {urls[failure.repository]} failed ({failure.why});"
                    " asking the next mirror"
                )
        if any(asked[f.repository] % len(mirrors[f.repository]) == 0 for f in found):
            pause(_BETWEEN.after(1))


def _judge(
    apt: PrivateApt,
    done: Completed,
    output: str,
    found: list[apt_words.Failure],
    urls: Mapping[str, str],
) -> None:
    """Raise what asking again cannot cure."""
    if apt_words.is_full(output) or shutil.disk_usage(apt.directory).free < 1 << 20:
        raise HostError(
            "keep the package lists in",
            apt.directory.parent,
            why="its file system is full",
            next_step="Free some space there, or set IMAGE_PIPELINE_CACHE to a larger one",
        )
    for failure in found:
        if failure.refused:
            raise InputError(
                "use the repository",
                f"{failure.repository} ({urls[failure.repository]})",
                why=failure.why,
                next_step=failure.next_step,
            )
    if not found:
        raise HostError(
            "refresh the package lists",
            why=apt_words.complaint(output) or f"apt-get ended with status {done.returncode}",
            next_step="Check the recipe's repositories",
        )


def _write_sources(apt: PrivateApt, urls: Mapping[str, str]) -> None:
    for name, content in sources(apt.system, urls, apt.directory / "keys").items():
        (apt.directory / "sources" / name).write_text(content)


def _is_empty(apt: PrivateApt, suite: str, component: str) -> bool:
    """Whether the signed Release says that the suite has the component, with nothing in it yet.

    apt keeps no file of such an index; the updates of a release to be are empty for years.
    """
    index = f"{component}/binary-{DEBIAN_NAMES[apt.system.architecture]}/Packages"
    line = re.compile(rf"^ [0-9a-f]{{64}} +0 {re.escape(index)}$", re.MULTILINE)
    names = (apt.directory / "lists").glob(f"*_dists_{suite.replace('/', '_')}_InRelease")
    return any(line.search(name.read_text(errors="replace")) for name in names)


def _indexes(apt: PrivateApt, urls: Mapping[str, str]) -> list[tuple[str, str]]:
    """File name and repository of each index; InputError for a component that has none."""
    line = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(FILENAME)"
    with apt.configured() as env:
        listed = apt.run(
            ["apt-get", "indextargets", "--format", line, "Created-By: Packages"], env, timeout=60
        ).text.splitlines()
    names = {
        (urls[r.name].rstrip("/"), suite.rstrip("/"), component): r.name
        for r in apt.system.repositories
        for suite, component in _parts(r)
    }
    found: dict[tuple[str, str, str], str] = {}
    for words in (row.split(" ") for row in listed):
        if len(words) == 4 and Path(words[3]).is_file():
            found[words[0].rstrip("/"), words[1].rstrip("/"), words[2]] = Path(words[3]).name
    for place, name in names.items():
        if place not in found and not _is_empty(apt, *place[1:]):
            raise InputError(
                "use the repository",
                f"{name} ({place[0]})",
                why=f"suite {place[1]} has no packages of component {place[2] or '(none)'} for"
                f" {apt.system.architecture}",
                next_step="Correct suites, components or architecture in the recipe",
            )
    return [(found[place], name) for place, name in names.items() if place in found]


def _parts(repository: Repository) -> list[tuple[str, str]]:
    """Suites with their components; a suite that ends with "/" is flat and has none."""
    return [
        (suite, component)
        for suite in repository.suites
        for component in (("",) if suite.endswith("/") else repository.components)
    ]


def _signed(apt: PrivateApt) -> tuple[str, str]:
    """Digest over the signed files, and the newest of their dates.

    Every one is checked here once more, against the keys of one of the repositories: a state of
    which apt checked nothing must not pass for one that is signed.
    """
    digests, dates = [], []
    rings = [apt.directory / "keys" / f"{r.name}.gpg" for r in apt.system.repositories]
    files = sorted((apt.directory / "lists").glob("*Release"))
    for file in files:
        if not any(_good(apt.tools, file, ring) for ring in rings):
            raise InputError(
                "trust the repositories' file",
                file.name,
                why="none of the recipe's keys signed it",
                next_step='Give the keys that sign the repository in "keys" of the recipe',
            )
        data = file.read_bytes()
        digests.append(hashlib.sha256(data).hexdigest())
        if match := re.search(rb"^Date: (.+)$", data, re.MULTILINE):
            dates.append(email.utils.parsedate_to_datetime(match[1].decode().strip()))
    if not files or not dates:
        raise HostError("refresh the package lists", why="apt kept no signed file of them")
    newest = max(dates).astimezone(datetime.UTC)
    digest = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
    return digest, newest.strftime("%Y-%m-%dT%H:%M:%SZ")


def _good(tools: Tools, file: Path, ring: Path) -> bool:
    """Whether gpgv finds a good signature by a key that has not expired."""
    argv: list[str | Path] = ["gpgv", "--status-fd", "1", "--keyring", ring]
    argv += [file] if file.name.endswith("InRelease") else [f"{file}.gpg", file]
    said = tools.run.run(argv, timeout=60, ok=range(256)).text
    return "[GNUPG:] GOODSIG " in said and "[GNUPG:] VALIDSIG " in said


def _write_record(new: Path, indexes: list[tuple[str, str]], urls: Mapping[str, str]) -> None:
    write_whole(new / "state.json", json.dumps({"indexes": indexes, "urls": urls}))


def _forget(directory: Path, current: Path) -> None:
    """Delete all but the newest states."""
    states = [p for p in directory.iterdir() if p.is_dir() and p != current]
    states.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for old in states[_KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


def _host_error(directory: Path, error: OSError) -> PipelineError:
    return HostError(
        "keep the package lists in",
        directory,
        why=printable(error.strerror or str(error)),
        next_step="Free some space there, or set IMAGE_PIPELINE_CACHE to another place",
    )
