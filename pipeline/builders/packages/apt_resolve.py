"""Which packages a layer adds: apt's own answer, on a status file made of the parents' records.

The core is what mmdebstrap calls "minbase": packages that are Essential, those of priority
"required", and apt; where the distribution has usr-is-merged, that too, as debootstrap takes it
(apt alone would choose usrmerge, which brings Perl modules to convert what is not to be converted).
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote

from pipeline.builders.packages import apt_index, apt_words
from pipeline.builders.packages.apt_config import PrivateApt
from pipeline.builders.packages.apt_index import IndexFile
from pipeline.builders.packages.apt_state import Kept
from pipeline.builders.packages.protocol import Package, Wanted
from pipeline.core.errors import InputError
from pipeline.core.text import did_you_mean
from pipeline.host.context import Tools
from pipeline.host.files import write_whole

_FORMAT = "2"  # of what is remembered; raised with what this module answers
_URI = re.compile(r"^'([^']+)' \S+ \d+", re.MULTILINE)
_MERGED = "usr-is-merged"
_SECONDS = 300.0


class Records:
    """Records of packages by the sha256 of their file, kept for longer than the state they came
    from: a layer's parents may be of an earlier state."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, records: Mapping[str, str]) -> None:
        """Keep records: sha256 -> record."""
        with closing(self._open()) as database, database:
            database.executemany("INSERT OR IGNORE INTO records VALUES (?, ?)", records.items())

    def get(self, digests: Sequence[str]) -> dict[str, str]:
        """Those of the records that are kept."""
        with closing(self._open()) as database:
            rows = [
                row
                for digest in digests
                for row in database.execute("SELECT * FROM records WHERE sha256 = ?", (digest,))
            ]
        return dict(rows)

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._file, timeout=60)
        database.execute(
            "CREATE TABLE IF NOT EXISTS records (sha256 TEXT PRIMARY KEY, record TEXT)"
        )
        return database


def resolve(
    apt: PrivateApt, state: Kept, wanted: Wanted, parents: Sequence[Package], records: Records
) -> tuple[Package, ...]:
    """See protocol.Backend.resolve. What was answered once is answered from the disk."""
    memory = state.state.directory / "resolved" / f"{_key(apt, wanted, parents)}.json"
    try:
        return tuple(Package(**fields) for fields in json.loads(memory.read_text()))
    except (OSError, ValueError, TypeError):
        answer = _ask(apt, state, wanted, parents, records)
    memory.parent.mkdir(exist_ok=True)
    write_whole(memory, json.dumps([asdict(package) for package in answer]))
    return answer


def _key(apt: PrivateApt, wanted: Wanted, parents: Sequence[Package]) -> str:
    words = [
        _FORMAT,
        wanted.kind,
        sorted(wanted.packages),
        sorted(wanted.groups),
        sorted(wanted.exclude),
        apt.system.weak_dependencies,
        sorted(package.sha256 for package in parents),
    ]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def _ask(
    apt: PrivateApt, state: Kept, wanted: Wanted, parents: Sequence[Package], records: Records
) -> tuple[Package, ...]:
    asked = _names(state.indexes, wanted)
    if not asked:
        return ()
    status = "\n".join(map(apt_index.installed, parent_records(state, parents, records)))
    pins = "".join(f"Package: {n}\nPin: version *\nPin-Priority: -1\n\n" for n in wanted.exclude)
    argv = ["apt-get", "-q", "-y", "--no-remove", "--print-uris", "install", *asked]
    with apt.configured(status=status, preferences=pins) as env:
        done = apt.run(argv, env, timeout=_SECONDS, ok=(0, 100))
        said = done.text + done.stderr.decode(errors="replace")
        if done.returncode == 0:
            return _packages(state, _URI.findall(done.text), records)
        if parents:
            argv = ["apt-get", "-q", "-y", "-s", "install", *asked]
            tried = apt.run(argv, env, timeout=_SECONDS, ok=(0, 100))
            if tried.returncode == 0:  # it would work if it might remove
                raise _removes(wanted, re.findall(r"^Remv (\S+)", tried.text, re.MULTILINE))
    for name in wanted.exclude:
        if re.search(rf"(?<![\w.+-]){re.escape(name)}(?![\w.+-])", said):
            raise _excluded(name, wanted, said)
    raise apt_words.refuse_resolution(
        said, _shown(wanted), apt_index.names(state.indexes) | set(apt_index.tasks(state.indexes))
    )


def _names(indexes: Sequence[IndexFile], wanted: Wanted) -> list[str]:
    """apt's arguments, sorted, so that the same words give the same answer."""
    names = set(wanted.packages)
    if wanted.kind == "core":
        names |= {"apt", *apt_index.minimum(indexes)} - set(wanted.exclude)
        if apt_index.has(indexes, _MERGED):
            names.add(_MERGED)
    if wanted.groups:
        names |= _group_names(indexes, wanted.groups)
    for name in wanted.packages:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*(?::[a-z0-9-]+)?(?:[=/][\w.+:~-]+)?", name):
            raise InputError(
                "install the package",
                name,
                why="this is no name of a Debian package",
                next_step="Correct the recipe's packages",
            )
        if name in wanted.exclude:
            raise _excluded(name, wanted, "the recipe itself wants it")
    return sorted(names)


