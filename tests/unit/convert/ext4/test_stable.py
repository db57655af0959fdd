"""What changes in a tree moves next to nothing else in its image."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from pipeline.convert.ext4.geometry import geometry
from pipeline.convert.ext4.nodes import blocks_of, nodes_of
from pipeline.convert.ext4.placing import layers_of, number, place
from pipeline.convert.ext4.space import Space
from pipeline.convert.ext4.stable import bucket, coarse, key, probes
from pipeline.convert.ext4.tree import Entry
from tests.unit.convert.ext4.images import EPOCH, MIB, parameters

Places = dict[bytes, tuple[int, tuple[tuple[int, int], ...]]]


def tree(files: int, *, version: str = "6.1.0-1", layer: int = 0) -> list[Entry]:
    """A made-up one: directories of some forty files, most small, some large."""
    chance = random.Random(layer)
    names = {b"": Entry(b"", "directory", 0o755), b"usr": Entry(b"usr", "directory", 0o755)}
    for index in range(files):
        top = f"usr/{layer}-{index // 40}-{version}".encode()
        names[top] = Entry(top, "directory", 0o755, layer=layer, base=layer)
        path = b"%b/file%d" % (top, index)
        size = int(2 ** (8 + chance.random() * 12))
        names[path] = Entry(path, "file", 0o644, size=size, layer=layer, base=layer)
    return [names[path] for path in sorted(names)]


def places(entries: list[Entry], size: int) -> Places:
    nodes = nodes_of(entries, EPOCH)
    figures = geometry(parameters(size), len(nodes))
    space = Space(figures, blocks_of(nodes.values()))
    layers = layers_of(nodes)
    number(layers, figures)
    place(layers, space)
    return {path: (node.number, tuple(node.placed)) for path, node in nodes.items()}


def kept(before: Places, after: Places) -> float:
    """Share of the blocks of what is in both that are where they were."""
    total = same = 0
    for path, (_, runs) in before.items():
        if path in after:
            blocks = sum(count for _, count in runs)
            total += blocks
            same += blocks if after[path][1] == runs else 0
    return same / total


@pytest.mark.parametrize(("size", "share"), [(900, 0.95), (500, 0.85)])
def test_files_that_come_go_and_grow_leave_the_others(size: int, share: float) -> None:
    entries = tree(3000)
    before = places(entries, size * MIB)
    chance = random.Random(5)
    changed = []
    for entry in entries:
        what = chance.random() if entry.kind == "file" else 1
        if what > 0.02:
            changed.append(entry)
        elif what > 0.01:
            changed.append(entry._replace(size=entry.size + 9000))
    changed += [Entry(b"usr/new%d" % index, "file", 0o644, size=20_000) for index in range(30)]
    assert kept(before, places(changed, size * MIB)) > share


def test_a_new_version_takes_the_place_of_the_old() -> None:
    old = places(tree(2000), 900 * MIB)
    new = places(tree(2000, version="6.1.0-22"), 900 * MIB)
    renamed = {path.replace(b"6.1.0-1", b"6.1.0-22"): found for path, found in old.items()}
    assert renamed == new


def test_upper_layers_move_nothing_of_lower_ones() -> None:
    lower = [entry._replace(layer=1, base=1) for entry in tree(2000)]
    upper = [entry for entry in tree(1500, layer=0) if entry.path.startswith(b"usr/0-")]
    upper = [entry._replace(path=b"usr/x" + entry.path[4:]) for entry in upper]
    before = places(lower, 900 * MIB)
    after = places(sorted(lower + upper), 900 * MIB)
    moved = {path for path in before if path in after and before[path] != after[path]}
    # The directory that got new names has more blocks than before.
    assert moved <= {b"usr"}


def test_what_is_placed_overlaps_nothing() -> None:
    for size in (900, 420):
        found = places(tree(3000), size * MIB)
        runs = sorted(run for _, placed in found.values() for run in placed)
        assert all(a + n <= b for (a, n), (b, _) in pairwise(runs))
        numbers = [inode for inode, _ in found.values()]
        assert len(set(numbers)) == len(numbers)


def test_buckets_split_and_nothing_else_moves() -> None:
    keys = [probes(b"%d" % index)[0] for index in range(2000)]
    for buckets in range(1, 70):
        for each in keys:
            old, new = bucket(each, buckets), bucket(each, buckets + 1)
            assert old < buckets
            assert new in (old, buckets)


def test_coarse_numbers_are_enough_and_not_much_more() -> None:
    for number_ in range(1, 5000):
        assert number_ <= coarse(number_) <= number_ * 9 / 8 + 1


def test_versions_do_not_count() -> None:
    assert key(b"usr/lib/modules/6.1.0-37-amd64/a.ko") == key(
        b"usr/lib/modules/6.1.0-41-amd64/a.ko"
    )
    assert key(b"man1/ls.1") != key(b"man2/ls.2")
    assert key(b"libc.so.6") != key(b"libc.so.5")
