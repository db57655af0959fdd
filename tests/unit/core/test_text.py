"""Text out of guests, made fit to be shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.text import printable, without_escapes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[!p\x1b[?25hsoft reset", "soft reset"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]3008;start=1\x1b\\text", "text"),
        ("\x1bP1$r0m\x1b\\text", "text"),
        ("\x1b]8;;no end\nnext line", "\nnext line"),
        ("\x1b(0lqqk\x1b(B\x1b=", "lqqk"),
    ],
)
def test_escape_sequences_are_taken_out(text: str, shown: str) -> None:
    assert without_escapes(text) == shown


@given(st.text("\x1b[](PX0m;\x07\\ \na", max_size=30))
def test_what_is_left_is_of_the_text(text: str) -> None:
    left = iter(text)
    assert all(any(c == other for other in left) for c in without_escapes(text))
    assert text.count("\n") == without_escapes(text).count("\n")


@given(st.text())
def test_no_control_character_is_shown(text: str) -> None:
    assert re.sub(r"[\n\t]", "", printable(text)).isprintable()
    assert printable(text, keep="").isprintable()
