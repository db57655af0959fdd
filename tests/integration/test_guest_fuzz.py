"""A short seeded run of tests/robustness/fuzz/fuzz_guest.py, and proof that it notices a fault.

The cases that were faults once are run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import pipeline.guest.customize.apply
from pipeline.guest.access.editor import Editor
from pipeline.guest.customize.fstab import Fstab
from tests.robustness.fuzz.campaign import Faulty, campaign
from tests.robustness.fuzz.fuzz_guest import CORPUS, Case, Change, Harness

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    made = Harness(tmp_path_factory.mktemp("guests"))
    yield made
    made.close()


def test_mutated_guests_are_refused_or_made_right(harness: Harness) -> None:
    ends, faults = campaign(harness, 40, seed=7)
    assert faults == []
    assert any("made" in end for end in ends) and any("Error" in end for end in ends)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_kept_is_no_fault(harness: Harness, path: Path) -> None:
    harness.run(Case.from_json(path.read_text()))


def test_a_link_to_the_host_leads_nowhere(harness: Harness) -> None:
    for target in ("@BAIT@/file", "../../../../../..@BAIT@/file", "@BAIT@/new"):
        case = Case("debian", (Change("/etc/fstab", "link", target),))
        assert harness.run(case) in ("made", "GuestError")


def test_the_harness_sees_a_wrong_fstab(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(editor: Editor, by_type: Mapping[str, str]) -> Fstab:
        return Fstab(editor.text("/etc/fstab"), (), (), (), ())

    monkeypatch.setattr(pipeline.guest.customize.apply, "flatten_mounts", careless)
    with pytest.raises(Faulty, match="fstab"):
        harness.run(Case("fedora", ()))
