"""One volume of a disk becomes a file of its own, whose file system is proved whole.

Of a clean ext file system the blocks in use are copied by its bitmaps, and that is right only if
the bitmaps are: e2fsck has the word on it. It looks through the original beside the copy where it
can open it, else through the copy, to which a block that the bitmaps forget did not come along. A
volume that is not proved whole is copied with all its data and made whole in the copy.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pipeline.convert.survey import EXT, Candidate
from pipeline.core.errors import DiskError, HostError
from pipeline.core.image import PartitionImage
from pipeline.core.text import human_bytes
from pipeline.disk.blocks.copy import Copied, clone, copy, data_of, new_file
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.blocks.superblock import recognise
from pipeline.disk.blocks.volume import Volume
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.ext_usage import UsedRanges, check
from pipeline.guest.access.fsck import e2fsck
from pipeline.host.context import Tools
from pipeline.host.memory import outgrows_cache
from pipeline.host.programs import TimeoutExpired

_ALL, _USED = "all data", "used blocks"  # what is copied of a volume
_CHECK_SECONDS = 600.0
"""s; e2fsck takes one for a few GB. The rest is for busy hosts and slow storage."""
_CHECK_SECONDS_PER_GIB = 20.0
_NO_UUID = str(UUID(int=0))


@dataclass(frozen=True)
class Taken:
    """One volume that was copied. copied: bytes, all passes together; clones count as none.

    method: how, for the manifest. notes: what people should know, one sentence each.
    """

    image: PartitionImage
    copied: int
    method: str
    notes: tuple[str, ...]


def take(candidate: Candidate, target: Path, tools: Tools) -> Taken:
    """Copy one volume to `target`, a new file, and make its file system whole.

    Raises DiskError when the volume cannot be read or is damaged, HostError when the copy cannot
    be written.
    """
    volume = candidate.volume
    ranges, what, why = _what_to_copy(candidate)
    with new_file(target, volume.size) as descriptor:
        transfer = _Transfer(candidate, descriptor, target, tools)
        if clone(volume, descriptor):
            done, proved = Copied(0, "reflink"), False
        elif what == _ALL:
            done, proved = transfer.all_of(ranges), False
        else:
            original = _as_e2fsck_opens_it(volume)
            with _checking(original, volume.size, tools) as is_whole:
                done = transfer.all_of(ranges)
                proved = is_whole()
            if not proved and not original:
                # What the bitmaps forget is missing in the copy, whose inodes still name it.
                with _checking(str(target.absolute()), volume.size, tools) as is_whole:
                    proved = is_whole()
            if not proved:
                what, why = _ALL, "e2fsck did not find it whole"
                done = transfer.all_of([(0, volume.size)])
    notes: tuple[str, ...] = ()
    if candidate.filesystem in EXT and not proved:
        notes = _make_whole(candidate, target, tools)
    return Taken(
        _image(candidate, target),
        transfer.copied,
        f"{candidate.place}: {what} by {done.method}" + (f" ({why})" if why else ""),
        notes,
    )


class _Transfer:
    """Copying a volume's bytes into the open file `descriptor`, once or again."""

    def __init__(self, candidate: Candidate, descriptor: int, target: Path, tools: Tools) -> None:
        self._candidate, self._tools = candidate, tools
        self._descriptor, self._target = descriptor, target
        self.copied = 0

    def all_of(self, ranges: Iterable[tuple[int, int]]) -> Copied:
        """Copy what is data in the (offset, length) ranges; HostError unless there is room."""
        volume = self._candidate.volume
        need = sum(run.length for run in data_of(volume, ranges))
        # A second pass writes over the first.
        _need_space(need - self.copied, self._target.parent)
        with self._tools.progress.task(f"Copying {self._candidate.place}", need) as meter:
            keep = not outgrows_cache(need)
            done = copy(volume, ranges, self._descriptor, self._target, meter.advance, keep=keep)
        self.copied += done.copied
        return done


def _what_to_copy(candidate: Candidate) -> tuple[Iterable[tuple[int, int]], str, str]:
    """The ranges of its volume, what they are, and why they are not the used blocks alone."""
    ranges: Iterable[tuple[int, int]] = [(0, candidate.volume.size)]
    if candidate.filesystem not in EXT:
        return ranges, _ALL, ""
    filesystem = Ext(candidate.volume)
    why = check(filesystem)
    if candidate.superblock and candidate.superblock.uuid == _NO_UUID:
        why = why or "it has no UUID"  # preening gives it one
    return (ranges, _ALL, why) if why else (UsedRanges(filesystem), _USED, "")


