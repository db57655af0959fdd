"""Gives every inode of a tree its number and its blocks, by hashes of paths alone.

Layers are placed from the lowest, each as if those above it were not there; in a layer the largest
things come first. Files of LARGE blocks and more have a place of their own; smaller ones lie close
to those of the same zone: the first components of their path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from pipeline.convert.ext4.geometry import FIRST_FREE_INODE, INODES_A_BLOCK, Geometry
from pipeline.convert.ext4.nodes import LOST_FOUND, Node
from pipeline.convert.ext4.records import extents_of, index_blocks
from pipeline.convert.ext4.space import PAGE, PIECE, SMALL, Run, Space
from pipeline.convert.ext4.stable import bucket, coarse, key, probes
from pipeline.convert.ext4.tree import parent_of

ROOT, LOST_FOUND_INODE = 2, 11
_ZONE_DEPTH = 3  # components of a path
_DIRECTORIES, _TOP = b"\0directories", b"\0"
_FIRST_SLOT = INODES_A_BLOCK + 1  # the first block of inodes is for those that are reserved
_SLACKS = (200, 150, 125)  # per cent of their blocks that small files have room in
_PLACES = 4  # in a page that are tried, and pages of a zone
_NEIGHBOURS = 8  # files of a directory for which there is one block of inodes


Layers = Sequence[Sequence[tuple[bytes, Node]]]
"""Paths and nodes of each layer, the lowest first, in the order of their hashes."""


def layers_of(nodes: Mapping[bytes, Node]) -> Layers:
    """The nodes in the order in which they are numbered."""
    layers: dict[int, list[tuple[bytes, Node]]] = {}
    for path, node in nodes.items():
        layers.setdefault(node.entry.base, []).append((path, node))
    for layer in layers.values():
        layer.sort(key=lambda pair: pair[1].probes)
    return [layers[index] for index in sorted(layers, reverse=True)]


def number(layers: Layers, geometry: Geometry) -> None:
    """Give the nodes their inode numbers. There are enough of them."""
    taken = {ROOT, LOST_FOUND_INODE}
    crowd: Counter[bytes] = Counter()
    total = 0
    most = (geometry.inodes - _FIRST_SLOT + 1) // INODES_A_BLOCK
    for layer in layers:
        crowd.update(parent_of(path) for path, _ in layer)
        total += len(layer)
        buckets = max(min(-(-coarse(2 * total) // INODES_A_BLOCK), most), 1)
        homes: dict[bytes, tuple[int, int]] = {}
        for path, node in layer:
            if path in (b"", LOST_FOUND):
                node.number = LOST_FOUND_INODE if path else ROOT
                continue
            parent = parent_of(path)
            if parent not in homes:
                spread = 1 << ((crowd[parent] - 1) // _NEIGHBOURS).bit_length()
                homes[parent] = (bucket(probes(key(parent))[1], buckets), spread)
            home, spread = homes[parent]
            slot = home * INODES_A_BLOCK + node.probes[1] % (spread * INODES_A_BLOCK)
            node.number = _free(taken, slot, buckets * INODES_A_BLOCK, geometry.inodes)
            taken.add(node.number)


def _free(taken: Collection[int], slot: int, slots: int, inodes: int) -> int:
    for step in range(slots):
        found = _FIRST_SLOT + (slot + step) % slots
        if found not in taken and found <= inodes:
            return found
    # Only where nearly every inode of the file system is used.
    return next(n for n in range(FIRST_FREE_INODE, inodes + 1) if n not in taken)


def place(layers: Layers, space: Space) -> None:
    """Give the nodes their blocks; InputError where there are too few."""
    small = _SmallFiles(space, layers)
    for layer in layers:
        order = [
            (-node.count.bit_length(), at, path, node)
            for at, (path, node) in enumerate(layer)
            if node.count
        ]
        # Classes of size: what grows a little must not come before others that it came after.
        order.sort(key=lambda each: each[:2])
        rest = [(path, node) for *_, path, node in order if not _is_large(node)]
        large = [(path, node) for *_, path, node in order if _is_large(node)]
        small.add(rest)
        for path, node in large:
            _place_large(path, node, space)
        for path, node in rest:
            node.placed = small.place(_zone(path, node), node.probes, node.count)
    for layer in layers:
        for path, node in layer:
            if node.count:
                node.extents = extents_of(node.wanted, node.placed)
            if node.outer or len(node.extents) > 4:
                _place_rest(path, node, small)
    space.close()


def _place_large(path: bytes, node: Node, space: Space) -> None:
    after = 0
    for piece in range(0, node.count, PIECE):
        count = min(PIECE, node.count - piece)
        runs = space.large(probes(key(path) + b"\0%d" % piece), count, after)
        node.placed += runs
        after = sum(runs[-1])


def _place_rest(path: bytes, node: Node, small: _SmallFiles) -> None:
    """Blocks of attributes and of extent trees, close to what belongs to them."""
    zone, name = _zone(path, node), key(path)
    if node.outer:
        ((node.attribute_block, _),) = small.place(zone, probes(name + b"\0a"), 1)
    for index in range(index_blocks(len(node.extents))):
        ((block, _),) = small.place(zone, probes(name + b"\0e%d" % index), 1)
        node.index_blocks.append(block)


class _SmallFiles:
    """The pages that small files share: those of a zone lie in neighbouring ones."""

    def __init__(self, space: Space, layers: Layers) -> None:
        self._space = space
        self._sizes: Counter[bytes] = Counter()
        self._pages: list[int] = []
        self._zones: dict[bytes, tuple[int, int, int]] = {}
        self._homes: dict[tuple[bytes, int], int] = {}
        nodes = [node for layer in layers for _, node in layer if node.count]
        small = sum(node.count for node in nodes if not _is_large(node))
        large = sum(-(-n.count // SMALL) * SMALL for n in nodes if _is_large(n))
        self._slack = next(
            (s for s in _SLACKS if large + small * s // 100 < space.free() * 9 // 10), 100
        )

    def add(self, files: Sequence[tuple[bytes, Node]]) -> None:
        """Make room for these files of a layer beside those of the layers below."""
        for path, node in files:
            self._sizes[_zone(path, node)] += node.count
        wanted = coarse(-(-self._sizes.total() * self._slack // (100 * PAGE)))
        while len(self._pages) < wanted and (page := self._space.page()) >= 0:
            self._pages.append(page)
        self._homes.clear()
        self._zones = {}
        for zone, blocks in self._sizes.items():
            spread = coarse(-(-blocks // SMALL))
            window = PAGE if spread > 1 else 1 << min(blocks * 2 - 1, PAGE - 1).bit_length()
            self._zones[zone] = (spread, probes(zone)[1] % PAGE, window)

    def place(self, zone: bytes, numbers: Sequence[int], count: int) -> list[Run]:
        """Room for a file of a zone."""
        spread, offset, window = self._zones.get(zone) or (1, 0, PAGE)
        if self._pages:
            # Places in a page are tried at random: after one another, all would move by one.
            offsets = [(offset + number % window) % PAGE for number in numbers[:_PLACES]]
            parts = numbers[_PLACES : 2 * _PLACES]
            for number in parts:
                page = self._home(zone, bucket(number, spread))
                first = self._space.small(page, offsets, count)
                if first >= 0:
                    return [(first, count)]
            for number in numbers[2 * _PLACES :]:
                page = self._pages[bucket(number, len(self._pages))]
                first = self._space.small(page, offsets, count)
                if first >= 0:
                    return [(first, count)]
        return self._space.anywhere(numbers[0] % self._space.region, count)

    def _home(self, zone: bytes, part: int) -> int:
        """The page of a part of a zone."""
        home = self._homes.get((zone, part))
        if home is None:
            number = probes(b"%b\0%d" % (zone, part))[0]
            home = self._homes[zone, part] = self._pages[bucket(number, len(self._pages))]
        return home


def _is_large(node: Node) -> bool:
    return node.count >= SMALL and node.entry.kind == "file"


def _zone(path: bytes, node: Node) -> bytes:
    """What it lies close to; never b""."""
    if node.entry.kind == "directory":
        return _DIRECTORIES
    return key(b"/".join(path.split(b"/", _ZONE_DEPTH)[:-1][:_ZONE_DEPTH])) or _TOP
