"""A treemap: nested rectangles whose areas are bytes.

Layout: squarified treemaps (Bruls, Huizing and van Wijk, 2000).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.text import human_bytes
from pipeline.guest.inventory import Inventory

WIDTH, HEIGHT = 1120.0, 520.0
_SMALLEST = 0.0006  # of the whole: 350 square units, a square of 19
_HEAD = 17.0  # height of a group's own label
_PADDING = 2.0
_CHARACTER = 6.4  # width of one at the label's size of 11
_COLOURS = 10
_DEPTH = 5


@dataclass(frozen=True)
class Node:
    """A package, directory or file; bytes include the children's.

    rest: stands for several nodes that are too small to be seen.
    """

    name: str
    path: str
    bytes: int
    children: tuple[Node, ...] = ()
    rest: bool = False


@dataclass(frozen=True)
class Cell:
    """A rectangle of the drawing as it is shown, in the drawing's units.

    colour: a class of report.css. opens: its children are drawn in it. title: all of its name.
    label: name and size; text: as much of the label as fits.
    """

    x: float
    y: float
    width: float
    height: float
    colour: str
    opens: bool
    title: str
    label: str
    text: str


@dataclass(frozen=True)
class Box:
    """A rectangle in the drawing's units."""

    x: float
    y: float
    width: float
    height: float


def by_directory(inventory: Inventory) -> Node:
    """The directory tree."""
    return _tree("/", "/", ((e.path.strip("/").split("/"), e.allocated) for e in inventory.entries))


def by_package(inventory: Inventory) -> Node:
    """Packages, and in them their files."""
    owned: dict[int, list[tuple[list[str], int]]] = {}
    for entry in inventory.entries:
        if entry.allocated:
            owned.setdefault(entry.owner, []).append(([entry.path], entry.allocated))
    children = [
        _tree(_package(inventory, owner), _package(inventory, owner, full=True), files)
        for owner, files in owned.items()
    ]
    return Node("packages", "packages", sum(c.bytes for c in children), _sorted(children))


def _package(inventory: Inventory, owner: int, *, full: bool = False) -> str:
    if owner < 0:
        return "no package's"
    package = inventory.packages[owner]
    return f"{package.name} {package.version}" if full else package.name


def _tree(name: str, path: str, leaves: Iterable[tuple[Sequence[str], int]]) -> Node:
    """A node of all leaves; each is the names on the way to it and its own bytes."""
    total = 0
    below: dict[str, list[tuple[Sequence[str], int]]] = {}
    for parts, size in leaves:
        total += size
        if parts:
            below.setdefault(parts[0], []).append((parts[1:], size))
    children = (
        _tree(first.rpartition("/")[2] or first, _below(path, first), group)
        for first, group in below.items()
    )
    return Node(name, path, total, _sorted(children))


def _below(path: str, name: str) -> str:
    return name if name.startswith("/") else f"{path.rstrip('/')}/{name}"


def _sorted(nodes: Iterable[Node]) -> tuple[Node, ...]:
    return tuple(sorted(nodes, key=lambda node: (-node.bytes, node.name)))


