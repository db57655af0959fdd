"""Extraction: an installed disk in, its root filesystem as one flat image out.

The disk is opened read-only and read where its own tables say; no loop device, no device-mapper,
no mount, no appliance; formats that are not our own to read come through QEMU over NBD. Whatever
must be changed (a journal replayed, stale blocks discarded) is changed in the copy, by e2fsprogs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.convert.choose import boot_volumes, choose_boot, choose_esp, choose_root
from pipeline.convert.discoverable import by_type
from pipeline.convert.inputs import MOST, check, content, recognise
from pipeline.convert.survey import READABLE, Candidate, Survey, look_into, looks_like_root, survey
from pipeline.convert.volume_copy import PREENED, Foreseen, Taken, foresee_copy, take
from pipeline.core.errors import DiskError, InputError, PipelineError
from pipeline.core.image import DiskImage, Mount, PartitionImage
from pipeline.disk.blocks.source import RawFile, Source
from pipeline.guest.access.xfs_support import require_editable
from pipeline.host.context import Tools
from pipeline.host.requirements import Requirement, declare

REQUIRES = declare(
    Requirement(
        "extract",
        "copying, checking and editing ext file systems",
        programs={
            "debugfs": "e2fsprogs",
            "e2fsck": "e2fsprogs",
            "mke2fs": "e2fsprogs",
            "resize2fs": "e2fsprogs",
            "tune2fs": "e2fsprogs",
        },
        unchecked={"dumpe2fs": "e2fsprogs"},
    )
)

_QEMU_WRITER_LOCK = 101
"""The byte QEMU locks in an image it may write to (block/file-posix.c: RAW_LOCK_PERM_BASE 100
plus BLK_PERM_WRITE, bit 1)."""
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2), 64-bit Linux


@dataclass(frozen=True)
class Extraction:
    """What came out of a disk.

    root: the root filesystem, `scratch/root.img`. boot: a separate /boot, `scratch/boot.img`;
    None when /boot lies in the root. esp: the EFI system partition, `scratch/esp.img`, and where
    the guest has it mounted. copied: bytes that were copied for both; clones count as
    none. method: how, for the manifest. notes: what people should know, one sentence each.
    by_type: mount points of volumes left behind as their partition types give them, and where.
    """

    root: PartitionImage
    boot: PartitionImage | None
    copied: int
    method: str
    notes: tuple[str, ...] = ()
    esp: Mount | None = None
    by_type: Mapping[str, str] = field(default_factory=dict)


def open_format(path: Path) -> DiskImage:
    """Recognise a disk by its bytes; InputError for what is not read.

    Refuses a disk that names other files (a hostile one could name any file of the host) or is
    encrypted; DiskError for a header that is damaged.
    """
    with RawFile(path) as file:
        form = recognise(file)
        check(file, form)
        return DiskImage(path, form)


def extract(
    disk: DiskImage,
    choice: str,
    tools: Tools,
    chosen: Callable[[str], None] = lambda _: None,
) -> Extraction:
    """Copy the root filesystem, and a separate /boot, out of `disk`, which is only read.

    choice: "VG/LV", a partition's number, "0" for a disk without partitions, or "" to find the
    root by inspection. chosen: told the type of the root's file system before it is copied.
    Raises InputError when the choice names nothing or several volumes look like a root, DiskError
    when the disk is damaged or of a kind that is not supported here, HostError when the copy
    cannot be written.
    """
    name = str(disk.path)
    with opened(disk, tools) as source:
        found = survey(source)
        root, taken = _take_root(found, choice, name, tools, chosen)
        with RawFile(taken.image.path) as copied:
            tree = look_into(copied, root.filesystem)
            boot = choose_boot(found, root, tree, name)
            esp = choose_esp(found, root, boot.candidate, tree)
            elsewhere = by_type(
                [c for c in found.candidates if c not in (root, boot.candidate)], tree
            )
        parts = [taken]
        if boot.candidate:
            _require_editable(boot.candidate, tools)
            parts.append(take(boot.candidate, tools.scratch / "boot.img", tools))
        if esp.candidate:
            parts.append(take(esp.candidate, tools.scratch / "esp.img", tools))
    notes = [*found.notes, *(str(error) for error in found.damage), *boot.notes, *esp.notes]
    return Extraction(
        root=taken.image,
        boot=parts[1].image if boot.candidate else None,
        copied=sum(part.copied for part in parts),
        method="; ".join(part.method for part in parts),
        notes=tuple(notes + [note for part in parts for note in part.notes]),
        esp=Mount(esp.at, parts[-1].image) if esp.candidate else None,
        by_type=elsewhere,
    )


@contextlib.contextmanager
def opened(disk: DiskImage, tools: Tools, *, most: int = MOST) -> Iterator[Source]:
    """The disk's content; DiskError if somebody changed it meanwhile.

    most: bytes that a compressed one may be unpacked to.
    """
    with RawFile(disk.path) as file:
        _refuse_running(file)
        before = os.fstat(file.descriptor())
        with content(file, disk.format, tools, most=most) as source:
            yield source
        after = os.fstat(file.descriptor())
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise DiskError(
                "read",
                disk.path,
                why="somebody wrote to it while it was read",
                next_step="Shut the machine that uses it down, and try again",
            )


def _refuse_running(file: RawFile) -> None:
    """InputError if a running QEMU may write to the disk."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _QEMU_WRITER_LOCK, 1, 0)
    try:
        answer = fcntl.fcntl(file.descriptor(), fcntl.F_OFD_GETLK, question)
    except OSError:
        return  # a file system without locks cannot tell
    if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
        raise InputError(
            "read the disk",
            file.name,
            why="a running machine has it open for writing",
            next_step="Shut the machine down, and try again",
        )


