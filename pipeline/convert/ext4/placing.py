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
from pipeline.convert.ext4.space import LARGE, PIECE, Space
from pipeline.convert.ext4.stable import bucket, coarse, probes
from pipeline.convert.ext4.tree import parent_of

ROOT, LOST_FOUND_INODE = 2, 11
_ZONE_DEPTH = 3  # components of a path
_DIRECTORIES, _TOP = b"\0directories", b"\0"
_FIRST_SLOT = INODES_A_BLOCK + 1  # the first block of inodes is for those that are reserved
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
                homes[parent] = (bucket(probes(parent)[1], buckets), spread)
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
    sizes: Counter[bytes] = Counter()
    for layer in layers:
        placed = [
            (-node.count.bit_length(), order, b"" if _is_large(node) else _zone(path, node))
            for order, (path, node) in enumerate(layer)
            if node.count
        ]
        for _, order, zone in placed:
            if zone:
                sizes[zone] += layer[order][1].count
        zones = {zone: (probes(zone)[0], coarse(2 * count)) for zone, count in sizes.items()}
        # Classes of size: what grows a little must not come before others that it came after.
        placed.sort()
        for _, order, zone in placed:
            path, node = layer[order]
            if zone:
                start, blocks = zones[zone]
                node.placed = space.small(node.probes, node.count, start, blocks)
            else:
                _place_large(path, node, space)
    for layer in layers:
        for path, node in layer:
            if node.count:
                node.extents = extents_of(node.wanted, node.placed)
            if node.outer or len(node.extents) > 4:
                _place_rest(path, node, space)


def _place_large(path: bytes, node: Node, space: Space) -> None:
    after = 0
    for piece in range(0, node.count, PIECE):
        count = min(PIECE, node.count - piece)
        numbers = probes(path + b"\0%d" % piece)
        runs = space.large(numbers, count, after)
        node.placed += runs
        after = sum(runs[-1])


def _place_rest(path: bytes, node: Node, space: Space) -> None:
    """Blocks of attributes and of extent trees, close to what belongs to them."""
    zone = probes(_zone(path, node))[0]
    if node.outer:
        ((node.attribute_block, _),) = space.small(probes(path + b"\0a"), 1, zone, LARGE)
    for index in range(index_blocks(len(node.extents))):
        ((block, _),) = space.small(probes(path + b"\0e%d" % index), 1, zone, LARGE)
        node.index_blocks.append(block)


def _is_large(node: Node) -> bool:
    return node.count >= LARGE and node.entry.kind == "file"


def _zone(path: bytes, node: Node) -> bytes:
    """What it lies close to; never b""."""
    if node.entry.kind == "directory":
        return _DIRECTORIES
    return b"/".join(path.split(b"/", _ZONE_DEPTH)[:-1][:_ZONE_DEPTH]) or _TOP
