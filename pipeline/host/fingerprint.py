"""What a step's result depends on, as one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def stage_key(stage: str, inputs: Mapping[str, Any], code: Iterable[Path] = ()) -> str:
    """Identity of a stage's work: a sha256 over its name, inputs and the code that does it.

    inputs: anything JSON can say. code: source files and templates, or directories of them.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([stage, inputs], sort_keys=True, default=str).encode())
    for entry in code:
        files = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
        for file in files:
            # Python's own: what it compiles comes and goes under other names beside us.
            if "__pycache__" not in file.parts and file.is_file():
                digest.update(
                    file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest()
                )
    return digest.hexdigest()
