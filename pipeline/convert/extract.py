"""The extraction stage: an installed disk in, its root filesystem as one flat image out.

The disk is opened read-only and read where its own tables say; no loop device, no device-mapper,
no mount, no appliance. Whatever must be changed (a journal replayed, stale blocks discarded) is
changed in the copy, by e2fsprogs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.convert.choose import choose_boot, choose_root
from pipeline.convert.discoverable import by_type
from pipeline.convert.survey import READABLE, Candidate, Survey, look_into, looks_like_root, survey
from pipeline.core.errors import DiskError, HostError, InputError, PipelineError, ProgramError
from pipeline.core.image import DiskImage, PartitionImage
from pipeline.core.text import human_bytes
from pipeline.disk.blocks.copy import Copied, clone, copy, data_of, new_file
from pipeline.disk.blocks.qcow2 import MAGIC, Qcow2
from pipeline.disk.blocks.source import RawFile, Source
from pipeline.disk.blocks.superblock import recognise
from pipeline.disk.blocks.volume import Volume
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.ext_usage import UsedRanges, check
from pipeline.host.context import Tools
from pipeline.host.memory import outgrows_cache
from pipeline.host.programs import TimeoutExpired
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

_EXT = frozenset({"ext2", "ext3", "ext4"})
_ALL, _USED = "all data", "used blocks"  # what is copied of a volume
_CHECK_SECONDS = 600.0
"""s; e2fsck takes one for a few GB. The rest is for busy hosts and slow storage."""
_CHECK_SECONDS_PER_GIB = 20.0
_OTHER_FORMATS = {
    b"KDMV": "VMDK",
    b"COWD": "VMDK",
    b"vhdxfile": "VHDX",
    b"conectix": "VHD",
    b"QED\0": "QED",
    b"\x7fELF": "ELF",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"# Disk Descriptor": "VMDK descriptor",
}
_VDI_SIGNATURE = (64, b"\x7f\x10\xda\xbe")
_QEMU_WRITER_LOCK = 101
"""The byte QEMU locks in an image it may write to (block/file-posix.c: RAW_LOCK_PERM_BASE 100
plus BLK_PERM_WRITE, bit 1)."""
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2), 64-bit Linux


@dataclass(frozen=True)
class Extraction:
    """What came out of a disk.

    root: the root filesystem, `scratch/root.img`. boot: a separate /boot, `scratch/boot.img`;
    None when /boot lies in the root. copied: bytes that were copied for both; clones count as
    none. method: how, for the manifest. notes: what people should know, one sentence each.
    by_type: mount points of volumes left behind as their partition types give them, and where.
    """

    root: PartitionImage
    boot: PartitionImage | None
    copied: int
    method: str
    notes: tuple[str, ...] = ()
    by_type: Mapping[str, str] = field(default_factory=dict)


def open_format(path: Path) -> DiskImage:
    """Recognise a raw or qcow2 disk by its first bytes; InputError for anything else.

    Refuses a qcow2 disk that names other files (a hostile one could name any file of the host)
    or is encrypted.
    """
    with RawFile(path) as file:
        head = file.read(0, min(file.size, 512))
        if head.startswith(MAGIC):
            Qcow2(file)
            return DiskImage(path, "qcow2")
    offset, signature = _VDI_SIGNATURE
    if head[offset : offset + len(signature)] == signature:
        raise _other_format(path, "VDI")
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise _other_format(path, name)
    if len(head) < 512:
        raise InputError(
            "use the disk",
            path,
            why="it is smaller than one sector",
            next_step="Give the whole installed disk",
        )
    return DiskImage(path, "raw")


def _other_format(path: Path, name: str) -> InputError:
    return InputError(
        "use the disk",
        path,
        why=f"it is a {name} file, neither raw nor qcow2",
        next_step="Unpack it, or convert it with qemu-img convert -O qcow2",
    )


def extract(disk: DiskImage, choice: str, tools: Tools) -> Extraction:
    """Copy the root filesystem, and a separate /boot, out of `disk`, which is only read.

    choice: "VG/LV", a partition's number, "0" for a disk without partitions, or "" to find the
    root by inspection. Raises InputError when the choice names nothing or several volumes look
    like a root, DiskError when the disk is damaged or of a kind that is not supported, HostError
    when the copy cannot be written.
    """
    name = str(disk.path)
    with _opened(disk) as source:
        found = survey(source)
        root, taken = _take_root(found, choice, name, tools)
        with RawFile(taken.image.path) as copied:
            tree = look_into(copied, root.filesystem)
            boot = choose_boot(found, root, tree, name)
            elsewhere = by_type(
                [c for c in found.candidates if c not in (root, boot.candidate)], tree
            )
        parts = [taken]
        if boot.candidate:
            parts.append(_take(boot.candidate, tools.scratch / "boot.img", tools))
    notes = [*found.notes, *(str(error) for error in found.damage), *boot.notes]
    return Extraction(
        root=taken.image,
        boot=parts[1].image if boot.candidate else None,
        copied=sum(part.copied for part in parts),
        method="; ".join(part.method for part in parts),
        notes=tuple(notes + [note for part in parts for note in part.notes]),
        by_type=elsewhere,
    )


@contextlib.contextmanager
def _opened(disk: DiskImage) -> Iterator[Source]:
    """The disk's content; DiskError if somebody changed it meanwhile."""
    with RawFile(disk.path) as file:
        _refuse_running(file)
        before = os.fstat(file.descriptor())
        yield Qcow2(file) if disk.format == "qcow2" else file
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


