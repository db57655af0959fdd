"""Look at an installed disk as its guest would be opened, before anything is copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.convert.choose import SystemPartition, choose_boot, choose_esp, choose_root
from pipeline.convert.extract import opened
from pipeline.convert.survey import Candidate, look_into, survey
from pipeline.core.errors import PipelineError
from pipeline.core.image import DiskImage
from pipeline.host.context import Tools


@dataclass(frozen=True)
class Seen:
    """The volumes that a build would take.

    settled: nothing of root and /boot is known to wait in a journal. XFS does not tell.
    """

    root: Candidate
    boot: Candidate | None
    esp: SystemPartition
    settled: bool


@contextmanager
def look_ahead(disk: DiskImage, choice: str, tools: Tools) -> Iterator[Seen | None]:
    """What `extract` would choose, open for reading; None while a journal hides the root.

    Raises what `extract` raises once it has a root.
    """
    name = str(disk.path)
    with opened(disk, tools) as source:
        found = survey(source)
        try:
            root = choose_root(found, choice, name)
            tree = look_into(root.volume, root.filesystem)
        except PipelineError:
            yield None
            return
        boot = choose_boot(found, root, tree, name).candidate
        settled = all(map(_is_settled, (root, *([boot] if boot else []))))
        yield Seen(root, boot, choose_esp(found, root, boot, tree), settled)


def _is_settled(candidate: Candidate) -> bool:
    superblock = candidate.superblock
    return superblock is not None and superblock.type != "xfs" and not superblock.dirty
