"""What `./invoke compatibility` says of an attempt: the right words, whatever comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.compatibility import filesystems, partitions
from tests.compatibility.attempt import Case, Made, Unmade, attempt
from tests.compatibility.document import FAILS, REFUSED, UNTRIED, WORKS
from tests.compatibility.roots import forget_tree

pytestmark = pytest.mark.integration

CASES = {case.name: case for case in [*filesystems.cases(), *partitions.cases()]}


@pytest.fixture(scope="module", autouse=True)
def the_tree_goes() -> Iterator[None]:
    yield
    forget_tree()


@pytest.mark.parametrize(
    ("name", "outcome", "words"),
    [
        ("ext3, blocks of 1 KiB", WORKS, "used blocks"),
        ("LVM2, linear, over two physical volumes", WORKS, "partition 2 and partition 1"),
        ("qcow2, compressed", WORKS, "used blocks"),
        ("btrfs", REFUSED, "exit 5: "),
        ("VMDK, streamOptimized", WORKS, "used blocks by read and write"),
        ("QED", REFUSED, "exit 2: "),
    ],
)
def test_an_outcome_is_told(name: str, outcome: str, words: str, tmp_path: Path) -> None:
    row = attempt(CASES[name], tmp_path)
    assert row.outcome == outcome
    assert words in row.words
    assert str(tmp_path) not in row.words
    assert list(tmp_path.iterdir()) == []


def changed(name: str, change: dict[str, str]) -> Case:
    """The case of a disk whose makers claim other content of files than they have."""
    case = CASES[name]

    def make(place: Path) -> Made:
        made = case.make(place)
        assert made.files is not None
        files = dict(made.files)
        for path, content in change.items():
            files[path] = replace(files["srv/file-60"], content=content)
        return replace(made, files=files)

    return replace(case, make=make)


def unmade(place: Path) -> Made:
    raise Unmade("there is no such program")


@pytest.mark.parametrize(
    ("case", "outcome", "words"),
    [
        (changed("GPT", {"srv/file-60": "other"}), FAILS, "/srv/file-60 is not what it was"),
        (changed("GPT", {"srv/absent": "x"}), FAILS, "/srv/absent is missing"),
        (replace(CASES["btrfs"], named="squashfs"), FAILS, "exit 5: "),
        (replace(CASES["btrfs"], named=""), FAILS, "exit 5: "),
        (replace(CASES["GPT"], make=unmade), UNTRIED, "no such program"),
    ],
    ids=["other content", "missing", "not named", "should work", "not made"],
)
def test_what_is_wrong_is_not_called_right(
    case: Case, outcome: str, words: str, tmp_path: Path
) -> None:
    row = attempt(case, tmp_path)
    assert row.outcome == outcome
    assert words in row.words


def test_other_features_are_a_fault(tmp_path: Path) -> None:
    """A copy that lost a feature of the original would be one."""
    case = CASES["ext4, defaults"]

    def make(place: Path) -> Made:
        made = case.make(place)
        other = CASES["ext4 without 64bit"].make(tmp_path)
        return replace(made, features=other.features)

    row = attempt(replace(case, make=make))
    assert row.outcome == FAILS
    assert "features 64bit differ" in row.words
