"""Ranges of ids: whose they are, and what mends their lack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import HostError
from pipeline.host import ids
from pipeline.host.ids import Range
from pipeline.host.programs import Runner

ME = os.getuid()


@pytest.fixture
def run() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    named = {kind: tmp_path / f"sub{kind}" for kind in ("uid", "gid")}
    monkeypatch.setattr(ids, "_FILES", named)
    monkeypatch.setattr(ids, "find", lambda name: "")
    return named


@pytest.mark.parametrize(
    "text", [f"{ME}:200000:65536\n", f"other:1:9\n\n# c\nbroken:x\n{ME}:200000:65536"]
)
def test_an_entry_by_number(files: dict[str, Path], run: Runner, text: str) -> None:
    files["uid"].write_text(text)
    assert ids.ordinary_range("uid", run) == Range(200000, 65536)


def test_an_entry_by_name_and_the_largest_of_several(
    files: dict[str, Path], run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "_user", lambda: "maker")
    files["gid"].write_text("maker:100:70\nmaker:300000:131072\nmakers:1:99999\n:5:99999\n")
    assert ids.ordinary_range("gid", run) == Range(300000, 65536)


def test_a_user_without_a_name_gets_no_entry_without_a_name(
    files: dict[str, Path], run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "_user", lambda: "")
    files["uid"].write_text(":300000:65536\n")
    with pytest.raises(HostError, match=f"gives {ME} no ids"):
        ids.ordinary_range("uid", run)


def test_a_range_with_the_users_own_id_is_not_taken(files: dict[str, Path], run: Runner) -> None:
    files["uid"].write_text(f"{ME}:{max(ME - 10, 0)}:65536\n")
    with pytest.raises(HostError, match="no ids"):
        ids.ordinary_range("uid", run)


def test_the_remedy_names_a_range_that_is_free(
    files: dict[str, Path], run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "_user", lambda: "maker")
    files["uid"].write_text("a:100000:65536\nb:165536:65536\nmaker:1:10\n")
    with pytest.raises(HostError, match="gives maker 10 ids") as caught:
        ids.ordinary_range("uid", run)
    assert caught.value.next_step == "As root: usermod --add-subuids 231072-296607 maker"


def test_no_file_is_no_entry(files: dict[str, Path], run: Runner) -> None:
    with pytest.raises(HostError, match="usermod --add-subgids 100000-165535"):
        ids.ordinary_range("gid", run)


def test_root_takes_its_own_entry_only_if_it_is_one_of_both(files: dict[str, Path]) -> None:
    whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    if not whole:
        pytest.skip("the ids of this container are few")
    assert ids.root_range() == Range(0x7FFE0000, 65536)
    files["uid"].write_text(f"{ME}:500000:65536\n")
    assert ids.root_range() == Range(0x7FFE0000, 65536)
    files["gid"].write_text(f"{ME}:500000:65536\n")
    assert ids.root_range() == Range(500000, 65536)
