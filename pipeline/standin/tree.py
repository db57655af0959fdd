"""The install tree: what goes in, its identity, and how it gets its final name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.stage import Tools

PHASES = ("Partitioning", "Formatting", "Installing", "Configuring", "Running %post", "Complete")
"""What the installer prints on its console after "installer: " as it goes, in this order."""
FATAL = "installer: FATAL: "
"""How the console line starts that says why the installer gave up."""


@dataclass(frozen=True)
class InstallTree:
    """A finished tree for `virt-install --location`.

    path: its directory. identity: hex digest over everything that went in.
    """

    path: Path
    identity: str


def tree_identity() -> str:
    """Identity of the tree `make_tree` would make now; reads, but builds nothing."""
    raise AssertionError("tree_identity")


def make_tree(directory: Path, tools: Tools) -> InstallTree:
    """Make the tree below `directory`, or find it there whole: `directory`/IDENTITY."""
    raise AssertionError("make_tree")
