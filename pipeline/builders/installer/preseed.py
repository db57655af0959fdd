"""Preseed files, Debian's answer files: their form, and commands that report back.

Source: Debian installation guide, appendix B "Automating the installation using preseeding";
debconf's types from the Debconf specification.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

STARTED = "IMAGE-PIPELINE-STARTED"
DONE = "IMAGE-PIPELINE-DONE"
FAILED = "IMAGE-PIPELINE-FAILED"
"""What marked answer files print on the serial port, each followed by the build's nonce."""

EARLY, LATE = "preseed/early_command", "preseed/late_command"
"""The questions whose answers are commands, run before and after everything else."""


@dataclass(frozen=True)
class Question:
    """One answered question. first and last: its lines in the file, from 1."""

    owner: str
    name: str
    kind: str
    value: str
    first: int
    last: int


def questions(text: str) -> list[Question]:
    """The answered questions in order; a line with fewer than three words has an empty kind.

    A question is one line, `OWNER NAME TYPE [VALUE]`, continued after a backslash. Lines are joined
    as debconf-set-selections(1) does it: without the backslash, and with no space in its place.
    """
    found = []
    held: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        held.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            found.append(_question("".join(held), number - len(held) + 1, number))
            held = []
    if held:
        last = len(text.splitlines())
        found.append(_question("".join(held), last - len(held) + 1, last))
    return found


def _question(line: str, first: int, last: int) -> Question:
    words = [*line.split(None, 3), "", "", "", ""]
    return Question(words[0], words[1], words[2], words[3].strip(), first, last)


def say(marker: str, nonce: str) -> str:
    """A shell command that prints the marker on a line of its own on the serial port."""
    return f"{{ echo; echo '{marker} {nonce}'; }} >/dev/ttyS0"


def add_markers(text: str, nonce: str) -> str:
    """The preseed with commands that report on the serial port, around those it has itself.

    The late command runs after everything else, in the installer with the system in /target.
    """
    own = {q.name: q.value for q in questions(text) if q.name in (EARLY, LATE)}
    dropped = {
        number for q in questions(text) if q.name in own for number in range(q.first, q.last + 1)
    }
    lines = [line for number, line in enumerate(text.splitlines(), 1) if number not in dropped]
    if lines and lines[-1].endswith("\\"):
        lines.append("")  # or it would go on with ours
    early = say(STARTED, nonce)
    # The installer runs them by `sh -c`. So do we: a comment at its end, or a parenthesis left
    # open, then stays its own.
    if own.get(EARLY):
        early += f"; sh -c {shlex.quote(own[EARLY])}"
    theirs = f"sh -c {shlex.quote(own[LATE])} && " if own.get(LATE) else ""
    late = (
        f"{theirs}sync && {say(DONE, nonce)} || {{ {say(FAILED, nonce)}; "
        "tail -n 20 /var/log/syslog >/dev/ttyS0; false; }"
    )
    return "\n".join([*lines, f"d-i {EARLY} string {early}", f"d-i {LATE} string {late}"]) + "\n"
