"""Golden files: the exact text that is expected, kept below tests/golden.

`REGENERATE_GOLDEN=1 pytest ...` writes them anew; the difference is then reviewed like code.
"""

from __future__ import annotations

import os
from pathlib import Path

_DIRECTORY = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Assert that `text` is the content of the golden file."""
    path = _DIRECTORY / name
    if os.environ.get("REGENERATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.is_file(), f"no golden file {name}: run with REGENERATE_GOLDEN=1"
    assert text == path.read_text(), f"{name} differs: run with REGENERATE_GOLDEN=1 if meant"
