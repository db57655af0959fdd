"""What a step's result depends on, as one digest: its inputs, its templates and its code."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_TOP = Path(__file__).resolve().parent.parent
_PACKAGE = _TOP.name
_IMPORT = re.compile(
    rf"^[ \t]*(?:from[ \t]+({_PACKAGE}[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)"
    rf"|import[ \t]+({_PACKAGE}[\w.]*))",
    re.MULTILINE,
)


def step_key(step: str, inputs: Mapping[str, Any], code: Iterable[Path] = ()) -> str:
    """Identity of a step's work: a sha256 over its name, inputs and the code that does it.

    inputs: anything JSON can say. code: source files and templates, or directories of them, which
    are taken with all that lies below them.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([step, inputs], sort_keys=True, default=str).encode())
    for entry in code:
        files = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
        for file in files:
            # Python's own: what it compiles comes and goes under other names beside us.
            if "__pycache__" not in file.parts and file.is_file():
                name = str(file.relative_to(entry)) if entry.is_dir() else file.name
                digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def code_of(*modules: str, without: tuple[str, ...] = ()) -> list[Path]:
    """The source files of these modules and of all of ours that they import, near or far.

    modules: dotted names. without: packages whose modules are not followed. Imports inside
    functions count too; they are read from the text, so that nothing is executed.
    """
    found: set[Path] = set()
    waiting = [file for name in modules for file in _files(name)]
    while waiting:
        file = waiting.pop()
        if file in found or any(_dotted(file).startswith(package) for package in without):
            continue
        found.add(file)
        waiting += _imported(file)
    return sorted(found)


@cache
def _imported(file: Path) -> tuple[Path, ...]:
    names: set[str] = set()
    for match in _IMPORT.finditer(file.read_text()):
        module, words, plain = match.groups()
        names.add(module or plain)
        names |= {f"{module}.{word}" for word in re.findall(r"\w+", words or "")}
    return tuple(each for name in sorted(names) for each in _files(name))


@cache
def _files(name: str) -> tuple[Path, ...]:
    """The file of a dotted name, and of the packages it lies in; none for what is no module."""
    parts = name.split(".")[1:]
    file = _TOP.joinpath(*parts)
    if file.with_suffix(".py").is_file():
        own = (file.with_suffix(".py"),)
    elif (file / "__init__.py").is_file():
        own = (file / "__init__.py",)
    else:
        return ()
    packages = [_TOP.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
    return (*own, *packages)


def _dotted(file: Path) -> str:
    parts = file.relative_to(_TOP).with_suffix("").parts
    return ".".join((_PACKAGE, *(part for part in parts if part != "__init__")))
