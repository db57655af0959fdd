"""Making an ext4 image of a directory tree: this pipeline against mkfs and cp, and mke2fs -d.

The tree is made up: files of such sizes as a distribution's have. How much of an image stays where
it was when a tree changes is measured too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.bars import bars
from benchmarks.document import Section
from benchmarks.measure import (
    GIB,
    MIB,
    Options,
    Work,
    alternate,
    circumstances,
    cost_table,
    host,
    markdown,
)
from pipeline.core.resources import PROJECT
from tests.fixtures.disks.tools import mounted, run

OURS = "this pipeline"
TWICE = "this pipeline, with the digest of the tree"
MKE2FS = "mke2fs -d"
LOOP = "mkfs, loop mount, cp -a, umount"
_SIZE = 2 * GIB
_UUID = "00000000-0000-0000-0000-000000000001"
_EPOCH = 1_700_000_000
_BLOCK = 4096
_FILES = 12_000
_LARGEST = 16 * MIB


def make_tree(top: Path, size: int) -> None:
    """Some 12,000 files of `size` bytes together, most small, in directories of ten."""
    chance = random.Random(1)
    pool = chance.randbytes(_LARGEST + MIB)
    # Log-normal, as the sizes of a distribution's files are.
    sizes = [min(int(chance.lognormvariate(8.3, 2.0)), _LARGEST) for _ in range(_FILES)]
    factor = size / sum(sizes)
    for index, each in enumerate(sizes):
        directory = top / "usr" / f"{index // 400}" / f"{index // 10}"
        directory.mkdir(parents=True, exist_ok=True)
        start = chance.randrange(MIB)
        content = pool[start : start + min(int(each * factor), _LARGEST)]
        (directory / f"file{index}").write_bytes(content)
        if index % 10 == 0:
            (directory / "link").symlink_to(f"file{index}")


def change_tree(top: Path) -> None:
    """What an update does: one file in a hundred has other content and size, some come and go."""
    chance = random.Random(2)
    for path in sorted(top.rglob("file*")):
        what = chance.random()
        if what < 0.002:
            path.unlink()
        elif what < 0.01:
            path.write_bytes(path.read_bytes()[::-1] + chance.randbytes(chance.randrange(5000)))
        elif what < 0.015:
            path.with_name(f"new-{path.name}").write_bytes(chance.randbytes(20_000))


def _ours(tree: Path, out: Path, *, digest: bool = False) -> None:
    request = {
        "layers": [str(tree)],
        "epoch": _EPOCH,
        "digest": digest,
        "image": {"to": str(out / "image"), "size": _SIZE, "uuid": _UUID, "hash_seed": _UUID},
    }
    subprocess.run(
        [sys.executable, "-m", "pipeline.convert.ext4"],
        input=json.dumps(request).encode(),
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _mke2fs(tree: Path, out: Path) -> None:
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", _UUID, "-E", f"hash_seed={_UUID}", "-d", tree,
        out / "image", f"{_SIZE >> 20}M")  # fmt: skip


def _loop(tree: Path, out: Path) -> None:
    run("mke2fs", "-q", "-F", "-t", "ext4", out / "image", f"{_SIZE >> 20}M")
    with mounted(out / "image", out / "at") as at:
        run("cp", "-a", f"{tree}/.", at)


def sections(options: Options) -> Iterator[Section]:
    """Speed of one size, and the share of blocks that stay."""
    size = int(min(options.sizes) * GIB / 2)
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        work = Path(name)
        tree = work / "tree"
        make_tree(tree, size)
        rivals: dict[str, Work] = {
            OURS: partial(_ours, tree),
            TWICE: partial(_ours, tree, digest=True),
            MKE2FS: partial(_mke2fs, tree),
            LOOP: partial(_loop, tree),
        }
        costs = alternate(rivals, options.rounds, work, base=OURS)
        shares = _shares(tree, work)
        text = (
            f"{host(options.directory)}. {_FILES} files of {size >> 20} MiB become an ext4 file"
            f" system of {_SIZE >> 30} GiB; the tree is in the page cache, and the image is synced"
            f" within each run.\n\n{circumstances(costs, options.rounds)}\n\n"
            f"{cost_table(costs, 'ours')}\n"
            f"This pipeline is {costs[LOOP].ratio:.1f} x as fast as {LOOP} (target 3) and"
            f" {costs[MKE2FS].ratio:.1f} x as fast as {MKE2FS} (target 1); in processor seconds"
            f" {costs[LOOP].cpu / costs[OURS].cpu:.1f} x and"
            f" {costs[MKE2FS].cpu / costs[OURS].cpu:.1f} x.\n\n"
            "### What stays where it was\n\n"
            "One file in a hundred of the same tree is changed, some come and go, and it is"
            " made an image of again. Blocks of 4 KiB that are not zero:\n\n"
            f"{shares}"
        )
        yield Section(text, bars("Tree to ext4, seconds", {n: c.seconds for n, c in costs.items()}))


def _shares(tree: Path, work: Path) -> str:
    images: dict[str, list[Path]] = {OURS: [], MKE2FS: []}
    for state in ("before", "after"):
        if state == "after":
            change_tree(tree)
        for label, make in ((OURS, _ours), (MKE2FS, _mke2fs)):
            out = work / f"{state}-{len(label)}"
            out.mkdir()
            make(tree, out)
            images[label].append(out / "image")
    shutil.rmtree(tree)
    rows = []
    for label, (before, after) in images.items():
        used, content, same = _compared(before, after)
        rows.append([label, str(used), f"{content / used:.1%}", f"{same / content:.1%}"])
    return markdown(["way", "blocks", "in the old one anywhere", "of those at their place"], rows)


def _compared(before: Path, after: Path) -> tuple[int, int, int]:
    """Blocks of `after` that are not zero; those that `before` has at all, and at that place."""
    zero = bytes(_BLOCK)
    with before.open("rb") as file:
        old = {hash(data) for data in iter(lambda: file.read(_BLOCK), b"") if data != zero}
    used = content = same = 0
    with before.open("rb") as first, after.open("rb") as second:
        for data in iter(lambda: second.read(_BLOCK), b""):
            here = first.read(_BLOCK)
            if data != zero:
                used += 1
                same += data == here
                content += hash(data) in old
    return used, content, same
