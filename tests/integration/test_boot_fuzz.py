"""A short seeded run of tests/robustness/fuzz/fuzz_boot.py, and proof that it notices a fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.guest.boot.uki
from tests.robustness.fuzz.campaign import campaign
from tests.robustness.fuzz.fuzz_boot import CORPUS, NEW, OLD, Case, Harness

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    made = Harness(tmp_path_factory.mktemp("partitions"))
    yield made
    made.close()


@pytest.mark.parametrize("bits", ["12", "16", "32"])
def test_what_is_whole_comes_out(harness: Harness, bits: str) -> None:
    assert harness.run(Case(bits, ())) == NEW


def test_mutated_partitions_are_refused_or_read_right(harness: Harness) -> None:
    ends, faults = campaign(harness, 300, seed=7)
    assert faults == []
    assert any(NEW in end for end in ends)
    assert any(OLD in end for end in ends)
    assert any("Error" in end for end in ends)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_kept_is_no_fault(harness: Harness, path: Path) -> None:
    harness.run(Case.from_json(path.read_text()))


def test_the_harness_sees_a_careless_reader(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(table: bytes, size: int, name: str) -> dict[str, tuple[int, int]]:
        raise ValueError(size)

    monkeypatch.setattr(pipeline.guest.boot.uki, "_sections", careless)
    _, faults = campaign(harness, 5, seed=7)
    assert any("ValueError" in fault for fault in faults)
