"""The page out of the facts, by the templates of templates/report.

Guest strings are hostile. Jinja2 escapes every value (autoescape), what would change the look of
the text around it is made visible first, and the page's own policy (CSP) runs no script but ours.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup

from pipeline.builds.report import changes, content, timeline, treemap
from pipeline.builds.report.facts import Facts
from pipeline.core.resources import TEMPLATES
from pipeline.core.settings import cache_dir
from pipeline.core.text import human_bytes, human_seconds, printable
from pipeline.host.files import write_whole

_TEMPLATES = TEMPLATES / "report"


@dataclass(frozen=True)
class Section:
    """A part of the page; `anchor` is its id and the name of its template."""

    name: str
    anchor: str


def render(facts: Facts) -> str:
    """The whole page."""
    style, script = (_TEMPLATES.joinpath(name).read_text() for name in ("report.css", "report.js"))
    return fragment(
        "page",
        facts=facts,
        sections=_sections(facts),
        chart=timeline.chart(facts.timings),
        content=content.content(facts.inventory) if facts.inventory else None,
        change_tables=changes.tables(facts.comparison) if facts.comparison else (),
        # The project's own files, which the policy admits by their digests.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        style_hash=_source(style),
        script_hash=_source(script),
    )


def fragment(template: str, **values: object) -> Markup:
    """What one template makes of the values; what of them is no `Markup` is escaped."""
    text = environment().get_template(f"{template}.html.j2").render(values)
    return Markup(text)  # noqa: S704 # by autoescape


class _Compiled(BytecodeCache):
    """The templates as Python compiled them, in the user's cache; without it they are made anew.

    Jinja2 compares each with its template's text and its own version.
    """

    def _path(self, bucket: Bucket) -> Path:
        return cache_dir() / "templates" / f"{bucket.key}.bin"

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill the bucket, if somebody kept it."""
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError):
            bucket.bytecode_from_string(self._path(bucket).read_bytes())

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the bucket."""
        with contextlib.suppress(OSError):
            path = self._path(bucket)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, bucket.bytecode_to_string())


@cache
def environment() -> Environment:
    """The templates' settings: a name that is missing is an error, never an empty place."""
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        bytecode_cache=_Compiled(),
    )
    found.filters.update(bytes=human_bytes, seconds=human_seconds, number=_number)
    found.globals.update(map_width=treemap.WIDTH, map_height=treemap.HEIGHT)
    return found


def _shown(value: Any) -> Any:
    """A value as it is written: markup as it stands, text without what drives a terminal.

    Bidirectional controls, escape sequences and lone surrogates would change what is seen.
    """
    return value if isinstance(value, Markup) else printable(str(value))


def _number(value: float) -> str:
    """A coordinate of a drawing: 1120.0 -> "1120"."""
    return f"{value:g}"


def _sections(facts: Facts) -> list[Section]:
    names = {
        "Origin": True,
        "Time": bool(facts.timings),
        "Content": True,
        "Boot check": True,
        "Install": bool(facts.install.consoles or facts.install.pictures),
        "Files": True,
        "Edits": True,
        "Changes": True,
        "Clouds": True,
        "Commands": facts.commands is not None,
    }
    return [Section(name, name.lower().replace(" ", "-")) for name, has in names.items() if has]


def _source(text: str) -> str:
    """A source expression of Content Security Policy Level 3."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
