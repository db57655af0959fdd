"""A small installed disk: a run of the pipeline over it takes little more than its start.

It is whole in every respect a build looks at: a partition table, a root file system with fstab,
users and SSH, two kernels with their modules and ramdisks, and a boot loader's configuration.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.fixtures.disks.tools import run
from tests.fixtures.disks.writers import write_mbr
from tests.robustness.fuzz.fuzz_guest import SEEDS, put
from tests.robustness.fuzz.seeds import MIB, FileDisk

_START, _SIZE = MIB, 30 * MIB


def small_disk(path: Path) -> Path:
    """Make it in a new file."""
    with tempfile.TemporaryDirectory(prefix="small-disk-") as name:
        tree, root = Path(name) / "tree", Path(name) / "root.fs"
        tree.mkdir()
        for entry, content in SEEDS["debian"].items():
            put(tree, entry, content)
        # Bulk that is no hole, so that copies take time and room.
        (tree / "srv").mkdir()
        (tree / "srv/bulk").write_bytes(bytes(range(1, 256)) * (8 * MIB // 255))
        with root.open("wb") as file:
            file.truncate(_SIZE)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-d", tree, root)
        disk = FileDisk(path, _START + _SIZE + MIB)
        write_mbr(disk, [(0x83, _START // 512, _SIZE // 512)])
        disk.place(root, [(_START, _SIZE)])
    return path
