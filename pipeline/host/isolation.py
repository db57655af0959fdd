"""Runs programs that nobody vouches for, and programs that need the ids of a guest, without root.

Two uses, one module. `run_inside` runs a program of a guest's root (a package's script) in
namespaces of its own: user, mount, pid, network, ipc, uts, cgroup. Its "/" is the root that was
given, by pivot_root; it sees no file, no process and no network of the host. `run_mapped` runs a
program of ours or of the host (mkfs, a writer of images) where only the ids are those of the guest.
The work is done by inside.py, a script of its own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from pipeline.core.errors import HostError, PipelineError, ProgramError
from pipeline.host import ids, kernel
from pipeline.host.context import Tools
from pipeline.host.emulation import emulator
from pipeline.host.files import make_open_directory
from pipeline.host.ids import remedy
from pipeline.host.output import TooMuchError, collect
from pipeline.host.programs import DEVNULL, PIPE, Completed, TimeoutExpired, refuse_full
from pipeline.host.requirements import Requirement, declare, find, require

Mode = Literal["user namespace", "root"]
"""How ids are mapped: by a user namespace, or not at all, in a container whose root we are and
that may not make one."""

REQUIRES = declare(
    Requirement(
        "isolation",
        "running programs of packages shut off from the host, without root",
        programs={"newuidmap": "uidmap", "newgidmap": "uidmap"},
        unchecked=dict.fromkeys(("rm", "cp", "chown", "sync"), "coreutils"),
        needed=False,
    )
)

_SCRIPT = Path(__file__).with_name("inside.py")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}
_MOST_OUTPUT = 64 << 20  # bytes; the longest log of an installation seen had 3 MB
_PROCESSES = 4096  # at once; a compiler of modules on many cores stays below a tenth of it
_TAIL = 2000  # characters of a failing program's words that fit a terminal screen
PROBE = "isolation-"  # begins the names of the directories that `find_isolation` tries in
_PROBE_SECONDS = 60.0
_TREE_SECONDS = 3600.0  # for a tree of some 100,000 files on a slow disk
_REMOVE = 'find "$1" -xdev -mindepth 1 -delete; rmdir "$1" 2>/dev/null; :'


@dataclass(frozen=True)
class Root:
    """What becomes "/".

    lower: directories of earlier layers, topmost first, never written. upper: gets all that is
    written, as overlayfs writes it with `userxattr` (a 0:0 character device for what was removed,
    user.overlay.opaque for a directory that hides those below); with `lower` empty it is the whole
    root. work: overlayfs's own empty directory, on the file system of `upper`. New, empty
    directories of the caller's for `upper` and `work` are handed to the guest's root.
    """

    lower: tuple[Path, ...]
    upper: Path
    work: Path


@dataclass(frozen=True)
class Bind:
    """A path of the host that is seen inside, read-only unless `writable`.

    Inside it belongs to nobody unless its owner is one of the guest's ids, so it must be readable
    by all. A `target` that is not there is made, and removed afterwards.
    """

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Isolation:
    """How this host isolates; found by `find_isolation`.

    mode: see `Mode`. first_id: host id that is the guest's 0; count: how many follow it.
    overlay: whether layers can be stacked by overlayfs; they are copied otherwise. first_group: the
    same of group ids, where it differs. namespaces: False where nothing is shut off but by chroot.
    """

    mode: Mode
    first_id: int
    count: int
    overlay: bool
    first_group: int | None = None
    namespaces: bool = True

    @property
    def group(self) -> int:
        """Host id that is the guest's group 0."""
        return self.first_id if self.first_group is None else self.first_group


_FOUND: dict[tuple[int, int], Isolation] = {}
_LOCK = threading.Lock()


def find_isolation(tools: Tools, place: Path | None = None) -> Isolation:
    """What this host allows, tried in fact; HostError with the remedy where it allows nothing.

    place: the directory that layers are to be in, whose file system must be able to hold them;
    `tools.scratch` by default. The answer is kept for the process.
    """
    place = place or tools.scratch
    key = (os.geteuid(), place.stat().st_dev)
    with _LOCK:
        if key not in _FOUND:
            _FOUND[key] = _find(tools, place)
        return _FOUND[key]


