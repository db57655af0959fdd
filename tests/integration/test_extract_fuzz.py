"""A short seeded run of tests/robustness/fuzz/fuzz_disk.py, and proof that it notices a fault.

The cases that were faults once are run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipeline.convert import volume_copy
from pipeline.disk.filesystems.ext import Ext
from tests.robustness.fuzz.campaign import Faulty, campaign
from tests.robustness.fuzz.fuzz_disk import CORPUS, Case, Harness

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    made = Harness(tmp_path_factory.mktemp("seeds"))
    yield made
    made.close()


def test_mutated_disks_are_refused_or_extracted_right(harness: Harness) -> None:
    ends, faults = campaign(harness, 120, seed=7)
    assert faults == []
    assert any("extracted" in end for end in ends) and any("Error" in end for end in ends)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_what_was_a_fault_once_is_none_now(harness: Harness, path: Path) -> None:
    harness.run(Case.from_json(path.read_text()))


def test_the_harness_sees_blocks_that_were_left_behind(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert harness.run(Case("dirty", ())) == "extracted"
    assert "/late" in harness.plain["dirty"]

    def careless(filesystem: Ext) -> str:
        return ""

    # e2fsck has the word on what is copied by the bitmaps: to lose blocks it must be silenced too.
    monkeypatch.setattr(volume_copy, "check", careless)
    monkeypatch.setattr(volume_copy, "_checking", lambda *_: nullcontext(lambda: True))
    with pytest.raises(Faulty, match="differs"):
        harness.run(Case("dirty", ()))
