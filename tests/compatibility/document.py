"""docs/reference/compatibility.md: a section a subject, each replaced by its own run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.document import sections
from pipeline.core.resources import PROJECT

DOCUMENT = PROJECT / "docs" / "reference" / "compatibility.md"
TITLES = {
    "filesystems": "File systems of the root",
    "partitions": "Disks: tables, volumes, image formats",
    "guests": "Guests",
    "servers": "Servers and clients",
}
WORKS, REFUSED, FAILS, UNTRIED = "works", "told by name", "**fails**", "not tried"
OUTCOMES = (WORKS, REFUSED, FAILS, UNTRIED)
_PREFACE = """# Compatibility

What was really tried, with versions and outcomes. `./invoke compatibility` (not run here: a quarter
of an hour, as root) tries everything again that needs no guest and writes this file; each section
names the command that renews it alone. A row says one of:

| outcome | meaning |
|---|---|
| works | the image came out, and the file system's own checker and readers found all of it |
| told by name | an error, exit code 2 or 5, that names what is not supported; no image |
| **fails** | anything else, with the words that were said |
| not tried | this host could not make it; the reason is there |

What has no row was not tried. That a disk was built from says nothing of whether its guest boots:
that is the section on guests.
"""


@dataclass(frozen=True)
class Row:
    """One thing that was tried. made_by: the command that made it; words: what was seen."""

    name: str
    made_by: str
    outcome: str
    words: str


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, with a count of each outcome above."""
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in OUTCOMES}
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"{counted}.\n\n" + cells(
        ("what", "made by", "outcome", "seen"),
        ((row.name, _code(row.made_by), row.outcome, row.words) for row in rows),
    )


def cells(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; what would end a cell is escaped."""
    lines = [list(head), ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def rows_of(text: str) -> dict[str, list[list[str]]]:
    """Heading -> rows of all tables below it, without their heads: the document, parsed.

    Raises ValueError for a row with more or fewer cells than its table's head.
    """
    found: dict[str, list[list[str]]] = {}
    heading, width = "", 0
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            width = 0
            continue
        row = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not width:
            width = len(row)
        elif len(row) != width:
            raise ValueError(f"{len(row)} cells where the head has {width}: {line}")
        elif set(line) - set("|- "):
            found.setdefault(heading, []).append(row)
    return found


def save(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Put a section in its place, whatever the others say."""
    known = sections(document.read_text(), TITLES) if document.exists() else {}
    known[name] = text.strip() + "\n"
    parts = [f"## {title}\n\n{known[key]}" for key, title in TITLES.items() if key in known]
    document.write_text("\n".join([_PREFACE, *parts]))
