"""A root in layers: planned from the repositories' state, made where the store lacks them.

Making starts with the first layer that is not there. What runs of the packages runs in isolation;
everything that a layer writes anew is dated by the newest of its package files and its parents'.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path

from pipeline.builders.packages import settings as guest_settings
from pipeline.builders.packages.backends import MODULES, open_backend
from pipeline.builders.packages.complete import Complete, complete
from pipeline.builders.packages.layers.garbage import collect
from pipeline.builders.packages.layers.planning import PlannedLayer, plan_layers, wanted_layers
from pipeline.builders.packages.layers.records import Filled, Layer, Wish
from pipeline.builders.packages.layers.store import LayerStore
from pipeline.builders.packages.protocol import Backend, Package, RepositoryState
from pipeline.builders.packages.settings import Script
from pipeline.builders.packages.times import newest
from pipeline.core import settings
from pipeline.core.errors import HostError
from pipeline.core.packages import PackageSystem
from pipeline.core.passwords import without_passwords
from pipeline.core.request import BuildRequest
from pipeline.host.context import Tools
from pipeline.host.fingerprint import code_of
from pipeline.host.isolation import Isolation, Root, find_isolation
from pipeline.host.locks import exclusive

_ELSEWHERE = ("pipeline.core", "pipeline.host")
"""Left out of a layer's key, as of an install's: a line about locks makes no other layer."""


class LayeredRoot:
    """The root of one request. Making it starts nothing and asks nobody."""

    def __init__(self, request: BuildRequest, tools: Tools) -> None:
        self._request, self._tools = request, tools
        self._filled: set[str] = set()

    @cached_property
    def complete(self) -> Complete:
        """The system with all that the request leaves unsaid; warns of what is left out."""
        found = complete(self._request)
        if found.taken is not None:
            for secret in found.taken.secrets:
                self._tools.run.secrets.add(secret)
            for note in (*found.taken.notes, *found.notes):
                self._tools.progress.warn(note)
        return found

    @property
    def system(self) -> PackageSystem:
        """What is made."""
        return self.complete.system

    @cached_property
    def backend(self) -> Backend:
        """Its package manager."""
        return open_backend(self.system, self._tools, settings.cache_dir() / "packages")

    @cached_property
    def state(self) -> RepositoryState:
        """The repositories' state; asks the mirrors where it is not known or shall be new."""
        return self.backend.state(refresh=self._request.refresh)

    @property
    def scripts(self) -> tuple[Script, ...]:
        """Scripts of a kickstart, which run before the recipe's own."""
        return self.complete.taken.scripts if self.complete.taken else ()

    @cached_property
    def layers(self) -> tuple[PlannedLayer, ...]:
        """The layers as they are to be, core first."""
        return plan_layers(
            self.system,
            lambda wanted, parents: self.backend.resolve(self.state, wanted, parents),
            set_in_it=guest_settings.identity(self.system, self.scripts),
            signers=self.backend.signers(),
            code=_code(self.system),
        )

    @property
    def packages(self) -> tuple[Package, ...]:
        """All packages of the root, a later layer's in place of an earlier one's, by name."""
        found = {(p.name, p.architecture): p for layer in self.layers for p in layer.packages}
        return tuple(found[name] for name in sorted(found))

    def url_of(self, package: Package) -> str:
        """Where a package file may be had, without a password."""
        first = next(r.urls[0] for r in self.system.repositories if r.name == package.repository)
        return without_passwords(f"{self.system.filled(first).rstrip('/')}/{package.url}")

    def describe(self) -> list[str]:
        """What making would do, a sentence's predicate each; no mirror is asked."""
        system = self.system
        places = ", ".join(
            without_passwords(url) for r in system.repositories for url in r.urls[:1]
        )
        lines = [f"take {system.distribution} {system.release} from {places}"]
        for wanted in wanted_layers(system):
            words = [*wanted.groups, *wanted.packages]
            beside = "the distribution's minimum" if wanted.kind == "core" else "the layer below"
            added = f" and {', '.join(words)}" if words else ""
            lines.append(f"make or reuse the {wanted.kind} layer: {beside}{added}")
        return lines

    @contextmanager
    def made(self, used_by: str, logs: Path) -> Iterator[tuple[Layer, ...]]:
        """The layers, topmost first, made where they lack; nobody deletes them in this context.

        used_by: the build's name. logs: a directory for what the package manager says.
        """
        made: tuple[Layer, ...] = ()
        with ExitStack() as stack:
            for planned in self.layers:
                wish = Wish(
                    key=planned.key,
                    kind=planned.kind,
                    parent=planned.parent,
                    backend=self.system.backend,
                    words=(
                        f"{self.system.distribution} {self.system.release}",
                        *planned.wanted.groups,
                        *planned.wanted.packages,
                    ),
                )
                make = partial(self._make, planned, made, logs / f"{planned.kind}.log")
                layer = stack.enter_context(self.store.use(wish, made, make, used_by=used_by))
                made = (layer, *made)
            yield made
        if self._filled:
            garbage = collect(self.store, most=settings.layers_bytes(), days=settings.layers_days())
            for one in garbage:
                self._tools.progress.say(f"deleted the layer {one.key}: {one.reason}")

    def damaged(self, layers: Sequence[Layer]) -> tuple[tuple[Layer, str], ...]:
        """Those of the layers whose content is not what was stored, and why; reads all of it.

        What this run made itself is not read again.
        """
        older = [layer for layer in layers if layer.wish.key not in self._filled]
        found = ((layer, self.store.damage(layer, full=True)) for layer in older)
        return tuple((layer, why) for layer, why in found if why)

    def set_aside(self, damaged: Sequence[tuple[Layer, str]]) -> None:
        """Take damaged layers out of use, so that the next `made` makes them anew."""
        for layer, why in damaged:
            key = layer.wish.key
            with exclusive(self.store.lock(key), f"the layer {key}"):
                self.store.set_aside(key, why)

    @cached_property
    def store(self) -> LayerStore:
        """Where the layers lie."""
        return LayerStore(self.isolation, self._tools)

    @cached_property
    def isolation(self) -> Isolation:
        """How this host shuts packages off."""
        place = settings.layers_dir()
        place.mkdir(parents=True, exist_ok=True)
        if os.statvfs(place).f_flag & os.ST_NOEXEC:
            raise HostError(
                "make layers in",
                place,
                why="its file system is mounted noexec, and programs of packages run from there",
                next_step="Set IMAGE_PIPELINE_LAYERS to a directory on another file system",
            )
        return find_isolation(self._tools, place)

    def _make(
        self, planned: PlannedLayer, below: tuple[Layer, ...], log: Path, root: Root
    ) -> Filled:
        """Fill the root of a layer that the store lacks."""
        system, tools = self.system, self._tools
        count = len(planned.packages)
        tools.progress.say(f"making the {planned.kind} layer of {count} packages")
        files = self.backend.fetch(self.state, planned.packages)
        epoch = max([newest(files), *(layer.epoch for layer in below)])
        log.parent.mkdir(parents=True, exist_ok=True)
        self.backend.install(
            root,
            planned.wanted,
            planned.packages,
            files,
            isolation=self.isolation,
            tools=tools,
            log=log,
        )
        if planned.kind == "image":
            notes = guest_settings.apply(
                system,
                root,
                self.isolation,
                tools,
                epoch=epoch,
                log=log,
                scripts=self.scripts,
            )
            for note in notes:
                tools.progress.warn(note)
        self._filled.add(planned.key)
        return Filled(planned.packages, epoch)


def _code(system: PackageSystem) -> tuple[Path, ...]:
    """The modules that make layers of this package manager, with scripts that nobody imports."""
    here = Path(__file__).parent
    imported = code_of(MODULES[system.backend], guest_settings.__name__, without=_ELSEWHERE)
    return (here / system.backend, here / "inside", *imported)
