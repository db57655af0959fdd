"""Where the files are that come with the product: templates/ and kickstart/.

In a checkout they lie beside the package, in an installation inside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
PROJECT = _PACKAGE.parent
"""The checkout: tasks.py, kickstart/ and templates/ lie here. Of no meaning in an installation."""


def is_checkout() -> bool:
    """Whether the product runs from a checkout, with its tests and documents, or is installed."""
    return not (_PACKAGE / "templates").is_dir() and (PROJECT / "tasks.py").is_file()


def _folder(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else PROJECT / name


COMMAND = "invoke" if is_checkout() else "image-pipeline"
"""What the command is called, for advice such as `invoke list`."""

TEMPLATES = _folder("templates")
"""What is written into guests and disks, the demo's installer, the report's pages."""
KICKSTART = _folder("kickstart")
"""Recipes and answer files."""
