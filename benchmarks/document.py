"""docs/reference/benchmarks.md: a section a benchmark, each replaced by its own run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.resources import PROJECT

DOCUMENT = PROJECT / "docs" / "reference" / "benchmarks.md"
TITLES = {
    "extraction": "Extraction",
    "build": "Disk to three files with a manifest",
    "tree": "Tree to ext4",
    "bundle": "EC2 bundle",
    "uploads": "Uploads",
    "reuse": "What a second run repeats",
    "packages": "Images from packages",
    "conversion": "Conversion",
}
_PREFACE = """# Benchmarks

`./invoke benchmark` (not run here: most of an hour, as root) measures everything again and writes
this file; each section names the command that renews it alone. Each run is a process of its own.
Compare ratios, which come from runs side by side; seconds belong to the host and the hour, and on a
host that other work keeps busy even ratios of wall time say little: there compare CPU and bytes.
CPU is user and system time of all processes, memory what all of them together had to themselves at
the worst moment, read and written what they asked of the kernel.
"""


@dataclass(frozen=True)
class Section:
    """What a benchmark found: Markdown below its heading, and a plot as SVG."""

    text: str
    plot: str


def save(name: str, section: Section, document: Path = DOCUMENT) -> None:
    """Put the section in its place, whatever the others say, and its plot beside the document."""
    known = sections(document.read_text(), TITLES) if document.exists() else {}
    plot = f"benchmarks-{name}.svg"
    document.with_name(plot).write_text(section.plot)
    known[name] = f"{section.text.strip()}\n\n![{TITLES[name]}]({plot})\n"
    parts = [f"## {title}\n\n{known[key]}" for key, title in TITLES.items() if key in known]
    document.write_text("\n".join([_PREFACE, *parts]))


def sections(text: str, titles: Mapping[str, str]) -> dict[str, str]:
    """Name -> Markdown below its heading, of the sections of a document that `titles` has."""
    names = {title: name for name, title in titles.items()}
    found = re.split(r"^## (.+)\n\n", text, flags=re.MULTILINE)[1:]
    return {
        names[title]: body.rstrip() + "\n"
        for title, body in zip(found[::2], found[1::2], strict=True)
        if title in names
    }
