"""The copy: exactly the ranges, exactly the size, by the kernel or by hand."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DiskError, HostError
from pipeline.disk.blocks import copy as copying
from pipeline.disk.blocks.copy import Copied, clone, copy, data_of, new_file, steps
from pipeline.disk.blocks.source import RawFile, Run
from pipeline.disk.blocks.volume import Stretch, Volume
from tests.fixtures.disks.memory import MemoryDisk

PAGE = 4096
PAGES = 64


def disk_file(path: Path) -> Path:
    """Every third page holds its own number, the rest are holes."""
    with path.open("wb") as file:
        file.truncate(PAGES * PAGE)
        for page in range(0, PAGES, 3):
            file.seek(page * PAGE)
            file.write(bytes([page + 1]) * PAGE)
    return path


def taken(volume: Volume, ranges: list[tuple[int, int]], target: Path) -> tuple[Copied, int]:
    told: list[int] = []
    with new_file(target, volume.size) as descriptor:
        done = copy(volume, ranges, descriptor, target, told.append)
    return done, sum(told)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, PAGES - 1), min_size=1, max_size=4),
    st.lists(st.integers(0, 40 * PAGE), min_size=2, max_size=8, unique=True).map(sorted),
    st.booleans(),
)
def test_ranges_arrive_and_nothing_else(starts: list[int], cuts: list[int], by_hand: bool) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        if by_hand:
            patch.setattr(os, "copy_file_range", refusing(errno.EXDEV))
        folder = Path(name)
        with RawFile(disk_file(folder / "disk")) as disk:
            stretches = [Stretch(start * PAGE, PAGE * min(10, PAGES - start)) for start in starts]
            volume = Volume(disk, stretches, "volume")
            whole = volume.read(0, volume.size)
            cuts = [min(cut, volume.size) for cut in cuts]
            ranges = [(a, b - a) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if b > a]
            done, told = taken(volume, ranges, folder / "target")
            expected = bytearray(volume.size)
            for offset, length in ranges:
                expected[offset : offset + length] = whole[offset : offset + length]
            assert (folder / "target").read_bytes() == bytes(expected)
            data = sum(run.length for run in data_of(volume, ranges))
            assert done.copied == told == data
            if data:
                assert done.method == ("read and write" if by_hand else "copy_file_range")


def refusing(number: int) -> Callable[..., int]:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


def test_neighbours_are_one_run_and_runs_are_cut_into_steps() -> None:
    disk = MemoryDisk(8 * PAGE)
    disk.write(PAGE, b"x" * 3 * PAGE)
    assert list(data_of(disk, [(0, 2 * PAGE), (2 * PAGE, 6 * PAGE)])) == [Run(PAGE, 3 * PAGE, PAGE)]
    size = copying.CHUNK
    assert list(steps([Run(5, 2 * size + 1, 7)])) == [
        Run(5, size, 7), Run(5 + size, size, 7 + size), Run(5 + 2 * size, 1, 7 + 2 * size)
    ]  # fmt: skip
    assert [run.at for run in steps([Run(0, size + 1, None)])] == [None, None]


def test_an_unreadable_medium_is_a_disk_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.EIO))
    monkeypatch.setattr(os, "preadv", refusing(errno.EIO))
    with RawFile(disk_file(tmp_path / "disk")) as disk:
        volume = Volume(disk, [Stretch(0, disk.size)], "volume")
        with pytest.raises(DiskError, match="Input/output error at byte 0"):
            taken(volume, [(0, disk.size)], tmp_path / "target")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_target_says_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", refusing(number))
    with RawFile(disk_file(tmp_path / "disk")) as disk:
        volume = Volume(disk, [Stretch(0, disk.size)], "volume")
        with pytest.raises(HostError, match="Free some space"):
            taken(volume, [(0, disk.size)], tmp_path / "target")


def test_a_disk_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = disk_file(tmp_path / "disk")
    with RawFile(path) as disk:
        volume = Volume(disk, [Stretch(0, disk.size)], "volume")
        with new_file(tmp_path / "target", volume.size) as descriptor:
            os.truncate(path, PAGE)
            with pytest.raises(DiskError, match="shrank"):
                copying._Copier(volume, path, descriptor, lambda _: None).run([Run(0, 3 * PAGE, 0)])


def test_where_nothing_can_be_cloned_nothing_is_left(tmp_path: Path) -> None:
    with RawFile(disk_file(tmp_path / "disk")) as disk:
        odd = Volume(disk, [Stretch(0, PAGE), Stretch(PAGE + 1, 10)], "volume")
        with new_file(tmp_path / "target", odd.size) as descriptor:
            assert not clone(odd, descriptor)
        assert (tmp_path / "target").read_bytes() == bytes(odd.size)
        assert not clone(Volume(MemoryDisk(PAGE), [Stretch(0, PAGE)], "memory"), -1)


def test_targets_are_new(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    with pytest.raises(HostError, match="File exists"), new_file(tmp_path / "target", 10):
        pass
    assert (tmp_path / "target").read_text() == "precious"


@pytest.mark.parametrize("cached", [True, False])
def test_only_what_the_copy_itself_brought_into_the_cache_is_let_go(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    let_go: list[tuple[int, int, int]] = []

    def look(_descriptor: int, _buffers: object, at: int, flags: int = 0) -> int:
        asked.append((at, flags))
        if not cached:
            raise BlockingIOError(errno.EAGAIN, "not in the cache")
        return 1

    monkeypatch.setattr(os, "preadv", look)
    monkeypatch.setattr(os, "posix_fadvise", lambda _descriptor, *rest: let_go.append(rest))
    with RawFile(disk_file(tmp_path / "disk")) as disk:
        volume = Volume(disk, [Stretch(0, disk.size)], "volume")
        taken(volume, [(0, 4 * PAGE)], tmp_path / "target")
    # The last byte of each step is asked for, without waiting for the medium.
    assert asked == [(PAGE - 1, os.RWF_NOWAIT), (4 * PAGE - 1, os.RWF_NOWAIT)]
    steps_done = [(0, PAGE, os.POSIX_FADV_DONTNEED), (3 * PAGE, PAGE, os.POSIX_FADV_DONTNEED)]
    assert let_go == ([] if cached else steps_done)


def test_what_is_written_is_let_go_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    sync = copying._sync_range

    def note(*call: int) -> None:
        calls.append(("sync", *call[1:]))
        sync(*call)

    def advise(descriptor: int, *rest: int) -> None:
        if descriptor == to:
            calls.append(("let go", *rest))

    with RawFile(disk_file(tmp_path / "disk")) as disk, new_file(tmp_path / "t", disk.size) as to:
        monkeypatch.setattr(copying, "_ON_ITS_WAY", 2 * PAGE)
        monkeypatch.setattr(copying, "_sync_range", note)
        monkeypatch.setattr(os, "posix_fadvise", advise)
        copy(disk, [(0, 10 * PAGE)], to, tmp_path / "t", lambda _count: None, keep=False)
        assert os.pread(to, 10 * PAGE, 0) == disk.read(0, 10 * PAGE)
    written = [(at * PAGE, PAGE) for at in (0, 3, 6, 9)]
    begun = [("sync", *run, copying._SYNC_FILE_RANGE_WRITE) for run in written]
    waited = [("sync", *run, copying._SYNC_FILE_RANGE_WHOLE) for run in written]
    gone = [("let go", *run, os.POSIX_FADV_DONTNEED) for run in written]
    # Two pages may be under way: the third waits for the first.
    assert calls == [*begun[:3], waited[0], gone[0], begun[3], waited[1], gone[1]]


@pytest.mark.parametrize(("number", "fatal"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_fault_seen_while_waiting_for_the_disk_is_told(
    number: int, fatal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int, _offset: int, _length: int, flags: int) -> None:
        if flags == copying._SYNC_FILE_RANGE_WHOLE:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(copying, "_ON_ITS_WAY", 0)
    monkeypatch.setattr(copying, "_sync_range", fail)
    expected = pytest.raises(HostError, match="Input/output") if fatal else nullcontext()
    with RawFile(disk_file(tmp_path / "disk")) as disk, new_file(tmp_path / "t", disk.size) as to:
        with expected:
            copy(disk, [(0, disk.size)], to, tmp_path / "t", lambda _count: None, keep=False)
        assert fatal or os.pread(to, disk.size, 0) == disk.read(0, disk.size)
