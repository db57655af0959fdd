"""What the documents tell their readers to type, and the files that the guides have them write.

Three forms, all visible to a reader:

- A fence of language `sh` is a script that is run as it stands.
- A code span that begins with one of our programs is a command, too.
- "(not run here: WHY)" right behind a fence or a span says that no test runs it.

In a guide, the line before any other fence may say what to do with it: "write `PATH`:", "append to
`PATH`:", "add to `NAME` in `PATH`:" (a table in Python) or "add to the imports of `PATH`:".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_EXCUSE = re.compile(r"\s*\(not run here:\s+([^)]+)", re.IGNORECASE)
_PROGRAM = (
    r"(?:\.?/?[\w./-]*\binvoke|(?:\.venv/bin/)?python -m|(?:\.venv/bin/)?pytest|docker|buildah"
    r"|apt-get|uvx|pip|setup/container-check)"
)
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*{_PROGRAM}(?= |$)")
"""How a line begins that is typed at a shell."""


@dataclass(frozen=True)
class Command:
    """Something to type. excuse: why no test runs it; empty when one does."""

    text: str
    excuse: str = ""


@dataclass(frozen=True)
class Written:
    """A file to write or to change. how: the words before "`PATH`:"; name: in "`NAME` in"."""

    how: str
    path: str
    text: str
    name: str = ""


_HOW = re.compile(
    r"(?P<how>write|append to|add to the imports of|add to `(?P<name>\w+)` in)"
    r" `(?P<path>\S+)`:\n*\Z",
    re.IGNORECASE,
)


def blocks(text: str) -> Iterator[tuple[str, str, str, str]]:
    """(language, content, text before, text behind) of each fence."""
    for found in _FENCE.finditer(text):
        yield found[1], found[2], text[: found.start()], text[found.end() :]


def steps(text: str) -> list[Command | Written]:
    """What a reader does who follows the fences of a document from top to bottom."""
    found: list[Command | Written] = []
    for language, content, before, behind in blocks(text):
        how = _HOW.search(before)
        if language == "sh":
            excuse = _EXCUSE.match(behind)
            found.append(Command(content, " ".join(excuse[1].split()) if excuse else ""))
        elif how:
            found.append(
                Written(
                    how["how"].split("`")[0].strip().lower(),
                    how["path"],
                    content,
                    how["name"] or "",
                )
            )
    return found


def spans(text: str) -> list[Command]:
    """The commands in sentences and tables, with their arguments."""
    prose = _FENCE.sub("\n", text)
    found = []
    for span in re.finditer(r"`([^`]+)`", prose):
        words = " ".join(span[1].split())
        match = COMMAND.match(words)
        if match and match[0] != words:  # a program's bare name is no command
            excuse = _EXCUSE.match(prose[span.end() :])
            found.append(Command(words, " ".join(excuse[1].split()) if excuse else ""))
    return found


def hidden_commands(text: str) -> list[str]:
    """Command lines in fences that are not marked `sh`, where no test would look."""
    return [
        line
        for language, content, _, _ in blocks(text)
        if language != "sh"
        for line in content.splitlines()
        if COMMAND.match(line.removeprefix("$ ").strip())
    ]


def apply(step: Written, directory: Path) -> None:
    """Do to the files below `directory` what the guide says."""
    path = directory / step.path
    if step.how == "write":
        assert not path.exists(), f"{step.path} is there already"
        path.write_text(step.text)
        return
    old = path.read_text()
    if step.how == "append to":
        path.write_text(old + step.text)
        return
    if step.how == "add to the imports of":
        lines = list(re.finditer(r"^from [\w.]+ import .*\n", old, re.MULTILINE))
        package = step.text.split(".")[0]
        later = [m for m in lines if m[0].startswith(package) and m[0] > step.text]
        assert later, f"there is no place among the imports of {step.path} for {step.text}"
        at = later[0].start()
    else:
        table = re.search(rf"^{step.name}\b.*\{{\n", old, re.MULTILINE)
        assert table, f"there is no {step.name} in {step.path}"
        at = table.end()
    path.write_text(old[:at] + step.text + old[at:])
