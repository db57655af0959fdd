"""Findings: each script says what it must, and the index names them all."""

from __future__ import annotations

import os
import re

import pytest

from pipeline.core.resources import PROJECT

SCRIPTS = sorted((PROJECT / "findings").glob("*.sh"))
FIELDS = ("SUMMARY", "GUESS", "SEEN", "VERSIONS", "SOURCE", "WHY")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_script_can_be_run_and_says_what_it_must(script: object) -> None:
    path = PROJECT / str(script)
    text = path.read_text()
    assert os.access(path, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n")
    assert [name for name in FIELDS if not re.search(rf"^# {name}: \S", text, re.MULTILINE)] == []
    assert "NO LONGER SO" in text
    code = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"(from|import|-m) pipeline", code), "it runs without us"


def test_the_index_names_every_script() -> None:
    index = (PROJECT / "findings" / "README.md").read_text()
    assert set(re.findall(r"\]\(([\w.-]+\.sh)\)", index)) == {path.name for path in SCRIPTS}