def _find(tools: Tools, place: Path) -> Isolation:
    if os.geteuid() != 0:
        for program in REQUIRES.programs:
            require(program)
        users, groups = (ids.ordinary_range(kind, tools.run) for kind in ("uid", "gid"))
        count = min(users.count, groups.count)
        return _try(
            Isolation("user namespace", users.first, count, True, groups.first), tools, place
        )
    try:
        chosen = ids.root_range()
        return _try(Isolation("user namespace", chosen.first, chosen.count, True), tools, place)
    except HostError as error:
        refused = error
    try:
        found = _try(Isolation("root", 0, ids.WHOLE, True), tools, place)
        lacking = "a user namespace"
    except HostError:
        try:
            found = _try(Isolation("root", 0, ids.WHOLE, False, namespaces=False), tools, place)
            lacking = "any namespace"
        except HostError:
            raise refused from None
    tools.progress.warn(
        f"this container allows no program {lacking} of its own ({refused.why}): programs of"
        " packages are shut off from the host by the container alone, and may see its network"
        if not found.namespaces
        else f"no user namespace can be made here ({refused.why}): programs of packages run as the"
        " real root, with fewer capabilities, in other namespaces"
    )
    return found


def _try(isolation: Isolation, tools: Tools, place: Path) -> Isolation:
    """Go inside once, with a layer on another; the same without layers where those fail."""
    directory = Path(tempfile.mkdtemp(prefix=PROBE, dir=place))
    lower, upper, work = (directory / name for name in ("lower", "upper", "work"))
    for path in (lower, upper, work):
        make_open_directory(path)
    try:
        run_inside(isolation, Root((lower,), upper, work), [], tools=tools, timeout=_PROBE_SECONDS)
    except HostError as error:
        if not isolation.overlay or "overlayfs" not in error.attempted:
            raise
        isolation = replace(isolation, overlay=False)
        run_inside(isolation, Root((), upper, work), [], tools=tools, timeout=_PROBE_SECONDS)
    finally:
        remove_tree(isolation, directory, tools)
    return isolation


def run_inside(
    isolation: Isolation,
    root: Root,
    argv: Sequence[str],
    *,
    tools: Tools,
    timeout: float,
    binds: Sequence[Bind] = (),
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    architecture: str = "x86_64",
    log: Path | None = None,
    attempted: str = "",
) -> Completed:
    """Run `argv` with `root` as "/" and end all that it started; ProgramError as by Runner.run.

    env: added to PATH, HOME and LC_ALL. log: gets all output; the result then has the last 64 KiB
    of each stream. Output past 64 MiB is an error. HostError where the host cannot isolate it.
    What it writes is not synced, though it may ask for that: dpkg does 2000 times for a small
    system. Whoever gives the layer its final name syncs its file system before.
    """
    emulated = emulator(architecture)
    own(isolation, (root.upper, root.work), tools)
    spec = _spec(isolation, root) | {
        "untrusted": True,
        "flags": kernel.SPACES if isolation.namespaces else 0,
        "binds": [
            {"source": str(b.source.absolute()), "target": b.target, "writable": b.writable}
            for b in binds
        ],
        "env": _ENVIRONMENT | dict(env or {}),
        "interpreter": emulated.line,
        "interpreter_there": emulated.there,
        "pass_fds": [],
    }
    return _run(spec, argv, tools, timeout, input=input, log=log, attempted=attempted)


def run_mapped(
    isolation: Isolation,
    argv: Sequence[str | Path],
    *,
    tools: Tools,
    timeout: float,
    mounts: Sequence[tuple[Root, Path]] = (),
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    pass_fds: Sequence[int] = (),
    writable: Sequence[Path] | None = None,
    attempted: str = "",
) -> Completed:
    """Run a trusted program in the host's view with the guest's ids; `mounts`: roots to be seen at
    the given (existing, empty) directories. writable: the only directories that it can write to,
    for one that unpacks what strangers packed; None for all that its ids may write.

    It may also read and write the caller's own files, whose owner it sees as the id that follows
    the guest's last; so never run a guest's program by this. New files belong to the guest's root
    unless they were made first, or opened, by the caller.
    """
    words = [os.fspath(word) for word in argv]
    if not isolation.namespaces:
        if mounts:
            raise HostError(
                attempted or "see a root",
                why="this container allows no mounts",
                next_step="Work on the directory itself: it holds the whole root",
            )
        return tools.run.run(words, timeout=timeout, env=env, input=input, attempted=attempted)
    for root, _ in mounts:
        own(isolation, (root.upper, root.work), tools)
    spec = _spec(isolation, None) | {
        "untrusted": False,
        "flags": kernel.NEWNS | kernel.NEWPID,
        "writable": None if writable is None else [str(path.absolute()) for path in writable],
        "mounts": [
            {"root": _places(isolation, root), "target": str(place.absolute())}
            for root, place in mounts
        ],
        "env": None,
        "pass_fds": list(pass_fds),
    }
    if isolation.mode == "user namespace" and isolation.first_id:
        for kind, me in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
            spec[kind].append([isolation.count, me, 1])
    return _run(spec, words, tools, timeout, input=input, env=env, attempted=attempted)


