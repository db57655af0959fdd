"""Which layers a system is made of, and what each is known by.

A layer's key is a digest of what decides its content: the packages that it adds, by their own
digests, the keys that sign them, the words that are set in it, its parent's key, and the code that
makes it. The repositories' state is in it through the packages alone, so that an update leaves
every layer as it is whose packages it does not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.builders.packages.protocol import (
    LAYERS,
    LayerKind,
    Package,
    Wanted,
)
from pipeline.core.packages import PackageSystem
from pipeline.host.fingerprint import step_key

Resolve = Callable[[Wanted, Sequence[Package]], tuple[Package, ...]]


@dataclass(frozen=True)
class PlannedLayer:
    """One layer as it is to be. packages: those that it adds, sorted by name."""

    kind: LayerKind
    wanted: Wanted
    packages: tuple[Package, ...]
    key: str
    parent: str


def wanted_layers(system: PackageSystem) -> tuple[Wanted, ...]:
    """What each layer adds, in the recipe's words; a base without packages is left out."""
    words = {"core": system.core, "base": system.base, "image": system.packages}
    found = []
    for kind in LAYERS:
        groups = system.groups if kind == "image" else ()
        if kind != "base" or words[kind]:
            found.append(Wanted(kind, words[kind], groups, system.exclude))
    return tuple(found)


def plan_layers(
    system: PackageSystem,
    resolve: Resolve,
    *,
    set_in_it: Mapping[str, object],
    signers: Mapping[str, Sequence[str]],
    code: tuple[Path, ...],
) -> tuple[PlannedLayer, ...]:
    """The layers of a system, core first. Runs no code of packages and needs no layer's content.

    resolve: what a layer adds to the packages of its parents, as `Backend.resolve` finds it.
    set_in_it: the identity of what is set in the image layer beside packages. signers: as of
    `Backend`. code: the modules that make layers. InputError as `Backend.resolve` has it.
    """
    planned: list[PlannedLayer] = []
    have: list[Package] = []
    parent = ""
    for wanted in wanted_layers(system):
        packages = resolve(wanted, have)
        inputs: dict[str, object] = {
            "distribution": system.distribution,
            "release": system.release,
            "architecture": system.architecture,
            "wanted": asdict(wanted),
            "weak": system.weak_dependencies,
            "packages": [(p.name, p.version, p.architecture, p.sha256) for p in packages],
            "signers": sorted({key for p in packages for key in signers.get(p.repository, ())}),
            "parent": parent,
        }
        if wanted.kind == "image":
            inputs["set"] = set_in_it
        key = step_key(f"layer {wanted.kind}", inputs, code)
        planned.append(PlannedLayer(wanted.kind, wanted, packages, key, parent))
        replaced = {(p.name, p.architecture) for p in packages}
        have = [p for p in have if (p.name, p.architecture) not in replaced] + list(packages)
        parent = key
    return tuple(planned)
