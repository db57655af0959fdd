"""All that a recipe sets in a system after its packages: accounts, names, services, files, scripts.

Three processes make the layer, whatever it holds. The first is Python with the guest's root as its
"/", in the ids of the guest: it edits files and runs nothing of the guest's. The second, if there
is anything to run, is the guest's shell in isolation, without network: it makes the locale,
switches services, sets the firewall and runs the scripts. The third removes what these left of
themselves and of the time. The same system, root and epoch give the same bytes.

Secrets travel on standard input alone, and are the run's `Secrets` before they do.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.builders.packages.inside import accounts, main, places
from pipeline.builders.packages.inside import system as inside_system
from pipeline.core.environment import FromEnvironment
from pipeline.core.errors import InputError, InstallError
from pipeline.core.packages import HASH_REMEDY, PackageSystem, PutFile, is_password_hash
from pipeline.core.text import printable, without_escapes
from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, Root, run_inside, run_mapped

_SENT = (
    ("pipeline.builders.packages.inside", ""),
    (places.__name__, places.__file__),
    (accounts.__name__, accounts.__file__),
    (inside_system.__name__, inside_system.__file__),
    (main.__name__, main.__file__),
)
# The guest's ids may read no file of an ordinary user's checkout: the modules come with the plan.
_BOOTSTRAP = """\
import json, sys, types
sent = json.loads(sys.stdin.buffer.read())
for name, source in sent["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
module.main(sent["plan"])
"""
_EDIT_SECONDS = 120.0
_STEPS_SECONDS = 3600.0
_LAST_WORDS = 2000  # characters, as of other programs
_BEGUN = re.compile(rf"^{main.BEGIN} (\d{{1,4}})$", re.M)
_STATUS = re.compile(rf"^{main.END} (\d{{1,4}}) (\d{{1,3}})$", re.M)


@dataclass(frozen=True)
class Script:
    """A script that runs in the guest, by /bin/sh where its first line names no interpreter.

    name: for people. needed: whether its failure is the build's; otherwise it is told.
    """

    name: str
    content: bytes = field(repr=False)
    needed: bool = True


def apply(
    system: PackageSystem,
    root: Root,
    isolation: Isolation,
    tools: Tools,
    *,
    epoch: int,
    log: Path,
    scripts: Sequence[Script] = (),
    environment: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Set everything in `root`, whose packages are there, and say what was left out and why.

    epoch: seconds, the time of all that is written. scripts: run before the system's own. log:
    gets what the guest's programs say. environment: where hashes are looked up, os.environ by
    default. InputError for what the guest has not, before any of its programs runs; InstallError
    with the last words of the step that failed. May be repeated on the same root.
    """
    values = os.environ if environment is None else environment
    for secret in _hashes(system, values).values():
        tools.run.secrets.add(secret)
    every = (*scripts, *_own_scripts(system))
    with contextlib.ExitStack() as stack:
        plan, fds = _plan(system, every, values, epoch, stack)
        if not isolation.namespaces:  # descriptors reach nobody there, and we are root
            for file in plan["files"]:
                file["fd"] = None
        answer = _edit(plan, root, isolation, tools, fds)
        if answer["faults"]:
            raise _refused(system, answer["faults"], tools)
    notes = list(answer["notes"])
    if answer["steps"]:
        notes += _run(answer["steps"], system, root, isolation, tools=tools, log=log)
    tidied = _edit({"action": "tidy", "epoch": epoch}, root, isolation, tools, ())
    if tidied["faults"]:
        raise _refused(system, tidied["faults"], tools)
    _edit({"action": "settle", "epoch": epoch}, root, isolation, tools, ())
    return tuple(tools.run.secrets.mask(note) for note in notes)


def identity(
    system: PackageSystem,
    scripts: Sequence[Script] = (),
    environment: Mapping[str, str] | None = None,
) -> Mapping[str, object]:
    """All that decides this layer, for a key of a cache: digests in place of contents and hashes.

    InputError for a file that cannot be read and a variable that is not set.
    """
    values = os.environ if environment is None else environment
    fields = (
        *("distribution", "locale", "timezone", "hostname", "keyboard", "services_enabled"),
        *("services_disabled", "selinux", "firewall", "root_ssh_keys", "user_groups"),
    )
    plain = system.model_dump(mode="json", include=set(fields))
    hashes = {name: _digest(entry.encode()) for name, entry in _hashes(system, values).items()}
    every = (*scripts, *_own_scripts(system))
    return plain | {
        "users": [user.model_dump(mode="json", exclude={"password"}) for user in system.users],
        "password digests": hashes,
        "files": [
            file.model_dump(mode="json", exclude={"content", "source"})
            | {"sha256": _file_digest(file)}
            for file in system.files
        ],
        "scripts": [[script.needed, _digest(script.content)] for script in every],
    }


def _hashes(system: PackageSystem, environment: Mapping[str, str]) -> dict[str, str]:
    """Each account's hash; those of locked accounts are not there."""
    entries = {"root": system.root_password_hash}
    entries |= {user.name: user.password for user in system.users}
    return {name: _hash(name, entry, environment) for name, entry in entries.items() if entry}


def _hash(name: str, entry: str | FromEnvironment, environment: Mapping[str, str]) -> str:
    if isinstance(entry, str):
        return entry
    value = environment.get(entry.environment, "")
    if not is_password_hash(value):
        why = "is no crypt(5) hash" if value else "is not set"
        raise InputError(
            "take the password of",
            name,
            why=f"${entry.environment} {why}",
            next_step=f"Have it hold what `openssl passwd -6` prints, or {HASH_REMEDY}",
        )
    return value


def _own_scripts(system: PackageSystem) -> Iterator[Script]:
    for path in system.scripts:
        with _reading(path):
            yield Script(path.name, path.read_bytes())


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            "put into the guest",
            path,
            why=error.strerror or str(error),
            next_step="Correct the recipe: paths are relative to its file",
        ) from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_digest(file: PutFile) -> str:
    if file.source is None:
        return _digest((file.content or "").encode())
    with _reading(file.source), file.source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plan(
    system: PackageSystem,
    scripts: Sequence[Script],
    environment: Mapping[str, str],
    epoch: int,
    stack: contextlib.ExitStack,
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """What inside/main.py is to do, and the open files that it copies from."""
    hashes = _hashes(system, environment)
    files, fds = [], []
    for file in system.files:
        fd = None
        if file.source is not None:
            with _reading(file.source):
                fd = stack.enter_context(file.source.open("rb")).fileno()
            fds.append(fd)
        content = base64.b64encode((file.content or "").encode()).decode()
        plain = file.model_dump(mode="json", exclude={"content", "source"})
        source = str(file.source.absolute()) if file.source else None
        files.append(plain | {"content": content, "fd": fd, "source": source})
    users = [
        user.model_dump(mode="json", exclude={"password", "ssh_keys"})
        | {"hash": hashes.get(user.name, ""), "keys": list(user.ssh_keys)}
        for user in system.users
    ]
    settings = system.model_dump(
        mode="json",
        include={
            *("locale", "timezone", "hostname", "keyboard", "selinux", "firewall", "user_groups"),
            *("services_enabled", "services_disabled"),
        },
    )
    plan = settings | {
        "action": "set",
        "epoch": epoch,
        "backend": system.backend,
        "root_hash": hashes.get("root", ""),
        "root_keys": list(system.root_ssh_keys),
        "users": users,
        "files": files,
        "scripts": [
            {
                "name": script.name,
                "needed": script.needed,
                "content": base64.b64encode(script.content).decode(),
            }
            for script in scripts
        ],
    }
    return plan, tuple(fds)


def _edit(
    plan: dict[str, Any], root: Root, isolation: Isolation, tools: Tools, fds: Sequence[int]
) -> dict[str, Any]:
    """Run inside/main.py with this plan; its answer."""
    place, mounts = root.upper, []
    if isolation.namespaces and plan["action"] != "settle":
        place = tools.scratch / "settings"
        place.mkdir(exist_ok=True)
        mounts = [(root, place)]
    modules = [(name, Path(file).read_text() if file else "") for name, file in _SENT]
    sent = {"modules": modules, "plan": plan | {"root": str(place.absolute())}}
    done = run_mapped(
        isolation,
        [sys.executable, "-I", "-S", "-c", _BOOTSTRAP],
        tools=tools,
        timeout=_EDIT_SECONDS,
        mounts=mounts,
        input=json.dumps(sent).encode(),
        pass_fds=fds,
        attempted="set the system up",
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _refused(system: PackageSystem, faults: Sequence[str], tools: Tools) -> InputError:
    told = [printable(tools.run.secrets.mask(fault), keep="") for fault in faults]
    return InputError(
        "set up",
        f"{system.distribution} {system.release}",
        why=f"{len(told)} fault{'s' if len(told) > 1 else ''}: " + "; ".join(told),
        next_step="Correct the recipe",
    )


def _run(
    steps: Sequence[Mapping[str, Any]],
    system: PackageSystem,
    root: Root,
    isolation: Isolation,
    *,
    tools: Tools,
    log: Path,
) -> Iterator[str]:
    """Run the steps in isolation; a sentence for each that failed and was not needed."""
    offset = log.stat().st_size if log.exists() else 0
    try:
        run_inside(
            isolation,
            root,
            ["/bin/sh", f"{main.PLACE}/plan"],
            tools=tools,
            timeout=_STEPS_SECONDS,
            architecture=system.architecture,
            log=log,
            attempted="run the recipe's steps in the guest",
        )
    finally:
        _hide(log, tools)
    with log.open("rb") as stream:
        stream.seek(offset)
        said = without_escapes(stream.read().decode(errors="replace"))
    failed = {int(n): int(status) for n, status in _STATUS.findall(said) if int(status)}
    for at, step in enumerate(steps):
        if at in failed and not step["needed"]:
            yield f"It failed to {step['what']}, exit status {failed[at]}; the build went on"
    if said.rstrip().endswith(main.DONE):
        return
    # What a program prints is the guest's word: no number of it is taken that is none of a step.
    begun = [match for match in _BEGUN.finditer(said) if int(match[1]) < len(steps)]
    number = int(begun[-1][1]) if begun else 0
    words = _STATUS.sub("", said[begun[-1].end() :] if begun else said).strip()[-_LAST_WORDS:]
    how = f"exit status {failed[number]}" if number in failed else "it did not end"
    raise InstallError(
        steps[number]["what"] + " in",
        f"{system.distribution} {system.release}",
        why=tools.run.secrets.mask(f"{how}: {printable(words) or 'it said nothing'}"),
        next_step=f"All that was said is in {log}",
    )


def _hide(log: Path, tools: Tools) -> None:
    """Take secrets out of a log: a script may print the very file that has the hashes."""
    if log.exists():
        said = log.read_text(errors="replace")
        masked = tools.run.secrets.mask(said)
        if masked != said:
            log.write_text(masked)
