"""The text of an answer file with its includes in place, each line with the place it came from.

Marks `{{name}}` in it are replaced by values; a backslash before one keeps the braces as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Dialect = Literal["kickstart", "preseed"]

_MARK = re.compile(r"(\\?)(\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\})")
_INCLUDE = re.compile(r"^\s*%(include|ksappend)\s+(\S+)\s*(?:#.*)?$")
_GUEST_INCLUDES = ("/tmp/", "/run/")  # noqa: S108 # the guest's, written by %pre, never read here
SCRIPTS = ("%pre", "%pre-install", "%post", "%onerror", "%traceback")
"""The sections of a kickstart that are scripts."""
_SECTIONS = frozenset((*SCRIPTS, "%packages", "%addon", "%anaconda", "%certificate", "%end"))
_MAX_BYTES = 1 << 20  # an answer file is read whole into an initrd; real ones are a few KiB
_MAX_DEPTH = 16


@dataclass(frozen=True)
class Line:
    """One line. file: its file's name, below the answer file's directory; number: from 1."""

    text: str
    file: str
    number: int

    @property
    def where(self) -> str:
        """The place in words."""
        return f"{self.file} line {self.number}"


@dataclass(frozen=True)
class Template:
    """An answer file with its includes in place, before its marks have their values."""

    lines: tuple[Line, ...]

    def where(self, number: int) -> str:
        """The place in the user's own files of line `number`, from 1, of the whole text."""
        if 1 <= number <= len(self.lines):
            return self.lines[number - 1].where
        return self.lines[-1].where if self.lines else "the end"

    def told(self, finding: Finding) -> str:
        """A finding with its place in the user's own files."""
        place = f"{self.where(finding.line)}: " if finding.line else ""
        other = f" (the other is {self.where(finding.other)})" if finding.other else ""
        return f"{place}{finding.text}{other}"

    def marks(self) -> Iterator[tuple[str, str, str]]:
        """Name, place and text of every mark, in order."""
        for line in self.lines:
            for match in _MARK.finditer(line.text):
                if not match[1]:
                    yield match[3], line.where, match[2]

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with a value for each mark; escaped marks lose their backslash."""
        return fill("".join(f"{line.text}\n" for line in self.lines), values)


@dataclass(frozen=True)
class Finding:
    """Something wrong. line: of the text with its includes in place, 0 for none.

    fatal: an install of it cannot succeed; otherwise the user is warned. other: a second line
    that it is about.
    """

    line: int
    text: str
    fatal: bool = True
    other: int = 0


def fill(template: str, values: Mapping[str, str]) -> str:
    r"""The template with a value for each of its marks; `\{{name}}` becomes `{{name}}`."""
    return _MARK.sub(lambda match: match[2] if match[1] else values[match[3]], template)


def script_lines(lines: Iterable[str], sections: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number and text of every line inside one of these sections of a kickstart."""
    wanted, inside = frozenset(sections), False
    for number, line in enumerate(lines, 1):
        word = line.split(None, 1)[0] if line.strip() else ""
        if word in _SECTIONS:
            inside = word in wanted
        elif inside:
            yield number, line


def load(path: Path, dialect: Dialect, faults: list[str]) -> Template:
    """The file with its includes in place; what is wrong is added to `faults`."""
    base = path.parent.resolve()
    return Template(tuple(_load(path, path.name, base, dialect, (), faults)))


def _load(  # noqa: PLR0917 # a recursion and all that it carries
    file: Path,
    name: str,
    base: Path,
    dialect: Dialect,
    above: tuple[Path, ...],
    faults: list[str],
) -> Iterable[Line]:
    real = file.resolve()
    if real in above:
        faults.append(f"{name} includes itself")
        return
    if len(above) > _MAX_DEPTH:
        faults.append(f"includes are nested deeper than {_MAX_DEPTH}")
        return
    for number, text in enumerate(_text(file, real, faults).splitlines(), 1):
        line = Line(text, name, number)
        match = _INCLUDE.match(text) if dialect == "kickstart" else None
        target = _target(line, match, file, base, faults) if match else None
        if target is not None:
            inner = _name(target, base)
            yield from _load(target, inner, base, dialect, (*above, real), faults)
        elif match is None or _is_guests(match):
            yield line


def _text(file: Path, real: Path, faults: list[str]) -> str:
    try:
        with real.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{file}: {error}")
        return ""
    if len(data) > _MAX_BYTES or "\0" in text:
        faults.append(f"{file}: it is no text of at most {_MAX_BYTES >> 10} KiB")
        return ""
    return text.replace("\r\n", "\n")


def _target(
    line: Line, match: re.Match[str], file: Path, base: Path, faults: list[str]
) -> Path | None:
    """The file that the line includes; None for one of the guest's and for a refused one."""
    name = _included(match)
    if match[1] == "ksappend":
        faults.append(f"{line.where}: %ksappend is not supported; use %include")
        return None
    if _is_guests(match):
        return None
    target = (file.parent / name).resolve()
    if "://" in name or not target.is_relative_to(base):
        faults.append(
            f"{line.where}: %include {name} is outside {base}: copy it there and include it by "
            "its name"
        )
        return None
    return target


def _is_guests(match: re.Match[str]) -> bool:
    name = _included(match)
    return (
        match[1] == "include" and name.startswith(_GUEST_INCLUDES) and ".." not in Path(name).parts
    )


def _included(match: re.Match[str]) -> str:
    return match[2].strip("\"'")


def _name(path: Path, base: Path) -> str:
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
