"""HTML and SVG out of strings that may be hostile: what is not `Markup` is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

from pipeline.core.text import printable

_VOID = ("img", "meta")  # HTML, 13.1.2: elements without an end tag


class Markup(str):
    """Text that is safe in a page as it stands: made by `tag` and `join` only."""

    __slots__ = ()


def tag(name: str, *children: str | None, **attributes: str | float | None) -> Markup:
    """An element. Children that are no Markup are escaped; None is left out.

    Attribute names are ours, never a guest's: "class_" becomes class, "data_x" data-x. An
    attribute of None is left out, "" stands alone.
    """
    parts = [name]
    for word, value in attributes.items():
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            key = word.removesuffix("_").replace("_", "-")
            parts.append(f'{key}="{_escaped(shown)}"' if shown else key)
    if name in _VOID:
        return Markup(f"<{' '.join(parts)}>")
    return Markup(f"<{' '.join(parts)}>{join(*children)}</{name}>")


def join(*children: str | None) -> Markup:
    """The children one after the other."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else _escaped(child)
            for child in children
            if child is not None
        )
    )


def table(head: Iterable[str], rows: Iterable[Markup], name: str) -> Markup:
    """A table with a head row, scrolling sideways where it is too wide."""
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", word, scope="col") for word in head))),
            tag("tbody", *rows),
            class_=name,
        ),
        class_="scroll",
    )


def _escaped(text: str) -> str:
    # Bidirectional controls, escape sequences and lone surrogates would change what is seen.
    return html.escape(printable(text), quote=True)