@dataclass(frozen=True)
class _Taken:
    """One volume that was copied. copied: bytes."""

    image: PartitionImage
    copied: int
    method: str
    notes: tuple[str, ...]


def _take_root(found: Survey, choice: str, disk: str, tools: Tools) -> tuple[Candidate, _Taken]:
    """Choose and copy the root. One that exists in its journal alone shows only in the copy."""
    target = tools.scratch / "root.img"
    try:
        root = choose_root(found, choice, disk)
    except PipelineError:
        dirty = [] if choice else [c for c in found.candidates if _shows_after_replay(c)]
        for candidate in dirty:
            taken = _take(candidate, target, tools)
            with RawFile(target) as copied:
                is_root = looks_like_root(look_into(copied, candidate.filesystem))
            if is_root and len(dirty) == 1:
                return candidate, taken
            target.unlink()
        raise
    return root, _take(root, target, tools)


def _shows_after_replay(candidate: Candidate) -> bool:
    return (
        candidate.superblock is not None
        and candidate.superblock.dirty
        and candidate.filesystem in READABLE
        and not candidate.refusal
        and not any((candidate.is_root, candidate.is_boot))
    )


def _take(candidate: Candidate, target: Path, tools: Tools) -> _Taken:
    """Copy one volume to `target` and make its file system whole."""
    volume = candidate.volume
    ranges, what, why = _what_to_copy(candidate)
    need = sum(run.length for run in data_of(volume, ranges))
    # Where the bitmaps cannot be relied on there is something to mend, which is done to the copy.
    original = _as_e2fsck_opens_it(volume) if what == _USED else ""
    with (
        new_file(target, volume.size) as descriptor,
        tools.progress.task(f"Copying {candidate.place}", need) as meter,
        _checking(original, volume.size, tools) as is_whole,
    ):
        if clone(volume, descriptor):
            copied = Copied(0, "reflink")
        else:
            _need_space(need, target.parent)
            keep = not outgrows_cache(need)
            copied = copy(volume, ranges, descriptor, target, meter.advance, keep=keep)
        # Where only used blocks were copied nothing stale came along, and discarding all the rest
        # takes longer than everything else together on large volumes.
        stale = what == _ALL or copied.copied == 0
        proved = not stale and is_whole()
    notes: tuple[str, ...] = ()
    if candidate.filesystem in _EXT and not proved:
        notes = _make_whole(candidate, target, tools, discard=stale)
    return _Taken(
        _image(candidate, target),
        copied.copied,
        f"{candidate.place}: {what} by {copied.method}" + (f" ({why})" if why else ""),
        notes,
    )


