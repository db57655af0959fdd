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
        ("\x1b[1;31\r\nnext line", "\r\nnext line"),
        ("\x1b(\nnext line", "\nnext line"),
        ("\x1b\nnext line", "\nnext line"),
    ],
)
def test_escape_sequences_are_taken_out(text: str, shown: str) -> None:
    assert without_escapes(text) == shown


# As the console of Debian 14 has them: OSC with either end, DCS, APC, PM, CSI and other escapes.
SEQUENCES = (
    "\x1b]3008;start=2b60f6cf;user=root;hostname=localhost;pid=1\x1b\\",
    "\x1b]3008;end=2b60f6cf\x07",
    "\x1bP+q6E616D65\x1b\\",
    "\x1b_application\x1b\\",
    "\x1b^private\x1b\\",
    "\x1b[0;1;38:5:185m",
    "\x1b[?7h",
    "\x1b[!p",
    "\x1b(B",
    "\x1b8",
)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_sequence_that_is_still_to_end_shows_nothing_of_itself(sequence: str) -> None:
    """A console is read in pieces, and a piece may end within a sequence."""
    for end in range(len(sequence) + 1):
        assert without_escapes("before " + sequence[:end]) == "before "
        assert without_escapes(f"{sequence[:end]}\nafter") == "\nafter"
    assert without_escapes(f"before {sequence}after") == "before after"


@given(st.text("\x1b[](PX0m;\x07\\ \na", max_size=30))
def test_what_is_left_is_of_the_text(text: str) -> None:
    left = iter(text)
    assert all(any(c == other for other in left) for c in without_escapes(text))
    assert text.count("\n") == without_escapes(text).count("\n")


@given(st.text())
def test_no_control_character_is_shown(text: str) -> None:
    assert re.sub(r"[\n\t]", "", printable(text)).isprintable()
    assert printable(text, keep="").isprintable()
