"""A build's directory: whole files, locks that die with their holder, reuse by content."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.builds.workspace import Workspace
from pipeline.core.errors import BusyError
from pipeline.core.resources import PROJECT
from pipeline.host.files import Replacements, finish, naming, put_back_on_error, write_whole
from pipeline.host.fingerprint import step_key
from pipeline.host.locks import exclusive

ROOT = PROJECT


def test_a_file_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "f"
    write_whole(target, "old")
    write_whole(target, "new", mode=0o600)
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "f"
    write_whole(target, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_finish_renames(tmp_path: Path) -> None:
    partial = tmp_path / "f.partial"
    partial.write_text("x")
    finish(partial, tmp_path / "f")
    assert not partial.exists()
    assert (tmp_path / "f").read_text() == "x"


HOLDER = """
import sys, time
from pathlib import Path
from pipeline.host.locks import exclusive
with exclusive(Path(sys.argv[1]), "the build"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_holder_is_told_who_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], cwd=ROOT, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with (
            pytest.raises(BusyError, match=f"process {holder.pid} is working on it"),
            exclusive(lock, "the build"),
        ):
            pass
        holder.kill()
    with exclusive(lock, "the build"):  # a dead holder never blocks
        assert lock.read_text() == str(os.getpid())


def test_scratch_is_emptied_at_both_ends(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "demo")
    workspace.scratch.mkdir(parents=True)
    (workspace.scratch / "left by a killed run").touch()
    with workspace.open():
        assert list(workspace.scratch.iterdir()) == []
        (workspace.scratch / "f").touch()
    assert not workspace.scratch.exists()


def test_a_step_is_reused_only_while_nothing_changed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "demo")
    with workspace.open():
        product = workspace.directory / "disk.img"
        product.write_text("content")
        assert workspace.lookup("install", "k", dict) is None
        workspace.remember("install", "k", [product], {"facts": 1})
        assert workspace.lookup("install", "k", dict) == {"facts": 1}
        assert workspace.lookup("install", "other key", dict) is None
        product.write_text("changed")
        assert workspace.lookup("install", "k", dict) is None
        workspace.remember("install", "k", [product], {})
        product.unlink()
        assert workspace.lookup("install", "k", dict) is None
        workspace.invalidate("install")
        workspace.invalidate("install")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": "k"}'])
def test_a_damaged_entry_is_no_entry(tmp_path: Path, damage: str) -> None:
    workspace = Workspace(tmp_path / "demo")
    with workspace.open():
        workspace.remember("install", "k", [], {})
        (workspace.directory / ".stages" / "install.json").write_text(damage)
        assert workspace.lookup("install", "k", dict) is None


def test_the_key_covers_inputs_and_code(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    base = step_key("s", {"a": 1, "b": 2}, [code])
    assert base == step_key("s", {"b": 2, "a": 1}, [code])
    assert base != step_key("t", {"a": 1, "b": 2}, [code])
    assert base != step_key("s", {"a": 1, "b": 3}, [code])
    (code / "a.py").write_text("2")
    assert base != step_key("s", {"a": 1, "b": 2}, [code])
    (code / "a.py").write_text("1")
    (code / "__pycache__").mkdir()
    # Another command may be writing it at this moment, under the name Python gives such a file.
    (code / "__pycache__" / "a.cpython-311.pyc.139872").write_text("half")
    assert base == step_key("s", {"a": 1, "b": 2}, [code])
    (code / "b.sh").write_text("")
    assert base != step_key("s", {"a": 1, "b": 2}, [code])


def test_replacements_take_their_names_together_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    with pytest.raises(OSError, match=r"missing/\.third"), Replacements() as new:
        new.add(first, "new")
        new.add(second, b"new")
        new.add(tmp_path / "missing" / "third", "new")
    assert first.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    with Replacements() as new:
        new.add(first, "new")
        new.add(second, b"new")
        assert first.read_text() == "old"
        new.commit()
    assert (first.read_text(), second.read_bytes()) == ("new", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_what_fails_half_way_leaves_the_files_that_were_there(tmp_path: Path) -> None:
    for name in ("image", "manifest"):
        (tmp_path / name).write_text(f"old {name}")
    (tmp_path / "new image").write_text("new")
    names = ["image", "never there", "manifest"]
    with (
        pytest.raises(OSError, match="rename"),
        put_back_on_error(tmp_path, names, tmp_path / "aside"),
    ):
        (tmp_path / "manifest").unlink()
        (tmp_path / "new image").replace(tmp_path / "image")
        raise OSError("rename")
    assert (tmp_path / "image").read_text() == "old image"
    assert (tmp_path / "manifest").read_text() == "old manifest"
    assert not (tmp_path / "never there").exists()


def test_what_succeeds_stays(tmp_path: Path) -> None:
    (tmp_path / "image").write_text("old")
    with put_back_on_error(tmp_path, ["image"], tmp_path / "aside"):
        (tmp_path / "image").unlink()
        (tmp_path / "image").write_text("new")
    assert (tmp_path / "image").read_text() == "new"


def test_where_no_second_name_can_be_made_nothing_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "image").write_text("old")
    with (
        pytest.raises(OSError, match="rename"),
        put_back_on_error(tmp_path, ["image"], tmp_path / "aside"),
    ):
        (tmp_path / "image").write_text("new")
        raise OSError("rename")
    assert (tmp_path / "image").read_text() == "new"


def test_a_write_without_room_names_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: '/the/file'"),
        naming(Path("/the/file")),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
