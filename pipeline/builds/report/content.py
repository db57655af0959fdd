"""What the image is made of: treemaps, and tables of the largest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.builds.report import treemap
from pipeline.guest.inventory import Inventory

_TOP = 15  # rows of a table of the largest
_WIDE = 26  # characters that fit beside a size and its bar


@dataclass(frozen=True)
class Row:
    """A thing and its bytes; `end` is what fits of its name."""

    name: str
    end: str
    bytes: int


@dataclass(frozen=True)
class Largest:
    """A table of the largest of a kind. most: bytes of the first, at least 1."""

    name: str
    rows: tuple[Row, ...]
    most: int


@dataclass(frozen=True)
class View:
    """One treemap. label: names it for those who do not see it."""

    name: str
    label: str
    cells: tuple[treemap.Cell, ...]


@dataclass(frozen=True)
class Content:
    """The whole section. used, size: bytes of the file system. unknown: why packages are not."""

    used: int
    size: int
    unknown: str
    views: tuple[View, ...]
    tables: tuple[Largest, ...]


def content(listing: Inventory) -> Content:
    """The section about an inventory."""
    views, tables = [], []
    if not listing.unknown:
        packages = treemap.by_package(listing)
        views.append(_view("By package", packages))
        tables.append(
            _largest("Largest packages", ((n.name, n.bytes) for n in packages.children[:_TOP]))
        )
    directories = treemap.by_directory(listing)
    views.append(_view("By directory", directories))
    tables.append(
        _largest(
            "Largest directories",
            ((n.path, n.bytes) for n in treemap.notable(directories, _TOP)),
        )
    )
    files = sorted(listing.entries, key=lambda e: (-e.allocated, e.path))[:_TOP]
    tables.append(_largest("Largest files", ((e.path, e.allocated) for e in files)))
    return Content(listing.used, listing.size, listing.unknown, tuple(views), tuple(tables))


def _view(name: str, root: treemap.Node) -> View:
    return View(name, f"Treemap of the image {name.lower()}", treemap.cells(root))


def _largest(name: str, things: Iterable[tuple[str, int]]) -> Largest:
    rows: Sequence[Row] = [Row(label, _end(label), size) for label, size in things]
    return Largest(name, tuple(rows), max((row.bytes for row in rows), default=0) or 1)


def _end(path: str) -> str:
    """A path's end, which tells more than its beginning."""
    short = len(path) <= _WIDE or not path.startswith("/")
    return path if short else f"…{path[1 - _WIDE :]}"
