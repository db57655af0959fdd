"""What differs from the build before, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.builds.compare import Change, Comparison
from pipeline.builds.report.markup import Markup, join, table, tag
from pipeline.core.text import human_bytes

_MOST = 300  # rows of a table; `invoke diff` prints all


def draw(comparison: Comparison | None) -> Markup:
    """Packages, files and manifest fields; a note when there is nothing to compare with."""
    if comparison is None:
        return tag("p", "There is no earlier build of this recipe to compare with.", class_="note")
    intro = tag("p", f"Compared with the build of {comparison.old}.", class_="note")
    if comparison.same:
        return join(intro, tag("p", "Nothing differs."))
    return join(
        intro,
        _change_table("Packages", comparison.packages, "version"),
        _change_table("Files", comparison.files, "size"),
        _change_table("Manifest", comparison.fields, "value"),
    )


def _change_table(name: str, changes: Sequence[Change] | None, what: str) -> Markup:
    if changes is None:
        return tag("p", f"{name} of one of the builds are not known.", class_="note")
    if not changes:
        return tag("p", f"{name}: no difference.", class_="note")
    counts = _counts(changes)
    rows = []
    for change in changes[:_MOST]:
        state = "added" if change.old is None else "removed" if change.new is None else "changed"
        old, new = (
            human_bytes(int(v)) if v is not None and what == "size" else v
            for v in (change.old, change.new)
        )
        rows.append(
            tag(
                "tr",
                tag("td", state, class_=f"state {state}"),
                tag("td", change.name, class_="name"),
                tag("td", old or ""),
                tag("td", new or ""),
                tag("td", change.what) if what == "size" else None,
                tag("td", _delta(change.bytes), class_="number") if what != "value" else None,
            )
        )
    head = ["", name, f"Old {what}", f"New {what}"]
    head += ["Differs in"] if what == "size" else []
    head += ["Grew by"] if what != "value" else []
    hidden = len(changes) - len(rows)
    return tag(
        "details",
        tag("summary", name, " ", tag("small", counts)),
        table(head, rows, "changes"),
        tag("p", f"{hidden:,} more: `invoke diff` prints all.", class_="note") if hidden else None,
        open="" if len(changes) <= 40 else None,
    )


def _counts(changes: Sequence[Change]) -> str:
    added = sum(c.old is None for c in changes)
    removed = sum(c.new is None for c in changes)
    parts = {"added": added, "removed": removed, "changed": len(changes) - added - removed}
    words = [f"{count:,} {word}" for word, count in parts.items() if count]
    total = sum(c.bytes for c in changes)
    return ", ".join([*words, *([_delta(total)] if total else [])])


def _delta(count: int) -> str:
    return f"{'+' if count > 0 else '−'}{human_bytes(abs(count))}" if count else ""
