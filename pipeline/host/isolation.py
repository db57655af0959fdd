"""Runs programs that nobody vouches for, and programs that need the ids of a guest, without root.

Two uses, one module. `run_inside` runs a program of a guest's root (a package's script) in
namespaces of its own: user, mount, pid, network, ipc, uts. Its "/" is the root that was given, by
pivot_root; it sees no file, no process and no network of the host. `run_mapped` runs a program of
ours or of the host (mkfs, a writer of images, dnf) where only the ids are those of the guest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.host.context import Tools
from pipeline.host.programs import Completed

Mode = Literal["user namespace", "root"]
"""How ids are mapped: by a user namespace, or not at all, in a container whose root we are and
that may not make one."""


@dataclass(frozen=True)
class Root:
    """What becomes "/".

    lower: directories of earlier layers, topmost first, never written. upper: gets all that is
    written, as overlayfs writes it with `userxattr` (a 0:0 character device for what was removed,
    user.overlay.opaque for a directory that hides those below); with `lower` empty it is the whole
    root. work: overlayfs's own empty directory, on the file system of `upper`.
    """

    lower: tuple[Path, ...]
    upper: Path
    work: Path


@dataclass(frozen=True)
class Bind:
    """A path of the host that is seen inside, read-only unless `writable`."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Isolation:
    """How this host isolates; found by `find_isolation`.

    mode: see `Mode`. first_id: host id that is the guest's 0; count: how many follow it.
    overlay: whether layers can be stacked by overlayfs; they are copied otherwise.
    """

    mode: Mode
    first_id: int
    count: int
    overlay: bool


def find_isolation(tools: Tools) -> Isolation:
    """What this host allows; HostError with the remedy where it allows nothing."""
    raise NotImplementedError


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
    """Run `argv` with `root` as "/"; ProgramError as Runner.run has it. log: gets all output."""
    raise NotImplementedError


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
    attempted: str = "",
) -> Completed:
    """Run a trusted program in the host's view with the guest's ids; `mounts`: roots to be seen at
    the given (existing, empty) directories."""
    raise NotImplementedError


def remove_tree(isolation: Isolation, directory: Path, tools: Tools) -> None:
    """Delete a directory whose files belong to the guest's ids."""
    raise NotImplementedError
