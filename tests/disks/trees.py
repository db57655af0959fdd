"""A file system's reader made of dicts: folders are dicts, files bytes, links str."""

from __future__ import annotations

import stat
from typing import Union

from pipeline.disk.tree import Inode, Tree

Node = Union[bytes, str, "Folder"]
Folder = dict[str, Node]


class DictReader:
    root = 0

    def __init__(self, top: Folder) -> None:
        self._nodes: list[Node] = [top]

    def inode(self, number: int) -> Inode:
        node = self._nodes[number]
        mode = {dict: stat.S_IFDIR, bytes: stat.S_IFREG, str: stat.S_IFLNK}[type(node)]
        return Inode(number, mode, len(node), b"")

    def entries(self, directory: Inode) -> dict[bytes, int]:
        node = self._nodes[directory.number]
        assert isinstance(node, dict)
        found = {}
        for name, child in node.items():
            self._nodes.append(child)
            found[name.encode()] = len(self._nodes) - 1
        return found

    def content(self, inode: Inode, limit: int) -> bytes:
        node = self._nodes[inode.number]
        assert not isinstance(node, dict) and len(node) <= limit
        return node.encode() if isinstance(node, str) else node


def tree(top: Folder) -> Tree:
    return Tree(DictReader(top))
