"""Which blocks a snapshot needs, and what this host remembers of them."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clouds.aws.ebs_direct import (
    BLOCK,
    BlockIndex,
    Parent,
    aggregate,
    data_blocks,
    volume_gib,
    wanted_blocks,
)
from pipeline.clouds.aws.ebs_import import part_size
from pipeline.disk.blocks.source import RawFile

_ZEROS = bytes(BLOCK)
_CONTENT = st.lists(st.sampled_from(["a", "b", "zeros", "hole"]), max_size=8)
_SETTINGS = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, blocks: list[str], tail: int = 0) -> bytes:
    """A disk of blocks, cut `tail` bytes before its end; what it reads as."""
    with path.open("wb") as file:
        for kind in blocks:
            if kind == "hole":
                file.seek(BLOCK, io.SEEK_CUR)
            else:
                file.write(_ZEROS if kind == "zeros" else kind.encode() * BLOCK)
        size = max(0, BLOCK * len(blocks) - tail)
        file.truncate(size)
    return path.read_bytes().ljust(BLOCK * len(blocks), b"\0")


def digests(data: bytes) -> dict[int, bytes]:
    blocks = {n: data[n * BLOCK : (n + 1) * BLOCK] for n in range(len(data) // BLOCK)}
    return {n: hashlib.sha256(b).digest() for n, b in blocks.items() if b != _ZEROS}


@_SETTINGS
@given(blocks=_CONTENT, tail=st.integers(0, BLOCK - 1))
def test_data_blocks_are_exactly_those_that_are_not_zeros(
    blocks: list[str], tail: int, tmp_path: Path
) -> None:
    data = write(tmp_path / "d", blocks, tail)
    with RawFile(tmp_path / "d") as raw:
        found = dict(data_blocks(raw))
    assert {n: hashlib.sha256(b).digest() for n, b in found.items()} == digests(data)


@_SETTINGS
@given(before=_CONTENT, after=_CONTENT, tail=st.integers(0, BLOCK - 1))
def test_the_parent_with_the_written_blocks_is_the_image(
    before: list[str], after: list[str], tail: int, tmp_path: Path
) -> None:
    old = write(tmp_path / "old", before)
    new = write(tmp_path / "new", after, tail)
    parent = Parent("snap-1", 1, digests(old))
    volume = bytearray(old.ljust(8 * BLOCK, b"\0"))
    indices = []
    with RawFile(tmp_path / "new") as raw:
        for index, data, digest in wanted_blocks(raw, parent):
            indices.append(index)
            if data is None:
                assert parent.digests[index] == digest
                continue
            assert hashlib.sha256(data).digest() == digest
            assert parent.digests.get(index) != digest, "sent though the parent has it"
            volume[index * BLOCK : (index + 1) * BLOCK] = data
    assert bytes(volume) == new.ljust(8 * BLOCK, b"\0")
    assert indices == sorted(set(indices))


def test_the_aggregate_is_over_raw_digests_in_order_of_their_index() -> None:
    one, two = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()
    right = base64.b64encode(hashlib.sha256(one + two).digest()).decode()
    assert aggregate({10: two, 2: one}) == right


@pytest.mark.parametrize(
    ("size", "gib"), [(0, 1), (1, 1), (1 << 30, 1), ((1 << 30) + 1, 2), (5 << 30, 5)]
)
def test_volumes_are_whole_gibibytes(size: int, gib: int) -> None:
    assert volume_gib(size) == gib


@pytest.mark.parametrize("size", [1, 16 << 20, 200 << 30, 60_000 << 30])
def test_no_upload_has_too_many_parts(size: int) -> None:
    assert -(-size // part_size(size)) <= 10_000
    assert part_size(size) >= 5 << 20


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlockIndex:
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path))
    return BlockIndex("ebs:x", "snap-1")


def test_the_journal_is_read_back_and_a_torn_record_is_left_out(
    index: BlockIndex, tmp_path: Path
) -> None:
    index.write(3, b"3" * 32)
    index.write(1, b"1" * 32)
    index.close()
    (journal,) = (tmp_path / "ebs").iterdir()
    os.truncate(journal, journal.stat().st_size - 1)
    assert BlockIndex("ebs:x", "snap-1").written() == {3: b"3" * 32}
    again = BlockIndex("ebs:x", "snap-1")
    again.write(2, b"2" * 32)
    again.close()
    assert again.written() == {3: b"3" * 32, 2: b"2" * 32}
    assert BlockIndex("ebs:y", "snap-1").written() == {}


def test_a_completed_snapshot_keeps_its_content_and_drops_its_journal(index: BlockIndex) -> None:
    assert index.content() is None
    index.write(3, b"3" * 32)
    index.close()
    index.complete({3: b"3" * 32, 4: b"4" * 32})
    assert index.written() == {}
    assert index.content() == {3: b"3" * 32, 4: b"4" * 32}
    index.forget()
    assert index.content() is None
