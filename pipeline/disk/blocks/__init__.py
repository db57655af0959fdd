"""Blocks of a disk: formats, partition tables, LVM2, superblocks, the copy without holes."""