def notable(root: Node, count: int) -> list[Node]:
    """The directories most worth a look: the largest that are not mostly one directory in them."""
    found: list[Node] = []
    waiting = list(root.children)
    while waiting:
        node = waiting.pop()
        if node.children:
            waiting += node.children
            if node.children[0].bytes <= 0.8 * node.bytes or not node.children[0].children:
                found.append(node)
    return list(_sorted(found)[:count])


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Boxes that fill `box`, as square as can be; sizes positive and falling."""
    boxes: list[Box] = []
    left = list(sizes)
    while left:
        scale = box.width * box.height / sum(left)
        side = min(box.width, box.height)
        row = 1
        while row < len(left) and _worst(left[: row + 1], scale, side) <= _worst(
            left[:row], scale, side
        ):
            row += 1
        placed, box = _row(left[:row], box, scale)
        boxes += placed
        left = left[row:]
    return boxes


def _worst(row: Sequence[float], scale: float, side: float) -> float:
    """The worst aspect ratio of a row of areas laid along `side`."""
    thickness = sum(row) * scale / side if side else 0.0
    if not thickness:
        return float("inf")
    lengths = [size * scale / thickness for size in row]
    return max(max(thickness / n, n / thickness) if n else float("inf") for n in lengths)


def _row(row: Sequence[float], box: Box, scale: float) -> tuple[list[Box], Box]:
    """The row's boxes along the shorter side, and what is left of the box."""
    boxes = []
    total = sum(row) * scale
    if box.width >= box.height:
        thickness = total / box.height if box.height else 0.0
        y = box.y
        for size in row:
            height = size * scale / thickness if thickness else 0.0
            boxes.append(Box(box.x, y, thickness, height))
            y += height
        rest = Box(box.x + thickness, box.y, max(box.width - thickness, 0), box.height)
    else:
        thickness = total / box.width
        x = box.x
        for size in row:
            width = size * scale / thickness if thickness else 0.0
            boxes.append(Box(x, box.y, width, thickness))
            x += width
        rest = Box(box.x, box.y + thickness, box.width, max(box.height - thickness, 0))
    return boxes, rest


def _hues(root: Node) -> dict[str, int]:
    """A colour by path for the nodes that begin one; what lies below them has theirs.

    A node that is most of its parent leaves the colours to its children, or all were one.
    """
    hues: dict[str, int] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for child in node.children:
            if child.children and 2 * child.bytes > root.bytes:
                waiting.append(child)
            elif child.bytes >= root.bytes * _SMALLEST:
                hues[child.path] = len(hues) % _COLOURS
    return hues


def cells(root: Node) -> tuple[Cell, ...]:
    """What is drawn, a group before what lies in it; nothing for an empty root."""
    return tuple(_Drawing(root).cells(root, Box(0, 0, WIDTH, HEIGHT)))


class _Drawing:
    """The cells of one map."""

    def __init__(self, root: Node) -> None:
        self._total = root.bytes
        self._hues = _hues(root)

    def cells(self, node: Node, box: Box, depth: int = 0, hue: int = -1) -> Iterator[Cell]:
        """The children of `node`, laid out in `box`."""
        shown = [c for c in node.children if c.bytes > 0 and c.bytes >= self._total * _SMALLEST]
        rest = node.bytes - sum(c.bytes for c in shown)
        if rest > 0 and shown:
            name = f"{len(node.children) - len(shown)} smaller"
            shown.append(Node(name, f"{node.path} ({name})", rest, rest=True))
            shown.sort(key=lambda n: -n.bytes)
        boxes = squarify([float(c.bytes) for c in shown], box)
        for child, place in zip(shown, boxes, strict=True):
            yield from self._cell(child, place, depth, self._hues.get(child.path, hue))

    def _cell(self, node: Node, box: Box, depth: int, hue: int) -> Iterator[Cell]:
        inner = Box(
            box.x + _PADDING,
            box.y + _HEAD,
            box.width - 2 * _PADDING,
            box.height - _HEAD - _PADDING,
        )
        opens = bool(node.children) and depth < _DEPTH and inner.width > 24 and inner.height > 14
        colour = "rest" if node.rest or hue < 0 else f"c{hue}"
        size = human_bytes(node.bytes)
        label = f"{node.name}  {size}"
        room = int((box.width - 8) / _CHARACTER)
        shown = label if len(label) <= room else label[: max(room - 1, 0)] + "…"
        yield Cell(
            x=round(box.x, 1),
            y=round(box.y, 1),
            width=round(box.width, 1),
            height=round(box.height, 1),
            colour=colour,
            opens=opens,
            title=f"{node.path}\n{size}, {100 * node.bytes / self._total:.1f} %",
            label=label,
            text=shown if room >= 4 and box.height >= _HEAD else "",
        )
        if opens:
            yield from self.cells(node, inner, depth + 1, hue)