def _take_root(
    found: Survey, choice: str, disk: str, tools: Tools, chosen: Callable[[str], None]
) -> tuple[Candidate, Taken]:
    """Choose and copy the root. One that exists in its journal alone shows only in the copy."""
    target = tools.scratch / "root.img"
    try:
        root = choose_root(found, choice, disk)
    except PipelineError:
        dirty = [] if choice else [c for c in found.candidates if _shows_after_replay(c)]
        for candidate in dirty:
            taken = take(candidate, target, tools)
            with RawFile(target) as copied:
                is_root = looks_like_root(look_into(copied, candidate.filesystem))
            if is_root and len(dirty) == 1:
                chosen(candidate.filesystem)
                return candidate, taken
            target.unlink()
        raise
    _require_editable(root, tools)
    chosen(root.filesystem)
    return root, take(root, target, tools)


def _require_editable(candidate: Candidate, tools: Tools) -> None:
    """DiskError for an XFS that this host will not be able to mount and check."""
    if candidate.filesystem == "xfs" and candidate.superblock is not None:
        require_editable(candidate.superblock, candidate.place, tools)


def _shows_after_replay(candidate: Candidate) -> bool:
    return (
        candidate.superblock is not None
        and candidate.superblock.dirty
        and candidate.filesystem in READABLE
        and not candidate.refusal
        and not any((candidate.is_root, candidate.is_boot))
    )


def foresee(disk: DiskImage, choice: str, tools: Tools) -> list[Foreseen]:
    """What `extract` would copy, root first; for dry runs. Raises what it raises.

    A root that shows only once its journal is replayed in a copy is announced as such.
    """
    with opened(disk, tools) as source:
        found = survey(source)
        try:
            root = choose_root(found, choice, str(disk.path))
        except PipelineError:
            dirty = [] if choice else [c for c in found.candidates if _shows_after_replay(c)]
            if not dirty:
                raise
            words = "replay the journal of {} in a copy to look for a root"
            return [Foreseen(words.format(c.place), c.filesystem, PREENED) for c in dirty]
        volumes = [root, *boot_volumes(found, root, str(disk.path))]
        for candidate in volumes:
            _require_editable(candidate, tools)
        return [foresee_copy(candidate) for candidate in volumes]
