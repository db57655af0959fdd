"""What the steps left to look at: console logs and screen pictures, made safe to show."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.text import without_escapes

_MAX_TEXT = 256 << 10  # bytes from the end of a log; a Debian boot prints 60 KiB
_MAX_PICTURE = 4 << 20  # bytes; a text console as PNG takes 10 KiB
_MAX_FILES = 40
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Console:
    """A log's text; `skipped` bytes at its beginning are not shown."""

    name: str
    text: str
    skipped: int

    @property
    def lines(self) -> int:
        """How many are shown."""
        return self.text.count("\n") + 1


@dataclass(frozen=True)
class Picture:
    """A screen picture as a data URI."""

    name: str
    uri: str


@dataclass(frozen=True)
class Evidence:
    """What lies in one step's directory."""

    consoles: tuple[Console, ...] = ()
    pictures: tuple[Picture, ...] = ()


def gather(directory: Path) -> Evidence:
    """The logs and pictures in a directory, oldest first; empty ones are left out."""
    consoles: list[Console] = []
    pictures: list[Picture] = []
    if not directory.is_dir():
        return Evidence()
    files = [p for p in directory.rglob("*") if p.is_file() and not p.is_symlink()]
    for path in sorted(files, key=lambda p: (p.stat().st_mtime_ns, p.name))[:_MAX_FILES]:
        name = str(path.relative_to(directory))
        if path.suffix in (".log", ".txt", ".serial", ".console"):
            console = read_console(path, name)
            if console.text:
                consoles.append(console)
        elif path.suffix == ".png":
            picture = read_picture(path, name)
            if picture is not None:
                pictures.append(picture)
    return Evidence(tuple(consoles), tuple(pictures))


def read_console(path: Path, name: str = "") -> Console:
    """The end of a log without terminal control; lines drawn over with CR show their last state."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - _MAX_TEXT, 0))
        raw = file.read(_MAX_TEXT)
    text = without_escapes(raw.decode(errors="replace")).replace("\r\n", "\n")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    return Console(name or path.name, text, max(size - _MAX_TEXT, 0))


def read_picture(path: Path, name: str = "") -> Picture | None:
    """A PNG file as a data URI; None for anything else or too large."""
    if path.stat().st_size > _MAX_PICTURE:
        return None
    data = path.read_bytes()
    if not data.startswith(_PNG):
        return None
    return Picture(name or path.name, f"data:image/png;base64,{base64.b64encode(data).decode()}")