def _as_e2fsck_opens_it(volume: Volume) -> str:
    """The volume where it lies, in the form that e2fsprogs opens; "" when it has none.

    Its I/O layer takes a file and one offset (ext2fs_open2(), unix_io.c), no second stretch and
    no question mark in a name.
    """
    source = volume.source
    if not isinstance(source, RawFile) or len(volume.stretches) != 1 or "?" in source.name:
        return ""
    return f"{Path(source.name).absolute()}?offset={volume.stretches[0].start}"


@contextlib.contextmanager
def _checking(where: str, size: int, tools: Tools) -> Iterator[Callable[[], bool]]:
    """Have e2fsck look through a file system, read-only, while something else is done.

    What is yielded waits for its word: whether it found no fault at all. An e2fsck that could not
    look, or not in time, has proved nothing.
    """
    if not where:
        yield lambda: False
        return
    with tools.run.start(["e2fsck", "-f", "-n", where]) as program:

        def is_whole() -> bool:
            try:
                return program.wait(_check_seconds(size)) == 0
            except TimeoutExpired:
                return False

        yield is_whole


def _check_seconds(size: int) -> float:
    """Bound of a check of `size` bytes, in seconds."""
    return _CHECK_SECONDS + _CHECK_SECONDS_PER_GIB * (size >> 30)


@dataclass(frozen=True)
class Foreseen:
    """What would be done with one volume: in words with sizes, and the command that checks it.

    filesystem: its type.
    """

    what: str
    filesystem: str
    check: tuple[str, ...] = ()


PREENED = ("e2fsck", "-f", "-p", "COPY")
"""How a copy is checked that no original proved, for people."""


def foresee_copy(candidate: Candidate) -> Foreseen:
    """What `take` would do with a volume; reads its bitmaps."""
    volume = candidate.volume
    ranges, what, _ = _what_to_copy(candidate)
    need = sum(run.length for run in data_of(volume, ranges))
    words = (
        f"copy {candidate.place}, {candidate.filesystem} of"
        f" {human_bytes(volume.size)}: {human_bytes(need)}, {what}"
    )
    check: tuple[str, ...] = ()
    if what == _USED:
        check = ("e2fsck", "-f", "-n", _as_e2fsck_opens_it(volume) or "COPY")
    elif candidate.filesystem in EXT:
        check = PREENED
    return Foreseen(words, candidate.filesystem, check)


def _need_space(need: int, directory: Path) -> None:
    """HostError unless `need` bytes are free."""
    free = shutil.disk_usage(directory).free
    if need > free:
        raise HostError(
            "copy the file system to",
            directory,
            why=f"it needs {need >> 20} MiB and {free >> 20} MiB are free",
            next_step="Free some space, or build on a larger file system",
        )


def _make_whole(candidate: Candidate, image: Path, tools: Tools) -> tuple[str, ...]:
    """Replay the journal of a copy of all data, check it, punch out its free blocks.

    Notes on what changed. Preening repairs what a power cut leaves and refuses real damage, which
    must not be repaired by guess into an image that lacks files. An e2fsck that corrects something
    discards nothing, so that then it is run again.
    """
    seconds = _check_seconds(image.stat().st_size)
    preen = ("-f", "-p", "-E", "discard")
    preened = found = e2fsck(image, tools, *preen, timeout=seconds)
    if preened.mended and not preened.damaged:
        # Corrections may uncover what was hidden behind them: only a second look proves it.
        found = e2fsck(image, tools, "-f", "-n", timeout=seconds)
        if not found.damaged:
            found = e2fsck(image, tools, *preen, timeout=seconds)
    if found.damaged:
        raise DiskError(
            "make whole the file system of",
            candidate.place,
            why=f"e2fsck found more damage than a power cut leaves: {found.words}",
            next_step="Repair it on the disk itself (e2fsck -f), look at what was lost, try again",
        )
    if candidate.superblock and candidate.superblock.dirty:
        return (f"The journal of {candidate.place} was replayed in the copy",)
    if not preened.mended:
        return ()
    return (f"e2fsck corrected the copy of {candidate.place}: {preened.words}",)


def _image(candidate: Candidate, path: Path) -> PartitionImage:
    """The copy's own figures; DiskError unless it is the file system that was chosen."""
    with RawFile(path) as file:
        found = recognise(file)
        size = file.size
    chosen = candidate.superblock
    # e2fsck gives one to a file system that has none.
    if found is None or chosen is None or chosen.uuid not in (found.uuid, _NO_UUID):
        raise DiskError(
            "copy", candidate.place, why="the copy does not carry the file system's UUID"
        )
    return PartitionImage(path, size, found.type, found.uuid, found.label, candidate.place)
