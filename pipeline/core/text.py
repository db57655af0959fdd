"""Words for people: sizes, times, printable text, near misses."""

from __future__ import annotations

import difflib
import re
from typing import Any

# ECMA-48. One whose end is missing or still to come ends with the line or the text: what a console
# has said so far may stop anywhere. Each stops at the next ESC, so the time is linear in the text.
_UNENDED = r"(?=[\r\n])|\Z"
_ESCAPES = re.compile(
    rf"\x1b\[[0-?]*[ -/]*(?:[@-~]|{_UNENDED})"  # control sequence: colours, cursor, soft reset
    # Control string: OSC (systemd marks its services with OSC 3008), DCS, APC, PM, SOS.
    r"|\x1b[]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    rf"|\x1b[ -/]*(?:[0-~]|{_UNENDED})"  # any other: character sets, keypad modes
)


def human_bytes(count: float) -> str:
    """`count` bytes in the largest binary unit that keeps it above one: 1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """0.35 -> "0.35 s", 75 -> "1 min 15 s", 7260 -> "2 h 1 min"."""
    if 0 < seconds < 9.95:
        return f"{seconds:.2g} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def printable(text: str, keep: str = "\n\t") -> str:
    """`text` with control characters escaped, so that no guest string can drive a terminal.

    keep: control characters that stay.
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def without_escapes(text: str) -> str:
    """A terminal's text without its escape sequences, also one that has not ended yet.

    Lines stay lines. Bytes may be decoded before, errors replaced: in UTF-8 no byte of a sequence
    is part of another character.
    """
    return _ESCAPES.sub("", text)


def did_you_mean(word: str, choices: Any) -> str:
    """ ", did you mean X?" for the nearest choice, or nothing when none is near."""
    near = difflib.get_close_matches(word, [str(c) for c in choices], n=1)
    return f", did you mean {near[0]}?" if near else ""
