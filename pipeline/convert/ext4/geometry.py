"""Where the fixed parts of a file system lie: a function of its size and parameters alone.

Groups of 32768 blocks of 4 KiB; sixteen of them keep their bitmaps and inode tables together in the
first (flex_bg). Backups of the superblock are in groups 1 and the powers of 3, 5 and 7
(sparse_super), each with room for the descriptors of a file system 1024 times as large, which the
resize inode holds for resize2fs(8) and the kernel.
Source: the kernel's documentation of ext4 (Documentation/filesystems/ext4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from pipeline.core.errors import InputError

BLOCK = 4096
GROUP_BLOCKS = 8 * BLOCK
INODE_SIZE = 256
INODES_A_BLOCK = BLOCK // INODE_SIZE
DESCRIPTOR = 64
FLEX = 16  # groups, s_log_groups_per_flex 4
FIRST_FREE_INODE = 12  # 11 is lost+found
_RATIO = 16384  # bytes an inode, as mke2fs has it for file systems of ordinary size
_LEAST_RATIO = 2048
_LEAST_BLOCKS = 256
_LEAST_REST = 50  # blocks of data that a last group must have beside its own metadata
_GROWTH = 1024
_POINTERS = BLOCK // 4
_JOURNALS = (  # blocks of a file system below which its journal has so many blocks
    (2048, 0),
    (32768, 1024),
    (256 << 10, 4096),
    (512 << 10, 8192),
    (4096 << 10, 16384),
    (8192 << 10, 32768),
    (16384 << 10, 65536),
    (32768 << 10, 131072),
)
_LARGEST_JOURNAL = 262144


@dataclass(frozen=True)
class Parameters:
    """What a file system is to be.

    size: bytes of the image. uuid, hash_seed: of the superblock. epoch: seconds since 1970, the
    time of all that is not a file of the tree, and the latest time of those. reserved: blocks kept
    for root. inodes: at least so many; 0 for one in 16 KiB, or more where the tree needs it.
    checksums: metadata_csum, which e2fsprogs knows from 1.43 (2016).
    """

    size: int
    uuid: UUID
    hash_seed: UUID
    label: str = ""
    epoch: int = 0
    reserved: int = 0
    inodes: int = 0
    checksums: bool = True

    def __post_init__(self) -> None:
        if self.size < _LEAST_BLOCKS * BLOCK:
            raise self._refused(f"{self.size} bytes are too few", "Give it at least 1 MiB")
        if self.size >= BLOCK << 32:
            raise self._refused(f"{self.size} bytes are too many", "Give it less than 16 TiB")
        if len(self.label.encode()) > 16:
            raise self._refused(
                f"its label {self.label!r} is longer than 16 bytes", "Choose a shorter one"
            )
        if not 0 <= self.epoch < 1 << 34:
            raise self._refused(f"its time {self.epoch} cannot be kept", "Choose one after 1970")

    @staticmethod
    def _refused(why: str, next_step: str) -> InputError:
        return InputError("make an ext4 file system", why=why, next_step=next_step)


@dataclass(frozen=True)
class Geometry:
    """The figures of a file system. blocks: of the file system; inodes_a_group: multiple of 16."""

    blocks: int
    inodes_a_group: int
    reserved_descriptors: int

    @cached_property
    def groups(self) -> int:
        """How many groups."""
        return -(-self.blocks // GROUP_BLOCKS)

    @cached_property
    def inodes(self) -> int:
        """Inodes of the file system, 1 to this number."""
        return self.groups * self.inodes_a_group

    @cached_property
    def table_blocks(self) -> int:
        """Blocks of a group's inode table."""
        return self.inodes_a_group // INODES_A_BLOCK

    @cached_property
    def descriptor_blocks(self) -> int:
        """Blocks of group descriptors in use."""
        return -(-self.groups * DESCRIPTOR // BLOCK)

    @cached_property
    def backups(self) -> tuple[int, ...]:
        """Groups with a backup of superblock and descriptors, in order."""
        return tuple(backup_groups(self.groups))

    @cached_property
    def head_blocks(self) -> int:
        """Blocks of superblock, descriptors and the room for more of them."""
        return 1 + self.descriptor_blocks + self.reserved_descriptors

    def group_blocks(self, group: int) -> int:
        """Blocks of one group; the last may be shorter."""
        return min(GROUP_BLOCKS, self.blocks - group * GROUP_BLOCKS)

    def has_head(self, group: int) -> bool:
        """Whether a group begins with the superblock or a backup of it."""
        return group == 0 or group in self.backups

    def tables(self, group: int) -> tuple[int, int, int]:
        """Blocks of a group's block bitmap, inode bitmap and inode table."""
        first = group // FLEX * FLEX
        count = min(FLEX, self.groups - first)
        start = first * GROUP_BLOCKS + (self.head_blocks if self.has_head(first) else 0)
        index = group - first
        return start + index, start + count + index, start + 2 * count + index * self.table_blocks

    def fixed(self) -> Iterator[tuple[int, int]]:
        """(first block, count) of all metadata whose place depends on nothing else."""
        for group in range(self.groups):
            start = group * GROUP_BLOCKS
            head = self.head_blocks if self.has_head(group) else 0
            if group % FLEX == 0:
                count = min(FLEX, self.groups - group)
                head += count * (2 + self.table_blocks)
            if head:
                yield start, head

    def inode_place(self, number: int) -> int:
        """Byte at which an inode lies."""
        group, index = divmod(number - 1, self.inodes_a_group)
        return self.tables(group)[2] * BLOCK + index * INODE_SIZE


def backup_groups(groups: int) -> list[int]:
    """1 and the powers of 3, 5 and 7 below `groups`."""
    found = {1} if groups > 1 else set()
    for base in (3, 5, 7):
        power = base
        while power < groups:
            found.add(power)
            power *= base
    return sorted(found)


def geometry(parameters: Parameters, wanted_inodes: int) -> Geometry:
    """The figures for these parameters and a tree of so many inodes, reserved ones not counted.

    Inodes come in steps of two, so that a tree that grows a little changes nothing. InputError
    where the tree needs more inodes than were asked for or can be had.
    """
    ratio = _RATIO
    needed = wanted_inodes + FIRST_FREE_INODE
    while True:
        wanted = parameters.inodes or parameters.size // ratio
        found = _geometry(parameters.size // BLOCK, wanted)
        # A guest that could make no file would not even boot.
        if found.inodes >= needed + (0 if parameters.inodes else wanted_inodes // 4):
            return found
        if parameters.inodes or ratio == _LEAST_RATIO:
            raise InputError(
                "make an ext4 file system",
                why=f"the tree has {wanted_inodes} inodes, and of its {found.inodes} the file "
                f"system can give {found.inodes - FIRST_FREE_INODE + 1}",
                next_step="Ask for more inodes, or make it larger",
            )
        ratio //= 2


def _geometry(blocks: int, wanted_inodes: int) -> Geometry:
    while True:
        groups = -(-blocks // GROUP_BLOCKS)
        each = -(-wanted_inodes // groups)
        each = min(max(-(-each // INODES_A_BLOCK) * INODES_A_BLOCK, INODES_A_BLOCK), GROUP_BLOCKS)
        found = Geometry(blocks, each, _reserved_descriptors(blocks, groups))
        last = groups - 1
        rest = found.group_blocks(last) - (found.head_blocks if found.has_head(last) else 0)
        if last == 0 or rest >= _LEAST_REST:
            return found
        blocks = last * GROUP_BLOCKS


def _reserved_descriptors(blocks: int, groups: int) -> int:
    """Blocks kept for the descriptors of a file system that has grown."""
    largest = min(blocks * _GROWTH, (1 << 32) - 1)
    grown = -(-largest // GROUP_BLOCKS)
    each = BLOCK // DESCRIPTOR
    return max(0, min(-(-grown // each) - -(-groups // each), _POINTERS))


def journal_blocks(blocks: int) -> int:
    """Blocks of the journal of a file system, 0 for one too small for any."""
    return next((size for below, size in _JOURNALS if blocks < below), _LARGEST_JOURNAL)
