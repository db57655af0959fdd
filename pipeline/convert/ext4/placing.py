"""Gives every inode of a tree its number and its blocks, by hashes of paths alone.

Layers are placed from the lowest, each as if those above it were not there; in a layer the largest
things come first. Files of LARGE blocks and more have a place of their own; smaller ones lie close
to those of the same zone: the first components of their path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from pipeline.convert.ext4.geometry import FIRST_FREE_INODE, INODES_A_BLOCK, Geometry
from pipeline.convert.ext4.nodes import LOST_FOUND, Node
from pipeline.convert.ext4.records import extents_of, index_blocks
from pipeline.convert.ext4.space import LARGE, PIECE, Space
from pipeline.convert.ext4.stable import bucket, coarse, probes
from pipeline.convert.ext4.tree import parent_of

ROOT, LOST_FOUND_INODE = 2, 11
_ZONE_DEPTH = 3  # components of a path
_DIRECTORIES = b"\0directories"
_FIRST_SLOT = INODES_A_BLOCK + 1  # the first block of inodes is for those that are reserved
_NEIGHBOURS = 8  # files of a directory for which there is one block of inodes


def number(nodes: Mapping[bytes, Node], geometry: Geometry) -> None:
    """Give the nodes their inode numbers. There are enough of them."""
    taken = {ROOT, LOST_FOUND_INODE}
    crowd: Counter[bytes] = Counter()
    total = 0
    for layer in _layers(nodes):
        for path, node in layer:
            if path in (b"", LOST_FOUND):
                node.number = LOST_FOUND_INODE if path else ROOT
            else:
                crowd[parent_of(path)] += 1
        total += len(layer)
        most = geometry.inodes - _FIRST_SLOT + 1
        buckets = min(-(-coarse(2 * total) // INODES_A_BLOCK), most // INODES_A_BLOCK)
        homes: dict[bytes, tuple[int, int]] = {}
        for path, node in layer:
            if node.number:
                continue
            parent = parent_of(path)
            if parent not in homes:
                spread = 1 << ((crowd[parent] - 1) // _NEIGHBOURS).bit_length()
                homes[parent] = (bucket(probes(parent)[1], max(buckets, 1)), spread)
            home, spread = homes[parent]
            slot = home * INODES_A_BLOCK + probes(path)[1] % (spread * INODES_A_BLOCK)
            node.number = _free(taken, slot, max(buckets, 1) * INODES_A_BLOCK, geometry.inodes)
            taken.add(node.number)


def _free(taken: set[int], slot: int, slots: int, inodes: int) -> int:
    for step in range(slots):
        found = _FIRST_SLOT + (slot + step) % slots
        if found <= inodes and found not in taken:
            return found
    # Only where nearly every inode of the file system is used.
    return next(n for n in range(FIRST_FREE_INODE, inodes + 1) if n not in taken)


def place(nodes: Mapping[bytes, Node], space: Space) -> None:
    """Give the nodes their blocks; InputError where there are too few."""
    sizes: Counter[bytes] = Counter()
    for layer in _layers(nodes):
        for path, node in layer:
            if 0 < node.count and not _is_large(node):
                sizes[_zone(path, node)] += node.count
        zones = {zone: (probes(zone)[0], coarse(2 * count)) for zone, count in sizes.items()}
        # What grows a little must not come before others that it came after.
        layer.sort(key=lambda pair: (-pair[1].count.bit_length(), probes(pair[0])[0]))
        for path, node in layer:
            if not node.count:
                continue
            if _is_large(node):
                _place_large(path, node, space)
            else:
                zone, blocks = zones[_zone(path, node)]
                node.placed = space.small(probes(path), node.count, zone, blocks)
    for layer in _layers(nodes):
        for path, node in layer:
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
    if node.count:
        node.extents = extents_of(node.wanted, node.placed)
    zone = probes(_zone(path, node))[0]
    if node.outer:
        ((node.attribute_block, _),) = space.small(probes(path + b"\0a"), 1, zone, LARGE)
    for index in range(index_blocks(len(node.extents))):
        ((block, _),) = space.small(probes(path + b"\0e%d" % index), 1, zone, LARGE)
        node.index_blocks.append(block)


def _is_large(node: Node) -> bool:
    return node.count >= LARGE and node.entry.kind == "file"


def _zone(path: bytes, node: Node) -> bytes:
    if node.entry.kind == "directory":
        return _DIRECTORIES
    return b"/".join(parent_of(path).split(b"/", _ZONE_DEPTH)[:_ZONE_DEPTH])


def _layers(nodes: Mapping[bytes, Node]) -> Iterator[list[tuple[bytes, Node]]]:
    """The nodes of each layer in a stable order, from the lowest."""
    layers: dict[int, list[tuple[bytes, Node]]] = {}
    for path, node in nodes.items():
        layers.setdefault(node.entry.base, []).append((path, node))
    for layer in sorted(layers, reverse=True):
        yield sorted(layers[layer], key=lambda pair: probes(pair[0])[0])
