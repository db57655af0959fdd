"""The layers of this host, for people: which there are, which are damaged, which can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.builders.packages import layer_garbage, layers
from pipeline.builders.packages.layer_garbage import Garbage
from pipeline.builders.packages.layers import Layer
from pipeline.builders.packages.store import LayerStore
from pipeline.core import settings
from pipeline.core.errors import BusyError
from pipeline.core.resources import COMMAND
from pipeline.core.text import human_bytes, human_seconds, printable
from pipeline.host.context import Tools
from pipeline.host.isolation import find_isolation
from pipeline.host.locks import exclusive


@dataclass(frozen=True)
class Listed:
    """One layer. words: the recipe's. bytes: of its files. last_use: ISO 8601, UTC. used_by: names
    of builds, the latest first. in_use: by a run, now. damage: why it is of no use, "" where it is
    whole or was not looked at."""

    key: str
    kind: str
    parent: str
    backend: str
    words: tuple[str, ...]
    packages: int
    bytes: int
    created: str
    last_use: str
    used_by: tuple[str, ...]
    in_use: bool
    damage: str = ""


def open_store(tools: Tools) -> LayerStore:
    """The user's store; its place is made where it is not there."""
    place = settings.layers_dir()
    place.mkdir(parents=True, exist_ok=True)
    return LayerStore(find_isolation(tools, place), tools, place)


def list_layers(store: LayerStore) -> list[Listed]:
    """Every layer of the store, those of one kind together, the latest used first."""
    found = [_listed(store, layer) for layer in store.all()]
    found.sort(key=lambda one: one.last_use, reverse=True)
    return sorted(found, key=lambda one: ("core", "base", "image").index(one.kind))


def verify(store: LayerStore) -> list[Listed]:
    """Read every layer whole; what is damaged is set aside, unless a run uses it now."""
    found = []
    for layer in store.all():
        listed = _listed(store, layer)
        damage = store.damage(layer, full=True)
        if damage:
            try:
                with exclusive(store.lock(layer.wish.key), f"the layer {layer.wish.key}"):
                    store.set_aside(layer.wish.key, damage)
            except BusyError as error:
                store.tools.progress.warn(f"the layer {layer.wish.key} is damaged: {error.why}")
        found.append(replace(listed, damage=damage))
    return found


def prune(store: LayerStore, *, dry_run: bool) -> list[Garbage]:
    """Delete what the settings say can go, or only tell."""
    return layer_garbage.collect(
        store, most=settings.layers_bytes(), days=settings.layers_days(), dry_run=dry_run
    )


def lines(found: Sequence[Listed], place: Path) -> list[str]:
    """A line a layer, and the sum."""
    if not found:
        return [f"no layers in {place}"]
    text = []
    for one in found:
        used = ", ".join(one.used_by[:3]) + (", …" if len(one.used_by) > 3 else "")
        state = f"  DAMAGED: {one.damage}" if one.damage else "  in use" if one.in_use else ""
        text.append(
            f"{one.kind:5}  {one.key[:12]:12}  {human_bytes(one.bytes):>10}"
            f"  used {_ago(one.last_use)} by {used or 'nobody'}{state}"
        )
        text.append(f"       {printable(' '.join((one.backend, *one.words)))}")
    total = sum(one.bytes for one in found)
    text.append(f"{len(found)} layers, {human_bytes(total)} in {place}")
    return text


def garbage_lines(found: Sequence[Garbage], *, dry_run: bool) -> list[str]:
    """What went, or would go."""
    words = {"leftover": "left by a killed run, or damaged", "unused": "unused for long"}
    text = [
        f"{'would delete' if dry_run else 'deleted'} {one.key}:"
        f" {words.get(one.reason, 'the layers take too much space')}"
        + (f" ({human_bytes(one.bytes)})" if one.bytes else "")
        for one in found
    ]
    if dry_run and found:
        text.append(f"`{COMMAND} layers --prune` deletes them")
    return text or ["nothing can go"]


def _listed(store: LayerStore, layer: Layer) -> Listed:
    return Listed(
        layer.wish.key,
        layer.wish.kind,
        layer.wish.parent,
        layer.wish.backend,
        layer.wish.words,
        len(layer.packages),
        layer.shape.bytes,
        layer.created,
        layers.last_use(layer),
        tuple(layers.users(layer)),
        layer_garbage.in_use(store, layer),
    )


def _ago(when: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()
    days = int(seconds // 86400)
    return f"{days} days ago" if days > 1 else f"{human_seconds(max(seconds, 0))} ago"
