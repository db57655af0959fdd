"""Preseed files, Debian's answer files: their form, their faults, and commands that report back.

Source: Debian installation guide, appendix B "Automating the installation using preseeding";
debconf's types from the Debconf specification.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.core.text import did_you_mean

STARTED = "IMAGE-PIPELINE-STARTED"
DONE = "IMAGE-PIPELINE-DONE"
FAILED = "IMAGE-PIPELINE-FAILED"
"""What marked answer files print on the serial port, each followed by the build's nonce."""

CRYPT = re.compile(r"^(\$[0-9a-z]+\$[^\s:]+|[*!x]{1,2})$")
"""A password's hash as crypt(5) writes it, or an entry that no password matches."""

_TYPES = ("string", "boolean", "select", "multiselect", "password", "note", "text", "seen")
_EARLY = "preseed/early_command"
_LATE = "preseed/late_command"
_POWEROFF = "debian-installer/exit/poweroff"


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

    A question is one line, `OWNER NAME TYPE [VALUE]`, continued after a backslash.
    """
    found = []
    held: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        held.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            found.append(_question(" ".join(held), number - len(held) + 1, number))
            held = []
    if held:
        last = len(text.splitlines())
        found.append(_question(" ".join(held), last - len(held) + 1, last))
    return found


def _question(line: str, first: int, last: int) -> Question:
    words = [*line.split(None, 3), "", "", "", ""]
    return Question(words[0], words[1], words[2], words[3].strip(), first, last)


def faults(text: str, secrets: Collection[str]) -> list[str]:
    """What is wrong: form, passwords in clear text, further files, an end without power-off.

    secrets: values that came from the environment and may be passwords in clear text.
    """
    found = []
    answers = {}
    for question in questions(text):
        name, kind, value = question.name, question.kind, question.value
        where = f"line {question.first}"
        answers[name] = value
        if not kind:
            found.append(f"{where}: a question needs owner, name and type")
        elif kind not in _TYPES:
            found.append(f"{where}: unknown type {kind}{did_you_mean(kind, _TYPES)}")
        elif kind == "boolean" and value not in ("true", "false"):
            found.append(f"{where}: {name} is boolean and its value is {value!r}")
        if name.startswith(("preseed/include", "preseed/url")):
            found.append(f"{where}: {name} would fetch answers that are not kept with the build")
        if re.search(r"password(-again)?$", name) and value and value not in secrets:
            found.append(f"{where}: {name} in clear text; use passwd's …-password-crypted")
        if name.endswith("password-crypted") and value not in secrets and not CRYPT.match(value):
            found.append(f"{where}: {name}: the value is no crypt(5) hash")
    if answers.get(_POWEROFF) != "true":
        found.append(f"{_POWEROFF} must be true: the pipeline waits for a clean power-off")
    return found


def say(marker: str, nonce: str) -> str:
    """A shell command that prints the marker on a line of its own on the serial port."""
    return f"{{ echo; echo '{marker} {nonce}'; }} >/dev/ttyS0"


def add_markers(text: str, nonce: str) -> str:
    """The preseed with commands that report on the serial port, around those it has itself.

    The late command runs after everything else, in the installer with the system in /target.
    """
    own = {q.name: q for q in questions(text) if q.name in (_EARLY, _LATE)}
    dropped = {
        number for q in questions(text) if q.name in own for number in range(q.first, q.last + 1)
    }
    lines = [line for number, line in enumerate(text.splitlines(), 1) if number not in dropped]
    early = say(STARTED, nonce)
    if _EARLY in own:
        early += f"; {own[_EARLY].value}"
    theirs = f"( {own[_LATE].value} ) && " if _LATE in own else ""
    late = (
        f"{theirs}sync && {say(DONE, nonce)} || {{ {say(FAILED, nonce)}; "
        "tail -n 20 /var/log/syslog >/dev/ttyS0; false; }"
    )
    return "\n".join([*lines, f"d-i {_EARLY} string {early}", f"d-i {_LATE} string {late}"]) + "\n"