def remove_tree(isolation: Isolation, directory: Path, tools: Tools) -> None:
    """Delete a directory whose files belong to the guest's ids, if it is there."""
    path = str(directory.absolute())
    if os.geteuid() == 0:
        argv = ["rm", "-rf", "--one-file-system", "--", path]
        tools.run.run(argv, timeout=_TREE_SECONDS, noted=False)
    elif directory.exists():
        _take_group(directory)
        run_mapped(isolation, ["sh", "-c", _REMOVE, "sh", path], tools=tools, timeout=_TREE_SECONDS)
        # Directories of the caller's may be of a group that no namespace maps.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)


def own(isolation: Isolation, directories: Sequence[Path], tools: Tools) -> None:
    """Give the guest's root those of the directories that are not its own yet."""
    theirs = [path for path in directories if path.stat().st_uid != isolation.first_id]
    if os.geteuid() == 0:
        for path in theirs:
            os.chown(path, isolation.first_id, isolation.group)
    elif theirs:
        for path in theirs:
            _take_group(path)
        run_mapped(isolation, ["chown", "0:0", "--", *theirs], tools=tools, timeout=60)


def _take_group(directory: Path) -> None:
    """Have a directory of the caller's be of its first group, the only one that is mapped."""
    status = directory.stat()
    if status.st_uid == os.geteuid() and status.st_gid != os.getegid():
        os.chown(directory, -1, os.getegid())


def _places(isolation: Isolation, root: Root) -> dict[str, Any]:
    lower = [str(path.absolute()) for path in root.lower] if isolation.overlay else []
    return {
        "lower": lower,
        "upper": str(root.upper.absolute()),
        "work": str(root.work.absolute()),
    }


def _spec(isolation: Isolation, root: Root | None) -> dict[str, Any]:
    """What inside.py is told in any case."""
    by_hand = os.geteuid() == 0
    return {
        "root": _places(isolation, root) if root else None,
        "user_namespace": isolation.mode == "user namespace",
        "uid_map": [[0, isolation.first_id, isolation.count]],
        "gid_map": [[0, isolation.group, isolation.count]],
        "count": isolation.count,
        "newuidmap": "" if by_hand else find("newuidmap"),
        "newgidmap": "" if by_hand else find("newgidmap"),
        "processes": _PROCESSES,
    }


def _run(
    spec: dict[str, Any],
    argv: Sequence[str],
    tools: Tools,
    timeout: float,
    *,
    attempted: str,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Completed:
    """Have inside.py do it; what it says of the outcome comes back in the file of the order."""
    attempted = attempted or (f"run {Path(argv[0]).name}" if argv else "isolate")
    begun = time.monotonic()
    with tempfile.TemporaryFile(dir=tools.scratch) as order:
        order.write(json.dumps(spec).encode())
        order.flush()
        number = str(order.fileno())
        with tools.run.start(
            [sys.executable, "-I", "-S", str(_SCRIPT), number, *argv],
            env=env,
            stdin=PIPE if input is not None else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=(order.fileno(), *spec["pass_fds"]),
        ) as program:
            try:
                stdout, stderr = collect(
                    program, input, timeout=timeout, most=_MOST_OUTPUT, log=log
                )
            except TimeoutExpired:
                _fail(attempted, f"it did not end within {timeout:.0f} s", argv, tools)
            except TooMuchError:
                why = f"it wrote more than {_MOST_OUTPUT >> 20} MiB"
                _fail(attempted, why, argv, tools)
        order.seek(0)
        text = order.read()
    outcome = json.loads(text) if text else {}
    if outcome.get("failed"):
        raise _refusal(outcome["failed"], attempted, argv)
    status = outcome.get("status", program.process.returncode)
    if status != 0:
        refuse_full(["", str(spec["root"]["upper"])] if spec["root"] else argv)
        words = (stderr.strip() or stdout.strip()).decode(errors="replace")[-_TAIL:]
        _fail(attempted, f"exit status {status}: {words}", argv, tools)
    return Completed(tuple(argv), status, stdout, stderr, time.monotonic() - begun)


def _fail(attempted: str, why: str, argv: Sequence[str], tools: Tools) -> NoReturn:
    command = tools.run.secrets.mask(shlex.join(argv))
    raise ProgramError(
        attempted, why=tools.run.secrets.mask(why), next_step=f"The command was: {command}"
    )


def _refusal(failed: Mapping[str, Any], attempted: str, argv: Sequence[str]) -> PipelineError:
    """The error for a step of inside.py that failed."""
    step, why = failed["step"], failed["why"]
    if argv and step == f"start {argv[0]}":
        return ProgramError(attempted, why=f"{argv[0]} cannot be started: {why}")
    return HostError(f"{attempted}: cannot {step}", why=why, next_step=remedy(step))