def _group_names(indexes: Sequence[IndexFile], groups: Sequence[str]) -> set[str]:
    """Tasks as records name them (Ubuntu), or as packages "task-NAME" (Debian)."""
    tasks = apt_index.tasks(indexes)
    names = set()
    for group in groups:
        if group in tasks:
            names.add(f"{group}^")
        elif apt_index.has(indexes, f"task-{group}"):
            names.add(f"task-{group}")
        else:
            known = apt_index.names(indexes)
            choices = [*tasks, *(n[5:] for n in known if n.startswith("task-"))]
            raise InputError(
                "install the task",
                group,
                why=f"no repository has it{did_you_mean(group, choices)}",
                next_step="Correct the recipe's groups",
            )
    return names


def parent_records(state: Kept, parents: Sequence[Package], records: Records) -> list[str]:
    """The parents' records; InputError for one that is known nowhere any more."""
    found = records.get([package.sha256 for package in parents]) if parents else {}
    if missing := {p.sha256 for p in parents} - set(found):
        found |= (new := apt_index.by_hash(state.indexes, missing))
        records.add(new)
    for package in parents:
        if package.sha256 not in found:
            raise InputError(
                "put packages onto a layer that has",
                f"{package.name} {package.version}",
                why="the repositories no longer have that version, nor has the cache its record",
                next_step="Build the layers anew from the repositories' state of today",
            )
    # Of two parents with one name the later layer's is what is installed.
    newest = {(package.name, package.architecture): package.sha256 for package in parents}
    return [found[digest] for digest in newest.values()]


def file_records(
    packages: Sequence[Package], files: Sequence[Path], records: Records, tools: Tools
) -> dict[str, str]:
    """The records of packages by sha256: those kept, or else what their files say of themselves."""
    found = records.get([package.sha256 for package in packages])
    for package, file in zip(packages, files, strict=True):
        if package.sha256 not in found:
            field = tools.run.run(["dpkg-deb", "--field", file], timeout=60)
            found[package.sha256] = field.text
    return found


def _packages(state: Kept, uris: Sequence[str], records: Records) -> tuple[Package, ...]:
    """The packages of the URIs that apt would fetch."""
    bases = sorted({u.rstrip("/") + "/" for u in state.urls.values()}, key=len, reverse=True)
    names = {}
    for uri in uris:
        base = next((b for b in bases if uri.startswith(b)), "")
        names[unquote(uri[len(base) :])] = uri
    found = apt_index.by_file_name(state.indexes, {n.removeprefix("./") for n in names})
    found |= apt_index.by_file_name(state.indexes, set(names) - set(found))
    answer, kept = [], {}
    for name in names:
        hit = found.get(name) or found.get(name.removeprefix("./"))
        if hit is None:
            raise InputError(
                "find the record of", name, why="no index has it", next_step="Refresh the state"
            )
        record = apt_index.fields(hit.record)
        if "SHA256" not in record:
            raise InputError(
                "use the package",
                record["Package"],
                why=f"the index of {hit.repository} has no SHA-256 of it",
                next_step="Ask the repository's owner for an index with SHA256",
            )
        kept[record["SHA256"]] = hit.record
        answer.append(
            Package(
                name=record["Package"],
                version=record["Version"],
                architecture=record["Architecture"],
                sha256=record["SHA256"].lower(),
                size=int(record["Size"]),
                url=name,
                repository=hit.repository,
                source=apt_index.source_of(record),
            )
        )
    records.add(kept)
    return tuple(sorted(answer, key=lambda p: (p.name, p.architecture)))


def _shown(wanted: Wanted) -> tuple[str, ...]:
    return (*wanted.packages, *wanted.groups) or (f"the layer {wanted.kind}",)


def _excluded(name: str, wanted: Wanted, said: str) -> InputError:
    needs = re.findall(rf"^ *(\S+) : [\w-]+: .*(?<![\w.+-]){re.escape(name)}", said, re.MULTILINE)
    who = ", ".join(dict.fromkeys(needs)) or ", ".join(_shown(wanted))
    return InputError(
        "leave out the package",
        name,
        why=f"{who} needs it" if needs or name not in wanted.packages else "the recipe wants it",
        next_step="Take it out of exclude, or do without what needs it",
    )


def _removes(wanted: Wanted, names: Sequence[str]) -> InputError:
    return InputError(
        "install",
        ", ".join(_shown(wanted)),
        why=f"that would remove {', '.join(names) or 'packages'} of the layers below",
        next_step="Move it, or what it conflicts with, into the same layer",
    )
