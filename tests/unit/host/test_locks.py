"""Lock files, also where the file system knows no locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from pipeline.core.errors import BusyError, HostError
from pipeline.host.locks import exclusive, is_held


def test_a_lock_is_seen_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "below" / ".lock"
    assert not is_held(path)
    with exclusive(path, "the build"):
        assert is_held(path)
        with pytest.raises(BusyError, match=str(os.getpid())), exclusive(path, "the build"):
            pass
    assert not is_held(path)
    with exclusive(path, "the build"):
        pass


def test_looking_takes_a_lock_that_readers_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS answers EBADF to an exclusive lock of a file that is open for reading."""
    real = fcntl.flock

    def nfs(descriptor: int, how: int) -> None:
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if how & fcntl.LOCK_EX and not writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", nfs)
    with exclusive(tmp_path / ".lock", "the build"):
        assert is_held(tmp_path / ".lock")
    assert not is_held(tmp_path / ".lock")


def test_a_file_system_without_locks_is_named_and_can_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path = tmp_path / ".lock"
    path.touch()
    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(HostError, match="No locks available") as caught, exclusive(path, "it"):
        pass
    assert str(path) in str(caught.value)
    assert "local_lock=flock" in caught.value.next_step
    assert not is_held(path)
