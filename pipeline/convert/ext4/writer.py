"""Writes the ext4 file system of a tree into an open file: the order of things.

The file system is clean, with an empty journal, and depends on nothing but the entries, the content
of their files and the parameters: not on the time, the host's paths or the number of processors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.convert.ext4.attributes import sealed
from pipeline.convert.ext4.contents import Move, copy_files
from pipeline.convert.ext4.geometry import (
    BLOCK,
    GROUP_BLOCKS,
    INODE_SIZE,
    Geometry,
    Parameters,
    geometry,
    journal_blocks,
)
from pipeline.convert.ext4.nodes import Node, blocks_of, nodes_of
from pipeline.convert.ext4.placing import ROOT, layers_of, number, place
from pipeline.convert.ext4.records import (
    EXTENTS,
    FAST_LINK,
    MODE_BITS,
    Inode,
    device_area,
    directory_blocks,
    extent_tree,
    extents_of,
    inode_seed,
)
from pipeline.convert.ext4.space import Space, full
from pipeline.convert.ext4.superblock import (
    JOURNAL_INODE,
    RESIZE_INODE,
    Group,
    descriptor,
    journal_superblock,
    resize_blocks,
    resize_size,
    sealed_superblock,
    seed_of,
    superblock,
)
from pipeline.convert.ext4.tree import Entry, Kind, parent_of
from pipeline.host.copy import write_all

_RESERVED_INODES = 10
_MOST_AT_ONCE = 1 << 20  # bytes of metadata that are written together


@dataclass(frozen=True)
class Written:
    """What was written. size, used: bytes; files: names of regular files; inodes: in use."""

    size: int
    used: int
    inodes: int
    files: int
    directories: int


def write_image(entries: Sequence[Entry], descriptor: int, parameters: Parameters) -> Written:
    """Write the file system of the entries (of `scan`) into an open, empty file.

    InputError where the tree does not fit or cannot be kept; HostError for a file that cannot be
    read; OSError where the image cannot be written, the file then being of no use.
    """
    nodes = nodes_of(entries, parameters.epoch)
    figures = geometry(parameters, len(nodes))
    needed = blocks_of(nodes.values()) + journal_blocks(figures.blocks) + 1
    space = Space(figures, needed)
    lacking = needed + parameters.reserved - space.free()
    if lacking > 0:
        raise full(figures, lacking)
    os.ftruncate(descriptor, parameters.size)
    writer = _Writer(descriptor, parameters, figures, space)
    writer.journal()
    layers = layers_of(nodes)
    number(layers, figures)
    place(layers, space)
    copy_files(_moves(nodes), descriptor)
    writer.nodes(entries, nodes)
    writer.resize()
    used = writer.finish()
    kinds = [entry.kind for entry in entries]
    return Written(
        parameters.size,
        used * BLOCK,
        len(nodes) + _RESERVED_INODES - 1,
        kinds.count("file"),
        kinds.count("directory"),
    )


def _moves(nodes: Mapping[bytes, Node]) -> list[Move]:
    """The files to copy, in the order of their places."""
    found = []
    for node in nodes.values():
        if node.entry.kind == "file" and node.extents:
            size = node.entry.size
            pieces = [
                (logical * BLOCK, at * BLOCK, min(count * BLOCK, size - logical * BLOCK))
                for logical, at, count in node.extents
            ]
            found.append(Move(node.entry, pieces))
    found.sort(key=lambda move: move.pieces[0][1])
    return found


class _Writer:
    def __init__(
        self, target: int, parameters: Parameters, figures: Geometry, space: Space
    ) -> None:
        self._target, self._parameters = target, parameters
        self._geometry, self._space = figures, space
        self._seed = seed_of(parameters)
        self._inodes: dict[int, bytes] = {}
        self._directories = [0] * figures.groups
        self._blocks: list[tuple[int, bytes]] = []
        self._journal = (0, b"")
        # Bytes; not before the tree's own, whose place may not depend on it.
        self._double = 0

    def journal(self) -> None:
        """Make room for the journal, first of all: where it lies must not depend on the tree."""
        count = journal_blocks(self._geometry.blocks)
        (self._double, _), *_ = self._space.middle(1)
        if not count:
            return
        placed = self._space.middle(count)
        extents = extents_of([(0, count)], placed)
        area, rest = extent_tree(extents, [], None)
        assert not rest
        self._journal = (count * BLOCK, area)
        self._blocks.append((placed[0][0], journal_superblock(self._parameters, count)))
        self._put(
            JOURNAL_INODE,
            Inode(0o100600, size=count * BLOCK, mtime=self._parameters.epoch * 10**9,
                  blocks=count, flags=EXTENTS, area=area),
        )  # fmt: skip

    def resize(self) -> None:
        """The inode that holds the descriptor blocks of a larger file system."""
        written, count = resize_blocks(self._geometry, self._double)
        self._blocks += written
        area = bytes(13 * 4) + self._double.to_bytes(4, "little") + bytes(4)
        self._put(
            RESIZE_INODE,
            Inode(0o100600, size=resize_size(), mtime=self._parameters.epoch * 10**9,
                  blocks=count, area=area),
        )  # fmt: skip

    def nodes(self, entries: Sequence[Entry], nodes: Mapping[bytes, Node]) -> None:
        """Inodes, directories, links' targets, attributes and extent trees of the tree."""
        kinds = {entry.path: entry.kind for entry in entries}
        first = {entry.path: entry.same_as for entry in entries if entry.same_as}
        latest = self._parameters.epoch * 10**9
        for path, node in nodes.items():
            entry = node.entry
            seed = None if self._seed is None else inode_seed(self._seed, node.number)
            area, flags, size = b"", 0, entry.size
            if entry.kind == "directory":
                parent = nodes[parent_of(path)].number if path else ROOT
                prefix = path + b"/" if path else b""

                def find(name: bytes, prefix: bytes = prefix) -> tuple[int, Kind]:
                    full = prefix + name
                    kind = kinds.get(full, "directory")  # lost+found
                    return nodes[first.get(full, full)].number, kind

                content = directory_blocks(node.names, node.number, parent, find, seed)
                self._content(node, content)
                size = len(content)
                self._directories[(node.number - 1) // self._geometry.inodes_a_group] += 1
            elif entry.kind == "symlink":
                size = len(entry.target)
                if size >= FAST_LINK:
                    self._content(node, entry.target)
                else:
                    area = entry.target
            elif entry.kind in ("character", "block"):
                area = device_area(*entry.rdev)
            if node.count or entry.kind == "file":
                area, rest = extent_tree(node.extents, node.index_blocks, seed)
                self._blocks += rest
                flags = EXTENTS
            if node.outer:
                content = sealed(node.outer, node.attribute_block, self._seed)
                self._blocks.append((node.attribute_block, content))
            inode = Inode(
                MODE_BITS[entry.kind] | entry.mode, entry.uid, entry.gid, size,
                min(entry.mtime, latest), node.links,
                node.count + bool(node.outer) + len(node.index_blocks),
                flags, area, node.attribute_block, node.inner,
            )  # fmt: skip
            self._put(node.number, inode)

    def _put(self, number: int, inode: Inode) -> None:
        self._inodes[number] = inode.pack(number, self._seed)

    def _content(self, node: Node, content: bytes) -> None:
        """Blocks of content that is in memory."""
        for logical, at, count in node.extents:
            self._blocks.append((at, content[logical * BLOCK : (logical + count) * BLOCK]))

    def finish(self) -> int:
        """Write all metadata, the superblock last; how many blocks are in use."""
        groups = [self._group(index) for index in range(self._geometry.groups)]
        self._flush()
        self._tables()
        raw = superblock(
            self._parameters,
            self._geometry,
            [(group.free_blocks, group.free_inodes) for group in groups],
            self._journal,
        )
        descriptors = b"".join(
            descriptor(self._geometry, index, group, self._seed)
            for index, group in enumerate(groups)
        )
        for copy in (*reversed(self._geometry.backups), 0):
            start = copy * GROUP_BLOCKS
            write_all(self._target, descriptors, (start + 1) * BLOCK)
            own = sealed_superblock(raw, copy, checksums=self._parameters.checksums)
            # A boot loader's sector lies before the first one.
            write_all(self._target, own, start * BLOCK + (0 if copy else 1024))
        return self._geometry.blocks - sum(group.free_blocks for group in groups)

    def _group(self, number: int) -> Group:
        each = self._geometry.inodes_a_group
        first = number * each + 1
        used = [n - first for n in self._in_group(number)]
        bits = 0
        for index in used:
            bits |= 1 << index
        if number == 0:
            bits |= (1 << _RESERVED_INODES) - 1
        free = each - bits.bit_count()
        unused = each - bits.bit_length()
        bits |= (1 << 8 * BLOCK) - (1 << each)
        blocks, free_blocks = self._space.bitmap(number)
        bitmaps = (blocks, bits.to_bytes(BLOCK, "little"))
        places = self._geometry.tables(number)
        self._blocks += zip(places, bitmaps, strict=False)
        return Group(free_blocks, free, self._directories[number], unused, bitmaps)

    def _in_group(self, number: int) -> list[int]:
        if not hasattr(self, "_by_group"):
            self._by_group: dict[int, list[int]] = {}
            for inode in self._inodes:
                group = (inode - 1) // self._geometry.inodes_a_group
                self._by_group.setdefault(group, []).append(inode)
        return self._by_group.get(number, [])

    def _flush(self) -> None:
        """Write the blocks that wait, neighbours together."""
        parts: list[bytes] = []
        start, size = -1, 0
        for block, content in sorted(self._blocks, key=lambda pair: pair[0]):
            if start + size != block * BLOCK or size > _MOST_AT_ONCE:
                if parts:
                    write_all(self._target, b"".join(parts), start)
                start, parts, size = block * BLOCK, [], 0
            parts.append(content)
            size += len(content)
        if parts:
            write_all(self._target, b"".join(parts), start)
        self._blocks.clear()

    def _tables(self) -> None:
        """Write the blocks of the inode tables that have an inode."""
        blocks: dict[int, bytearray] = {}
        for inode, raw in self._inodes.items():
            block, offset = divmod(self._geometry.inode_place(inode), BLOCK)
            if block not in blocks:
                blocks[block] = bytearray(BLOCK)
            blocks[block][offset : offset + INODE_SIZE] = raw
        self._blocks = [(block, bytes(content)) for block, content in blocks.items()]
        self._flush()
