"""Which ext file systems may be edited by debugfs."""

from __future__ import annotations

from pipeline.core.errors import PipelineError
from pipeline.core.image import PartitionImage
from pipeline.disk.filesystems.ext_inodes import STATE_CLEAN, Reader

# Feature bits: Linux, Documentation/filesystems/ext4/super.rst. Only those whose every rule the
# reader and debugfs 1.47 keep: quota and project would be left stale, bigalloc, inline data,
# encryption, casefolding, ea_inode, meta_bg and mmp are not read.
_COMPAT = {
    0x4: "has_journal",
    0x8: "ext_attr",
    0x10: "resize_inode",
    0x20: "dir_index",
    0x200: "sparse_super2",
    0x400: "fast_commit",
    0x1000: "orphan_file",
}
_INCOMPAT = {0x2: "filetype", 0x40: "extent", 0x80: "64bit", 0x200: "flex_bg", 0x2000: "csum_seed"}
_RO_COMPAT = {
    0x1: "sparse_super",
    0x2: "large_file",
    0x8: "huge_file",
    0x10: "gdt_csum",
    0x20: "dir_nlink",
    0x40: "extra_isize",
    0x400: "metadata_csum",
}
_NEEDS_RECOVERY = 0x4


def unsafe_because(image: PartitionImage) -> str:
    """Why this file system is not for debugfs; "" when nothing speaks against it."""
    if image.filesystem not in ("ext2", "ext3", "ext4"):
        return f"it is {image.filesystem or 'of an unknown type'}"
    try:
        with Reader(image.path) as reader:
            superblock = reader.superblock
    except (PipelineError, OSError) as error:
        return str(error)
    if superblock.incompat & _NEEDS_RECOVERY:
        return "its journal is not replayed"
    if superblock.state != STATE_CLEAN or superblock.errors or superblock.last_orphan:
        return "it is not clean"
    unknown = (
        superblock.compat & ~sum(_COMPAT)
        or superblock.incompat & ~sum(_INCOMPAT)
        or superblock.ro_compat & ~sum(_RO_COMPAT)
    )
    if unknown:
        return f"it has a feature ({unknown:#x}) that is left to the kernel"
    if superblock.block_size > 4096:
        return f"its blocks are of {superblock.block_size} bytes"
    if superblock.uuid != image.uuid:
        return f"its UUID {superblock.uuid} is not the one that was found ({image.uuid})"
    return ""