def _what_to_copy(candidate: Candidate) -> tuple[Iterable[tuple[int, int]], str, str]:
    """The ranges of its volume, what they are, and why they are not the used blocks alone."""
    ranges: Iterable[tuple[int, int]] = [(0, candidate.volume.size)]
    if candidate.filesystem not in _EXT:
        return ranges, _ALL, ""
    filesystem = Ext(candidate.volume)
    why = check(filesystem)
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
def _checking(original: str, size: int, tools: Tools) -> Iterator[Callable[[], bool]]:
    """Have e2fsck look through the original, read-only, while it is copied.

    What is yielded waits for its word: whether there is no fault at all. A copy of an original
    without a fault, made where the bitmaps are right, needs no check of its own.
    """
    if not original:
        yield lambda: False
        return
    with tools.run.start(["e2fsck", "-f", "-n", original]) as program:

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
    """What would be done with one volume: in words with sizes, and the command that checks it."""

    what: str
    check: tuple[str, ...] = ()


def foresee(disk: DiskImage, choice: str) -> list[Foreseen]:
    """What `extract` would copy, root first; for dry runs. Raises what it raises.

    A root that shows only once its journal is replayed in a copy is announced as such.
    """
    with _opened(disk) as source:
        found = survey(source)
        try:
            root = choose_root(found, choice, str(disk.path))
        except PipelineError:
            dirty = [] if choice else [c for c in found.candidates if _shows_after_replay(c)]
            if not dirty:
                raise
            words = "replay the journal of {} in a copy to look for a root"
            return [Foreseen(words.format(c.place), ("e2fsck", "-f", "-p", "COPY")) for c in dirty]
        volumes = []
        for candidate in (root, *(c for c in found.candidates if c.is_boot and c is not root)):
            ranges, what, _ = _what_to_copy(candidate)
            need = sum(run.length for run in data_of(candidate.volume, ranges))
            words = (
                f"copy {candidate.place}, {candidate.filesystem} of"
                f" {human_bytes(candidate.volume.size)}: {human_bytes(need)}, {what}"
            )
            check: tuple[str, ...] = ()
            if what == _USED and (original := _as_e2fsck_opens_it(candidate.volume)):
                check = ("e2fsck", "-f", "-n", original)
            elif candidate.filesystem in _EXT:
                check = ("e2fsck", "-f", "-p", "COPY")
            volumes.append(Foreseen(words, check))
        return volumes


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


def _make_whole(
    candidate: Candidate, image: Path, tools: Tools, *, discard: bool
) -> tuple[str, ...]:
    """Replay the journal of a copy and check it; notes on what changed.

    discard: whether its free blocks are punched out, too.

    Preening repairs what a power cut leaves and refuses real damage, which must not be repaired
    by guess into an image that lacks files.
    """
    seconds = _check_seconds(image.stat().st_size)
    try:
        options = ["-E", "discard"] if discard else []
        done = tools.run.run(["e2fsck", "-f", "-p", *options, image], timeout=seconds, ok=(0, 1))
        if done.returncode:
            # Corrections may uncover what was hidden behind them: only a second look proves it.
            tools.run.run(["e2fsck", "-f", "-n", image], timeout=seconds)
    except ProgramError as error:
        raise DiskError(
            "make whole the file system of",
            candidate.place,
            why=f"e2fsck found more damage than a power cut leaves: {error.why}",
            next_step="Repair it on the disk itself (e2fsck -f), look at what was lost, try again",
        ) from None
    if candidate.superblock and candidate.superblock.dirty:
        return (f"The journal of {candidate.place} was replayed in the copy",)
    if done.returncode == 0:
        return ()
    return (f"e2fsck corrected the copy of {candidate.place}: {done.text.strip()[-500:]}",)


def _image(candidate: Candidate, path: Path) -> PartitionImage:
    """The copy's own figures; DiskError unless it is the file system that was chosen."""
    with RawFile(path) as file:
        found = recognise(file)
        size = file.size
    if found is None or candidate.superblock is None or found.uuid != candidate.superblock.uuid:
        raise DiskError(
            "copy", candidate.place, why="the copy does not carry the file system's UUID"
        )
    return PartitionImage(path, size, found.type, found.uuid, found.label, candidate.place)
