"""Whether a guest unmounted its root, told from the head of its disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.host.programs import Runner
from pipeline.verify import boot


def call(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("make", "clean"),
    [
        ([("mke2fs", "-q", "-F", "-t", "ext4")], True),
        ([("mke2fs", "-q", "-F", "-t", "ext2")], True),
        (
            [
                ("mke2fs", "-q", "-F", "-t", "ext4"),
                ("debugfs", "-w", "-R", "feature needs_recovery"),
            ],
            False,
        ),
        ([], None),
    ],
)
def test_a_root_that_was_not_unmounted_is_told(
    make: list[tuple[str, ...]], clean: bool | None, tmp_path: Path
) -> None:
    root, overlay = tmp_path / "root.img", tmp_path / "overlay.qcow2"
    call("truncate", "-s", "64M", root)
    for words in make:
        call(*words, root)
    call("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", root, overlay)
    with Runner() as runner:
        assert boot.left_clean(runner, overlay) is clean
    assert not list(tmp_path.glob("*.superblock"))
