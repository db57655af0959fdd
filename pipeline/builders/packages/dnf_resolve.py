"""Which packages a layer adds: dnf's solver over metadata that is kept, without a root.

The layers below are no installed system to the solver: it solves for the whole, with the packages
of the layers below wished for in their exact versions, and what it gives beyond them is the layer.
So a package that obsoletes one from below takes its place, as it would in an upgrade.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.builders.packages.protocol import Package, RepositoryState, Wanted
from pipeline.core.errors import HostError, InputError, PipelineError, ProgramError
from pipeline.core.packages import PackageSystem
from pipeline.host.context import Tools

_SCRIPT = Path(__file__).with_name("dnf_solve.py")
PYTHON = "/usr/bin/python3"
"""The system's own, for which Debian packages dnf's modules."""
_SECONDS = 900  # Fedora's 70,000 packages take about 20 s to read for the first time


def question(
    system: PackageSystem,
    directory: Path,
    wanted: Wanted,
    parents: Sequence[Package],
    scratch: Path,
) -> dict[str, Any]:
    """What dnf_solve.py is asked. directory: of the state, with a subdirectory a repository."""
    places = [(each.name, directory / each.name) for each in system.repositories]
    return {
        "arch": system.architecture,
        "release": system.release,
        "distribution": system.distribution,
        "repositories": [(name, str(path)) for name, path in places],
        "modular": any(list(path.glob("repodata/*modules.yaml*")) for _, path in places),
        "cache": str(directory / "solver"),
        "scratch": str(scratch),
        "core": wanted.kind == "core",
        "packages": list(wanted.packages),
        "groups": list(wanted.groups),
        "exclude": list(wanted.exclude),
        "weak": system.weak_dependencies,
        "parents": [
            {"name": p.name, "evr": p.version, "arch": p.architecture, "sha256": p.sha256}
            for p in parents
        ],
    }


def resolve(
    system: PackageSystem,
    state: RepositoryState,
    wanted: Wanted,
    parents: Sequence[Package],
    tools: Tools,
) -> tuple[Package, ...]:
    """See Backend."""
    with tempfile.TemporaryDirectory(prefix="dnf-", dir=tools.scratch) as scratch:
        asked = question(system, state.directory, wanted, parents, Path(scratch))
        try:
            done = tools.run.run(
                [PYTHON, "-I", _SCRIPT],
                timeout=_SECONDS,
                input=json.dumps(asked).encode(),
                env={"HOME": scratch},
                attempted=f"have dnf solve for the {wanted.kind} layer of {system.distribution}",
            )
        except ProgramError as error:
            raise HostError(
                error.attempted,
                why=error.why,
                next_step="Install what it needs: apt-get install dnf",
            ) from error
    said = json.loads(done.stdout)
    for note in said["notes"]:
        tools.progress.warn(note)
    if "problem" in said:
        raise refusal(said["problem"], wanted)
    below = {parent.sha256 for parent in parents}
    packages = [package for each in said["packages"] if (package := _package(each)).sha256
                not in below]  # fmt: skip
    return tuple(sorted(packages, key=lambda p: (p.name, p.architecture, p.version)))


def refusal(problem: dict[str, Any], wanted: Wanted) -> PipelineError:
    """The error for a problem that dnf_solve.py told."""
    near = ", ".join(problem["near"])
    hint = f"Did you mean {near}" if near else ""
    if problem["kind"] == "parent":
        return HostError(
            "put a layer on the package",
            problem["subject"],
            why=problem["why"],
            next_step="Make the layers below again from the repositories as they are now",
        )
    if problem["kind"] == "solve":
        excluded = f" (excluded: {', '.join(wanted.exclude)})" if wanted.exclude else ""
        return InputError(
            f"choose the packages of the {wanted.kind} layer{excluded}",
            problem["subject"],
            why=problem["why"],
            next_step='Change "packages", "groups" or "exclude" of the recipe',
        )
    return InputError(
        f"find the {problem['kind']}",
        problem["subject"],
        why=problem["why"],
        next_step=hint or "Look at its spelling, and at the repositories of the recipe",
    )


def source_of(file: str) -> str:
    """Name and version of the source package by its file's name: "bash 5.1.8-6.el9"."""
    bare = file.removesuffix(".rpm").removesuffix(".src").removesuffix(".nosrc")
    name, _, version = bare.rpartition("-")
    name, _, first = name.rpartition("-")
    return f"{name} {first}-{version}" if name else ""


def _package(told: dict[str, Any]) -> Package:
    return Package(
        name=told["name"],
        version=told["evr"],
        architecture=told["arch"],
        sha256=told["sha256"],
        size=told["size"],
        url=told["url"],
        repository=told["repository"],
        source=source_of(told["sourcerpm"]),
    )
