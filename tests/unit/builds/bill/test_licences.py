"""Licence expressions, judged by the library that checkers of SPDX documents use."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from license_expression import get_spdx_licensing

from pipeline.builds.bill.licence_ids import EXCEPTIONS, LICENCES
from pipeline.builds.bill.licences import is_expression, references

LICENSING = get_spdx_licensing()


def test_the_identifiers_are_known_to_both_checkers() -> None:
    place = files("cyclonedx.schema") / "_res" / "spdx.SNAPSHOT.schema.json"
    listed = set(json.loads(place.read_text())["enum"])
    known = LICENSING.known_symbols
    assert listed >= LICENCES | EXCEPTIONS
    assert {name for name in LICENCES if known[name].is_exception} == set()
    assert {name for name in EXCEPTIONS if not known[name].is_exception} == set()
    assert {"MIT", "GPL-2.0-or-later", "OFL-1.1", "Unicode-DFS-2016"} <= LICENCES


@pytest.mark.parametrize(
    "text",
    [
        "MIT",
        "(MIT)",
        "MIT AND (BSD-3-Clause OR GPL-2.0-or-later WITH Classpath-exception-2.0) AND 0BSD",
        "LicenseRef-Fedora-Public-Domain OR MIT",
    ],
)
def test_expressions_are_recognised(text: str) -> None:
    assert is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "GPLv2+", "GPLv2+ and BSD", "MIT and ISC", "mit or isc", "MIT AND", "AND MIT",
        "MIT ISC", "(MIT", "MIT)", "()", "MIT WITH", "MIT WITH ISC", "Classpath-exception-2.0",
        "(MIT AND ISC) WITH Classpath-exception-2.0", "MIT, ISC", "Public Domain", "LicenseRef-",
        "MIT\nISC", "(" * 900 + "MIT" + ")" * 900, "LicenseRef-a WITH", "MIT/ISC", "Apache-2.0+",
    ],
)  # fmt: skip
def test_other_words_are_not(text: str) -> None:
    assert not is_expression(text)


WORDS = ("MIT", "0BSD", "AND", "OR", "WITH", "(", ")", "Apache-2.0+", "LLVM-exception", "nope")


@given(st.lists(st.sampled_from(WORDS), max_size=7))
def test_what_is_recognised_is_valid_to_others(words: list[str]) -> None:
    text = " ".join(words)
    if is_expression(text):
        assert LICENSING.validate(text, strict=True).errors == []


def test_references_are_found_once() -> None:
    assert references("LicenseRef-b AND (LicenseRef-a.1 OR MIT) AND LicenseRef-b") == [
        "LicenseRef-a.1",
        "LicenseRef-b",
    ]
