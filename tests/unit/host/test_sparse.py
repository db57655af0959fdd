"""Reading files with holes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.image import Role
from pipeline.host import sparse
from pipeline.host.sparse import CHUNK, chunks, data_runs, digests, image_file

BLOCK = 4096


def sparse_file(path: Path, pattern: list[bool], tail: int = 0) -> bytes:
    """A file of one block an entry, data where True; returns its content."""
    with path.open("wb") as file:
        for number, data in enumerate(pattern):
            if data:
                os.pwrite(file.fileno(), bytes([number % 255 + 1]) * BLOCK, number * BLOCK)
        file.truncate(len(pattern) * BLOCK + tail)
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pattern=st.lists(st.booleans(), max_size=24), tail=st.integers(0, 5000))
def test_chunks_are_the_file(tmp_path: Path, pattern: list[bool], tail: int) -> None:
    path = tmp_path / "f"
    content = sparse_file(path, pattern, tail)
    with path.open("rb") as file:
        assert b"".join(bytes(c) for c in chunks(file.fileno(), len(content))) == content
    assert digests(path, ["sha256", "sha1"]) == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "sha1": hashlib.sha1(content).hexdigest(),
    }


def test_holes_are_not_data(tmp_path: Path) -> None:
    path = tmp_path / "f"
    sparse_file(path, [False] * 16 + [True] * 2 + [False] * 16)
    with path.open("rb") as file:
        assert list(data_runs(file.fileno(), 0, 34 * BLOCK)) == [(16 * BLOCK, 2 * BLOCK)]
        assert list(data_runs(file.fileno(), 17 * BLOCK, 34 * BLOCK)) == [(17 * BLOCK, BLOCK)]


def test_a_hole_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    with path.open("wb") as file:
        os.pwrite(file.fileno(), b"x", 1 << 30)
        file.truncate(4 << 30)
    read: list[int] = []
    real = os.preadv

    def counting(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = real(descriptor, buffers, offset)
        read.append(count)
        return count

    monkeypatch.setattr(os, "preadv", counting)
    with path.open("rb") as image:
        for _ in chunks(image.fileno(), 2 << 30):
            pass
    assert sum(read) <= BLOCK


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_only_a_large_file_that_was_not_cached_is_let_go(
    large: bool, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = sparse_file(tmp_path / "f", [True, True, True, False, True])
    let_go: list[tuple[int, ...]] = []
    asked: list[int] = []

    def look(_descriptor: int, at: int) -> bool:
        asked.append(at)
        return cached

    monkeypatch.setattr(sparse, "STRETCH", 2 * BLOCK)
    monkeypatch.setattr(sparse, "outgrows_cache", lambda size: large and size == 4 * BLOCK)
    monkeypatch.setattr(sparse, "is_cached", look)
    monkeypatch.setattr(os, "posix_fadvise", lambda _descriptor, *rest: let_go.append(rest))
    with (tmp_path / "f").open("rb") as file:
        assert b"".join(map(bytes, chunks(file.fileno(), len(content)))) == content
    runs = [(0, 2 * BLOCK), (2 * BLOCK, BLOCK), (4 * BLOCK, BLOCK)]
    assert asked == ([start + length - 1 for start, length in runs] if large else [])
    gone = [(*run, os.POSIX_FADV_DONTNEED) for run in runs]
    assert let_go == (gone if large and not cached else [])


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * CHUNK)
    with path.open("rb") as file, pytest.raises(EOFError):
        list(chunks(file.fileno(), CHUNK + 1))


def test_image_file_counts_what_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "f"
    sparse_file(path, [False] * 100 + [True])
    record = image_file(Role.MACHINE, path)
    assert record.size == 101 * BLOCK
    assert BLOCK <= record.allocated < 10 * BLOCK
