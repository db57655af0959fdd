"""What is known of a layer, and its files: a directory `KEY/` with `tree/` and `layer.json`.

`tree` is what overlayfs wrote over the parent's; its files belong to the guest's ids. `layer.json`
is written last, and the directory gets its name after that: a half layer has none. Beside it lies
`used-by.json`: which builds used it, and when.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.builders.packages.protocol import LayerKind, Package
from pipeline.core.errors import InputError, PipelineError
from pipeline.host.context import Tools
from pipeline.host.files import write_whole
from pipeline.host.isolation import Isolation, run_mapped
from pipeline.host.programs import Completed

TREE, RECORD, USED = "tree", "layer.json", "used-by.json"
LOCKS = "locks"
"""Directory of the lock files, one a key, in the place of the layers."""
_SCRIPT = Path(__file__).with_name("tree.py")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,127}")
_USERS = 20  # names kept of who used a layer, the last ones
_SECONDS = 1800.0  # for reading a tree: minutes on a slow disk


@dataclass(frozen=True)
class Wish:
    """A layer that is needed.

    key: names all that it is made of, in letters, digits, "-" and "_". parent: the key of the layer
    below, "" for a core. backend: "apt" or "dnf". words: the recipe's, for people.
    """

    key: str
    kind: LayerKind
    parent: str
    backend: str
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise InputError("use the layer", self.key, why="its key has characters of no key")


@dataclass(frozen=True)
class Shape:
    """A tree in numbers. shape: sha256 over names and attributes; digest: the same with content;
    both lower-case hex. bytes: of the regular files, of which there are `files`."""

    shape: str
    digest: str
    bytes: int
    files: int


@dataclass(frozen=True)
class Filled:
    """What a layer was filled with. epoch: seconds since 1970, by which all that it writes anew is
    dated: when the newest of its packages and its parents' was built."""

    packages: tuple[Package, ...]
    epoch: int


@dataclass(frozen=True)
class Layer:
    """A finished layer.

    packages, epoch: as of `Filled`. created: ISO 8601, UTC. first_id, first_group, count: the ids
    of this host that its files have. stacked: it has what differs from its parent, not the whole
    root. directory: where it lies.
    """

    wish: Wish
    packages: tuple[Package, ...]
    epoch: int
    shape: Shape
    created: str
    first_id: int
    first_group: int
    count: int
    stacked: bool
    directory: Path

    @property
    def tree(self) -> Path:
        """The directory for overlayfs's `lowerdir`."""
        return self.directory / TREE

    def fits(self, isolation: Isolation) -> bool:
        """Whether its files have the ids that this isolation gives the guest."""
        return (
            self.first_id == isolation.first_id
            and self.first_group == isolation.group
            and self.count == isolation.count
            and self.stacked == isolation.overlay
        )


def finished(wish: Wish, filled: Filled, shape: Shape, isolation: Isolation, place: Path) -> Layer:
    """The record of a layer that was made just now, in `place`."""
    return Layer(
        wish,
        filled.packages,
        filled.epoch,
        shape,
        datetime.now(UTC).isoformat(timespec="seconds"),
        isolation.first_id,
        isolation.group,
        isolation.count,
        isolation.overlay,
        place,
    )


def write_record(layer: Layer) -> None:
    """Write `layer.json`."""
    data = asdict(layer)
    del data["directory"]
    write_whole(layer.directory / RECORD, json.dumps(data, indent=1) + "\n")


def read_record(directory: Path) -> Layer | None:
    """The layer that lies there, None where none does or its record cannot be read."""
    try:
        data = json.loads((directory / RECORD).read_text())
        layer = TypeAdapter(Layer).validate_python({**data, "directory": directory})
    except (OSError, ValueError, TypeError, PipelineError):
        return None
    # Not of the record: whoever reads it looks for the layer by its name.
    return layer if layer.wish.key == directory.name.partition(".")[0] else None


def measure(tree: Path, isolation: Isolation, tools: Tools) -> Shape:
    """Read the whole tree."""
    said = _told("digest", tree, "read", isolation, tools)
    return TypeAdapter(Shape).validate_json(said.stdout)


def shape_of(tree: Path, isolation: Isolation, tools: Tools) -> str:
    """`Shape.shape` of the tree, without reading its files' content."""
    return _told("shape", tree, "look at", isolation, tools).text


def _told(word: str, tree: Path, verb: str, isolation: Isolation, tools: Tools) -> Completed:
    """What tree.py says of a tree."""
    return run_mapped(
        isolation,
        script(word, tree),
        tools=tools,
        timeout=_SECONDS,
        attempted=f"{verb} the layer {tree.parent.name}",
    )


def script(*words: str | Path) -> list[str | Path]:
    """The command for tree.py."""
    return [sys.executable, "-I", "-S", _SCRIPT, *words]


def users(layer: Layer) -> Mapping[str, str]:
    """Who used it -> when last (ISO 8601, UTC), the latest first."""
    with contextlib.suppress(OSError, ValueError):
        found = TypeAdapter(dict[str, str]).validate_json((layer.directory / USED).read_bytes())
        return dict(sorted(found.items(), key=lambda item: item[1], reverse=True))
    return {}


def last_use(layer: Layer) -> str:
    """When it was last used, or made (ISO 8601, UTC)."""
    return max([layer.created, *users(layer).values()])


def note_use(layer: Layer, by: str) -> None:
    """Write down that `by`, a build's name, uses it now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    others = [(name, when) for name, when in users(layer).items() if name != by]
    found = dict([(by, now), *others[: _USERS - 1]])
    write_whole(layer.directory / USED, json.dumps(found, indent=1) + "\n")


def at(layer: Layer, directory: Path) -> Layer:
    """The same layer in another place."""
    return replace(layer, directory=directory)
