"""The guides, followed to the letter: their files are written and their commands are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.resources import PROJECT
from tests.fixtures.demo import Demo, copy_of_the_checkout, shell
from tests.fixtures.literate import Command, apply, steps

pytestmark = [pytest.mark.integration, pytest.mark.long]


def follow(guide: str, site: Path, *, until: str = "") -> str:
    """Do what docs/GUIDE says in a checkout, up to a command that contains `until`; what was said.

    A command that fails, a file that is there already or a place that is not found fails the test.
    """
    said = ""
    for step in steps((PROJECT / "docs" / "how-to" / guide).read_text()):
        if not isinstance(step, Command):
            apply(step, site)
            continue
        if until and until in step.text:
            return said
        done = shell(step.text, site, {})
        assert done.returncode == 0, f"{step.text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        said += done.stdout
    assert not until, f"there is no {until!r} in {guide}"
    return said


@pytest.fixture
def site(finished_demo: Demo, tmp_path: Path) -> Path:
    """A checkout in which the demo was built."""
    finished_demo.clone(copy_of_the_checkout(tmp_path / "checkout"))
    return tmp_path / "checkout"


def test_adding_a_cloud(site: Path) -> None:
    said = follow("adding-a-cloud.md", site)
    assert "14 passed" in said, "the whole contract was asked"
    assert "folder:images: copy " in said
    assert not (site / "images").exists(), "the guide ends with a dry run"


def test_adding_a_distribution_up_to_its_install(site: Path) -> None:
    said = follow("adding-a-distribution.md", site, until="./invoke build pebble upload")
    assert "pebble" in said
    assert "virt-install --connect" in said
    assert "boot check  skipped" in said


@pytest.mark.timeout(3600)
def test_adding_a_distribution(site: Path) -> None:
    said = follow("adding-a-distribution.md", site)
    assert "local: pebble registered" in said
    assert "assertions hold" in said
