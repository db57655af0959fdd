"""A guest that is a dictionary: the door's own path handling over the simplest of backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.guest import Facts, Status
from pipeline.guest.paths import PathGuest, parent


@dataclass
class Node:
    status: Status
    data: bytes = b""
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)


class MemoryGuest(PathGuest):
    """`tree`: path -> text of a file, {"link": target} or None for a directory."""

    backend: Literal["guestfs", "e2fsprogs"] = "e2fsprogs"

    def __init__(
        self,
        tree: Mapping[str, str | bytes | Mapping[str, str] | None],
        *,
        filesystem: str = "ext4",
        separate_boot: bool = False,
    ) -> None:
        super().__init__(separate_boot=separate_boot)
        self.nodes = {"/": Node(Status("directory", 0o755, 0, 0, 0))}
        self._facts = Facts(filesystem, "uuid", "", 1 << 30)
        for path, content in tree.items():
            self._add(path, content)

    def _add(self, path: str, content: str | bytes | Mapping[str, str] | None) -> None:
        if parent(path) not in self.nodes:
            self._add(parent(path), None)
        if content is None:
            self.nodes[path] = Node(Status("directory", 0o755, 0, 0, 0))
        elif isinstance(content, (str, bytes)):
            data = content.encode() if isinstance(content, str) else content
            self.nodes[path] = Node(Status("file", 0o644, 0, 0, len(data)), data)
        else:
            target = content["link"]
            self.nodes[path] = Node(Status("symlink", 0o777, 0, 0, len(target)), target=target)

    def text(self, path: str) -> str:
        return self.nodes[path].data.decode()

    @property
    def facts(self) -> Facts:
        return self._facts

    def _lstat(self, real: str) -> Status | None:
        node = self.nodes.get(real)
        return node.status if node else None

    def _read_link(self, real: str) -> str:
        return self.nodes[real].target

    def _read(self, real: str, size: int) -> bytes:
        return self.nodes[real].data[:size]

    def _list(self, real: str) -> list[str]:
        return [p.rpartition("/")[2] for p in self.nodes if p != "/" and parent(p) == real]

    def _xattrs(self, real: str) -> dict[str, bytes]:
        return self.nodes[real].xattrs

    def _download(self, real: str, size: int, to: Path) -> None:
        to.write_bytes(self.nodes[real].data)

    def _replace(self, real: str, data: bytes, status: Status, taken: bool) -> None:
        assert self.nodes[parent(real)].status.kind == "directory"
        assert taken == (real in self.nodes)
        self.nodes[real] = Node(status, data)

    def _mkdir(self, real: str, status: Status) -> None:
        assert self.nodes[parent(real)].status.kind == "directory"
        assert real not in self.nodes
        self.nodes[real] = Node(status)

    def _symlink(self, target: str, real: str, taken: bool) -> None:
        assert self.nodes[parent(real)].status.kind == "directory"
        assert taken == (real in self.nodes)
        self.nodes[real] = Node(Status("symlink", 0o777, 0, 0, len(target)), target=target)

    def _unlink(self, real: str) -> None:
        assert self.nodes.pop(real).status.kind != "directory"

    def _rmdir(self, real: str) -> None:
        assert not self._list(real)
        assert self.nodes.pop(real).status.kind == "directory"

    def _set_status(self, real: str, status: Status) -> None:
        self.nodes[real].status = status

    def _set_xattr(self, real: str, name: str, value: bytes) -> None:
        self.nodes[real].xattrs[name] = value

    def set_label(self, label: str) -> None:
        self._facts = replace(self._facts, label=label)
