"""What each inode of a tree needs: blocks of data, of attributes, and the names in directories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.convert.ext4.attributes import encode
from pipeline.convert.ext4.geometry import BLOCK, Parameters, geometry, journal_blocks
from pipeline.convert.ext4.records import FAST_LINK, Extent, arrange, index_blocks
from pipeline.convert.ext4.space import Run
from pipeline.convert.ext4.stable import key, probes
from pipeline.convert.ext4.tree import Entry, parent_of
from pipeline.core.errors import InputError
from pipeline.host.sparse import data_runs

LOST_FOUND = b"lost+found"
_LOST_FOUND_BLOCKS = 4
_MOST_BLOCKS = (1 << 32) - 1
_MOST_OF_NAME = 255
_SPARE = 16  # one part in so many stays free in the size that `needed_bytes` tells


@dataclass(slots=True)
class Node:
    """An inode of the tree. wanted: logical runs that have data. placed: physical runs for them.

    names: of a directory, by block. inner, outer: its attributes. probes: of its path.
    """

    entry: Entry
    probes: tuple[int, ...]
    wanted: list[Run] = field(default_factory=list)
    count: int = 0
    number: int = 0
    links: int = 1
    inner: bytes = b""
    outer: bytes = b""
    names: list[list[bytes]] = field(default_factory=list)
    placed: list[Run] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    attribute_block: int = 0
    index_blocks: list[int] = field(default_factory=list)


def nodes_of(entries: Sequence[Entry], epoch: int) -> dict[bytes, Node]:
    """The inodes by path (the first of several), the root's and that of lost+found among them.

    epoch: seconds, of a lost+found that the tree does not have. InputError for what ext4 cannot
    keep.
    """
    nodes: dict[bytes, Node] = {}
    names: dict[bytes, list[bytes]] = {}
    below: dict[bytes, int] = {}
    listed = [*entries]
    if not any(entry.path == LOST_FOUND for entry in entries):
        made = Entry(LOST_FOUND, "directory", 0o700, mtime=epoch * 10**9, layer=_lowest(entries))
        listed.append(made._replace(base=made.layer))
    for entry in listed:
        path = entry.path
        if path:
            parent, _, name = path.rpartition(b"/")
            if len(name) > _MOST_OF_NAME:
                raise _refused(entry, f"its name has {len(name)} bytes, and 255 are the most")
            names.setdefault(parent, []).append(name)
            if entry.kind == "directory":
                below[parent] = below.get(parent, 0) + 1
        if not entry.same_as:
            nodes[path] = _node(entry)
    for path, node in nodes.items():
        if node.entry.kind == "directory":
            node.names = arrange(sorted(names.get(path, ())))
            if path == LOST_FOUND:
                lacking = _LOST_FOUND_BLOCKS - len(node.names)
                node.names += [[] for _ in range(lacking)]
            node.count = len(node.names)
            node.wanted = [(0, node.count)]
            node.links = 2 + below.get(path, 0)
    return nodes


def _lowest(entries: Iterable[Entry]) -> int:
    return max((entry.base for entry in entries), default=0)


def _node(entry: Entry) -> Node:
    if entry.path == LOST_FOUND and entry.kind != "directory":
        raise _refused(entry, "e2fsck(8) needs a directory there")
    node = Node(entry, probes(key(entry.path)), links=entry.links)
    if entry.xattrs:
        node.inner, node.outer = encode(entry)
    if entry.kind == "file" and entry.size:
        if entry.size > _MOST_BLOCKS * BLOCK:
            raise _refused(entry, f"it has {entry.size} bytes, more than a file can have")
        if entry.sparse:
            node.wanted = _runs(entry)
            node.count = sum(count for _, count in node.wanted)
        else:
            node.count = -(-entry.size // BLOCK)
            node.wanted = [(0, node.count)]
    elif entry.kind == "symlink" and len(entry.target) >= FAST_LINK:
        node.count, node.wanted = 1, [(0, 1)]
    return node


def _runs(entry: Entry) -> list[Run]:
    """Logical runs of blocks of a file with holes."""
    found: list[Run] = []
    descriptor = os.open(entry.host, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for offset, length in data_runs(descriptor, 0, entry.size):
            first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
            if found and found[-1][0] + found[-1][1] >= first:
                before = found[-1][0]
                found[-1] = (before, end - before)
            else:
                found.append((first, end - first))
    finally:
        os.close(descriptor)
    return found


def blocks_of(nodes: Iterable[Node]) -> int:
    """Blocks that the nodes take beside the inode tables, if no file is in pieces."""
    return sum(node.count + bool(node.outer) + index_blocks(len(node.wanted)) for node in nodes)


def needed_bytes(entries: Sequence[Entry], parameters: Parameters) -> int:
    """A size that holds the tree with about a sixteenth of it free, in whole MiB.

    parameters: all but the size count.
    """
    nodes = nodes_of(entries, parameters.epoch)
    blocks = blocks_of(nodes.values())
    size = 1 << 20
    for _ in range(64):
        trial = Parameters(
            size, parameters.uuid, parameters.hash_seed, parameters.label, parameters.epoch,
            parameters.reserved, max(parameters.inodes, len(nodes) * 5 // 4 + 16),
        )  # fmt: skip
        found = geometry(trial, len(nodes))
        fixed = sum(count for _, count in found.fixed()) + journal_blocks(found.blocks) + 64
        needed = (blocks + blocks // _SPARE + fixed + parameters.reserved) * BLOCK
        if needed <= found.blocks * BLOCK:
            break
        size = (
            -(-max(needed, size + 1) >> 20 << 20)
            if needed % (1 << 20) == 0
            else ((needed >> 20) + 1 << 20)
        )
    return size


def _refused(entry: Entry, why: str) -> InputError:
    return InputError("put into an ext4 file system", "/" + os.fsdecode(entry.path), why=why)


__all__ = ["LOST_FOUND", "Node", "blocks_of", "needed_bytes", "nodes_of", "parent_of"]
