"""Opens a partition image by what its file system is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pipeline.core.errors import DiskError
from pipeline.disk.filesystems.walk import Tree, Volume


@contextmanager
def open_tree(path: Path, filesystem: str) -> Iterator[Tree]:
    """The tree of a file system in a file; DiskError when it is damaged or not read here."""
    with _opened(path, filesystem) as volume:
        yield Tree(volume, path)


def _opened(path: Path, filesystem: str) -> AbstractContextManager[Volume]:
    from pipeline.disk.filesystems import volumes

    if filesystem in ("ext2", "ext3", "ext4"):
        return volumes.open_ext(path)
    if filesystem == "xfs":
        return volumes.open_xfs(path)
    raise DiskError("list the files in", path, why=f"it is {filesystem or 'of an unknown type'}")
