"""Which layers can go: the long unused, and the least recently used of too many.

A layer that is in use stays, and so does one on which another lies that stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pipeline.builders.packages.layers import Layer, last_use
from pipeline.builders.packages.store import LayerStore
from pipeline.core.errors import BusyError
from pipeline.host.locks import exclusive

Reason = Literal["leftover", "unused", "space"]


@dataclass(frozen=True)
class Garbage:
    """Something that can go. key: of the layer, or of what was to become one. reason: "leftover"
    (of a killed run, or damaged), "unused" (for too long), "space" (too many layers). bytes: of the
    layer's files, 0 for what was never measured."""

    key: str
    reason: Reason
    bytes: int
    path: Path


def collect(
    store: LayerStore, *, most: int, days: int, dry_run: bool = False, now: datetime | None = None
) -> list[Garbage]:
    """Delete what can go, or only tell; in the order of deletion.

    most: bytes that all layers may have together. days: that an unused layer is kept.
    """
    found = []
    for one in _leftovers(store):
        found.append(one)
        if not dry_run:
            store.delete(one.path)
    rest = {layer.wish.key: layer for layer in store.all()}
    oldest = ((now or datetime.now(UTC)) - timedelta(days=days)).isoformat(timespec="seconds")
    kept: set[str] = set()
    while True:
        total = sum(layer.shape.bytes for layer in rest.values())
        parents = {layer.wish.parent for layer in rest.values()}
        free = [one for key, one in rest.items() if key not in parents | kept]
        layer = min(free, key=last_use, default=None)
        if layer is None:
            return found
        unused = last_use(layer) < oldest
        if not unused and total <= most:
            return found
        key = layer.wish.key
        with _alone(store, layer) as alone:
            if not alone:
                kept.add(key)  # and by that all below it
                continue
            reason: Reason = "unused" if unused else "space"
            found.append(Garbage(key, reason, layer.shape.bytes, layer.directory))
            if not dry_run:
                store.delete(layer.directory)
            del rest[key]


def in_use(store: LayerStore, layer: Layer) -> bool:
    """Whether some run uses the layer now."""
    with _alone(store, layer) as alone:
        return not alone


def _leftovers(store: LayerStore) -> Iterator[Garbage]:
    for path in store.leftovers():
        yield Garbage(path.name.partition(".")[0], "leftover", 0, path)


@contextlib.contextmanager
def _alone(store: LayerStore, layer: Layer) -> Iterator[bool]:
    """Hold the layer's lock alone; False where somebody uses it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(store.lock(layer.wish.key), layer.wish.key))
        except BusyError:
            yield False
        else:
            yield True
