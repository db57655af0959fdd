"""The store of layers: each is made once on this host, and used by all builds that need it.

The place holds a directory a layer (layers.py). What is being made is `KEY.PID.RANDOM.tmp` and is
renamed when it is whole; what is found damaged becomes `KEY.RANDOM.bad`. A lock a key says who
makes it (alone) and who uses it (together), so that two builds never make one layer twice and
nothing in use is deleted. A second place, which is only read, may hold what others made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.builders.packages.layers import archive as layer_archive
from pipeline.builders.packages.layers import records as layers
from pipeline.builders.packages.layers.records import LOCKS, RECORD, TREE, Filled, Layer, Wish
from pipeline.core import settings
from pipeline.core.errors import BusyError, HostError, PipelineError, ProgramError
from pipeline.core.resources import COMMAND
from pipeline.core.text import human_bytes
from pipeline.host.context import Tools
from pipeline.host.files import make_open_directory
from pipeline.host.isolation import (
    PROBE,
    Isolation,
    Root,
    find_isolation,
    own,
    remove_tree,
)
from pipeline.host.locks import exclusive, shared
from pipeline.host.staging import stage_copy

Make = Callable[[Root], Filled]
"""Fills the root that it is given, and returns with what."""

_WORK = "work"
_TEMPORARY, _BAD = ".tmp", ".bad"
_WAIT = 6 * 3600.0  # seconds for another run that makes the same layer: a slow mirror is no fault
_PROBED = 3600.0  # seconds after which nobody tries any more how this host isolates
_FULL = 1 << 20  # bytes free; less than any layer grows by


class LayerStore:
    """The layers of one user of this host.

    isolation: with None it is found when it is needed. place: where they lie. others: the second
    place. Both by the settings unless given.
    """

    def __init__(
        self,
        isolation: Isolation | None,
        tools: Tools,
        place: Path | None = None,
        others: Path | None = None,
    ) -> None:
        self.tools = tools
        self.place = place or settings.layers_dir()
        self.others = others or settings.shared_layers_dir()
        self._isolation = isolation
        self._refused: set[str] = set()

    @property
    def isolation(self) -> Isolation:
        """How the guest's ids are had."""
        if self._isolation is None:
            self.place.mkdir(parents=True, exist_ok=True)
            self._isolation = find_isolation(self.tools, self.place)
        return self._isolation

    @contextlib.contextmanager
    def use(
        self, wish: Wish, parents: Sequence[Layer], make: Make, *, used_by: str
    ) -> Iterator[Layer]:
        """The layer, made by `make` where there is none; nobody deletes it in this context.

        parents: the layers below, topmost first, each in use itself. used_by: the build's name.
        HostError for a full disk; what `make` raises passes, and nothing half is left.
        """
        ready = self._of_others(wish)
        if ready is not None:
            yield ready
            return
        self.place.mkdir(parents=True, exist_ok=True)
        what = f"the {wish.kind} layer {wish.key}"
        while True:
            self._have(wish, parents, make, what)
            with shared(self.lock(wish.key), what, wait=_WAIT):
                layer = layers.read_record(self.place / wish.key)
                if layer is None:
                    continue  # pruned between the locks
                layers.note_use(layer, used_by)
                yield layer
                return

    def find(self, key: str) -> Layer | None:
        """The whole layer of that key whose files have the guest's ids; its tree is looked at."""
        layer = layers.read_record(self.place / key)
        return layer if layer is not None and not self.damage(layer) else None

    def damage(self, layer: Layer, *, full: bool = False) -> str:
        """Why the layer cannot be used, "" if it can. full: its content is read, too.

        HostError where the host kept us from looking: that says nothing of the layer.
        """
        if not layer.fits(self.isolation):
            return "its files belong to other ids than this isolation's"
        if not layer.tree.is_dir():
            return "its tree is missing"
        try:
            if full:
                found = layers.measure(layer.tree, self.isolation, self.tools)
                whole = found == layer.shape
            else:
                found_shape = layers.shape_of(layer.tree, self.isolation, self.tools)
                whole = found_shape == layer.shape.shape
        except ProgramError as error:
            return error.why
        return "" if whole else "its files are not those that were stored"

    def all(self) -> list[Layer]:
        """Every layer of the place, by key; those that cannot be read are left out."""
        found = (layers.read_record(path) for path in self._named())
        return [layer for layer in found if layer is not None]

    def lock(self, key: str) -> Path:
        """The lock file of a key."""
        return self.place / LOCKS / key

    def set_aside(self, key: str, why: str) -> None:
        """Take a damaged layer out of use, and tell; the caller holds its lock alone."""
        if not (self.place / key).exists():
            self._refused.add(key)
            self.tools.progress.warn(
                f"the layer {key} in {self.others} is damaged: {why}. It is made anew in"
                f" {self.place}; whoever keeps the other should delete it"
            )
            return
        aside = self.place / f"{key}.{secrets.token_hex(4)}{_BAD}"
        (self.place / key).rename(aside)
        self.tools.progress.warn(
            f"the layer {key} is damaged: {why}. It was set aside as {aside} and is made anew"
            f" when it is needed; `{COMMAND} layers --prune` deletes it"
        )

    def delete(self, path: Path) -> None:
        """Delete a directory of the place; a layer loses its name first."""
        if not path.name.endswith((_TEMPORARY, _BAD)):
            path = path.rename(self._temporary(path.name))
        remove_tree(self.isolation, path, self.tools)

    def leftovers(self) -> list[Path]:
        """What killed runs left and what was set aside; nothing that is being made."""
        found = []
        for path in sorted(self.place.glob("*")) if self.place.is_dir() else []:
            if path.name.startswith(PROBE) and _age(path) > _PROBED:
                found.append(path)
            if path.name.endswith((_TEMPORARY, _BAD)):
                lock = self.lock(path.name.partition(".")[0])
                with contextlib.suppress(BusyError), exclusive(lock, path.name):
                    found.append(path)
        return found

    def stage(self, wish: Wish) -> Path:
        """A new directory for a layer that is being made."""
        directory = self._temporary(wish.key)
        for path in (directory, directory / TREE, directory / _WORK):
            make_open_directory(path)
        return directory

    def publish(self, wish: Wish, staged: Path, filled: Filled) -> Layer:
        """Give a whole layer its name; the caller holds its lock alone."""
        remove_tree(self.isolation, staged / _WORK, self.tools)
        shape = layers.measure(staged / TREE, self.isolation, self.tools)
        layers.write_record(layers.finished(wish, filled, shape, self.isolation, staged))
        # What has the name must outlive a power cut: all of the tree, not the record alone.
        self.tools.run.run(["sync", "--file-system", staged / RECORD], timeout=_WAIT)
        staged.rename(self.place / wish.key)
        layer = layers.read_record(self.place / wish.key)
        if layer is None:
            raise HostError("store the layer", wish.key, why="its record cannot be read back")
        return layer

    def _have(self, wish: Wish, parents: Sequence[Layer], make: Make, what: str) -> None:
        """See to it that the layer is there."""
        lock = self.lock(wish.key)
        try:
            with shared(lock, what):
                if self.find(wish.key):
                    return
        except BusyError as error:
            self.tools.progress.say(f"waiting for {what}: {error.why}")
        with exclusive(lock, what, wait=_WAIT):
            if (self.place / wish.key).exists():
                if self.find(wish.key):
                    return
                layer = layers.read_record(self.place / wish.key)
                self.set_aside(wish.key, self.damage(layer) if layer else "it has no record")
            for path in self.place.glob(f"{wish.key}.*{_TEMPORARY}"):
                self.delete(path)
            self._make(wish, parents, make)

    def _make(self, wish: Wish, parents: Sequence[Layer], make: Make) -> None:
        archive = layer_archive.find(self.others, wish.key)
        try:
            staged = self.stage(wish)
        except OSError as error:
            raise self._full(wish, error) or error from error
        try:
            own(self.isolation, (staged / TREE, staged / _WORK), self.tools)
            if archive and self._unpacked(archive, staged, wish):
                return
            root = Root(tuple(one.tree for one in parents), staged / TREE, staged / _WORK)
            filled = make(stage_copy(self.isolation, root, self.tools))
            self.publish(wish, staged, filled)
        except (OSError, PipelineError) as error:
            raise self._full(wish, error) or error from error
        finally:
            if staged.exists():
                remove_tree(self.isolation, staged, self.tools)

    def _unpacked(self, archive: Path, staged: Path, wish: Wish) -> bool:
        """Whether the layer was had from an archive; a bad one is told of and left alone."""
        try:
            filled = layer_archive.unpack(archive, staged, wish, self.isolation, self.tools)
        except (PipelineError, OSError, ValueError) as error:
            self.tools.progress.warn(f"the layer is made anew: {archive} is of no use: {error}")
            remove_tree(self.isolation, staged / TREE, self.tools)
            make_open_directory(staged / TREE)
            own(self.isolation, (staged / TREE,), self.tools)
            return False
        self.publish(wish, staged, filled)
        self.tools.progress.say(f"the {wish.kind} layer was unpacked from {archive}")
        return True

    def _full(self, wish: Wish, error: Exception) -> HostError | None:
        """The error for a full disk, if it is one, in whatever words a program said it."""
        free = shutil.disk_usage(self.place).free
        if free >= _FULL:
            return None
        return HostError(
            f"store the {wish.kind} layer in",
            self.place,
            why=f"its file system is full, {human_bytes(free)} are free ({_why(error)})",
            next_step=f"Free some space there, by `{COMMAND} layers --prune` perhaps, or set"
            " IMAGE_PIPELINE_LAYERS to a larger one",
        )

    def _of_others(self, wish: Wish) -> Layer | None:
        """The layer of the second place, where its ids are ours by chance or arrangement."""
        if layers.read_record(self.place / wish.key) is not None or wish.key in self._refused:
            return None
        layer = layers.read_record(self.others / wish.key)
        return layer if layer is not None and not self.damage(layer) else None

    def _named(self) -> list[Path]:
        if not self.place.is_dir():
            return []
        hidden = (_TEMPORARY, _BAD)
        return [
            path
            for path in sorted(self.place.iterdir())
            if path.is_dir() and path.name != LOCKS and not path.name.endswith(hidden)
        ]

    def _temporary(self, key: str) -> Path:
        return self.place / f"{key}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY}"


def _age(path: Path) -> float:
    """Seconds since something in the directory changed; 0 for one that has gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _why(error: Exception) -> str:
    return error.why if isinstance(error, PipelineError) else str(error)
