"""What differs from the build before, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.builds.compare import Change, Comparison
from pipeline.core.text import human_bytes

_MOST = 300  # rows of a table; `invoke diff` prints all
_OPEN = 40  # rows; a longer table is folded


@dataclass(frozen=True)
class Row:
    """One difference; state is "added", "removed" or "changed". grew: "" for not at all."""

    state: str
    name: str
    old: str
    new: str
    what: str
    grew: str


@dataclass(frozen=True)
class ChangeTable:
    """The differences of one kind. value: what is compared: "version", "size" or "value".

    note: said in place of the table. hidden: rows that are left out.
    """

    name: str
    value: str
    note: str = ""
    counts: str = ""
    rows: tuple[Row, ...] = ()
    hidden: int = 0
    open: bool = False


def tables(comparison: Comparison) -> tuple[ChangeTable, ...]:
    """Packages, files and manifest fields."""
    return (
        _table("Packages", comparison.packages, "version"),
        _table("Files", comparison.files, "size"),
        _table("Manifest", comparison.fields, "value"),
    )


def _table(name: str, changes: Sequence[Change] | None, value: str) -> ChangeTable:
    if changes is None:
        return ChangeTable(name, value, note=f"{name} of one of the builds are not known.")
    if not changes:
        return ChangeTable(name, value, note=f"{name}: no difference.")
    return ChangeTable(
        name,
        value,
        counts=_counts(changes),
        rows=tuple(_rows(changes[:_MOST], value)),
        hidden=max(len(changes) - _MOST, 0),
        open=len(changes) <= _OPEN,
    )


def _rows(changes: Sequence[Change], value: str) -> Iterator[Row]:
    for change in changes:
        state = "added" if change.old is None else "removed" if change.new is None else "changed"
        old, new = (
            human_bytes(int(v)) if v is not None and value == "size" else v or ""
            for v in (change.old, change.new)
        )
        yield Row(state, change.name, old, new, change.what, _delta(change.bytes))


def _counts(changes: Sequence[Change]) -> str:
    added = sum(c.old is None for c in changes)
    removed = sum(c.new is None for c in changes)
    parts = {"added": added, "removed": removed, "changed": len(changes) - added - removed}
    words = [f"{count:,} {word}" for word, count in parts.items() if count]
    total = sum(c.bytes for c in changes)
    return ", ".join([*words, *([_delta(total)] if total else [])])


def _delta(count: int) -> str:
    return f"{'+' if count > 0 else '−'}{human_bytes(abs(count))}" if count else ""
