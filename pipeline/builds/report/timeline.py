"""The stages as bars over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.builds.manifest import StageRecord
from pipeline.builds.report.markup import Markup, tag
from pipeline.core.text import human_seconds

OUTER = ("install", "image", "inventory", "digests", "verify")
"""Stages that are no part of another one."""
_WIDTH, _ROW, _LABELS, _FIGURES = 1120.0, 30.0, 130.0, 90.0
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_TICKS = 8


@dataclass(frozen=True)
class Bar:
    """One stage; begun and seconds in seconds after the build's start."""

    name: str
    begun: float
    seconds: float
    reused: bool


def bars(stages: Mapping[str, StageRecord]) -> list[Bar]:
    """The stages by their begin; one whose begin is not recorded follows the one before it."""
    found: list[Bar] = []
    end = 0.0
    for name, stage in stages.items():
        begun = stage.begun if stage.begun is not None else end
        found.append(Bar(name, begun, stage.seconds, stage.reused))
        end = begun + stage.seconds
    return sorted(found, key=lambda bar: (bar.begun, -bar.seconds))


def elapsed(stages: Mapping[str, StageRecord]) -> float:
    """Seconds from the build's start to the end of its last stage."""
    return max((bar.begun + bar.seconds for bar in bars(stages)), default=0.0)


def draw(stages: Mapping[str, StageRecord]) -> Markup:
    """The chart as SVG; nothing when no stage ran."""
    rows = bars(stages)
    if not rows:
        return Markup("")
    total = elapsed(stages) or 1.0
    # A rerun that did nothing keeps the figures of the run that did the work.
    all_reused = all(bar.reused for bar in rows)
    scale = (_WIDTH - _LABELS - _FIGURES) / total
    height = _ROW * len(rows) + 24
    return tag(
        "svg",
        *_grid(total, scale, height),
        *(_bar(bar, index, scale, figures=all_reused) for index, bar in enumerate(rows)),
        class_="timeline",
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
        role="img",
        aria_label="Stages over time: "
        + ", ".join(f"{bar.name} {human_seconds(bar.seconds)}" for bar in rows),
    )


def _grid(total: float, scale: float, height: float) -> Iterable[Markup]:
    step = next((s for s in _STEPS if total / s <= _TICKS), total / _TICKS)
    for index in range(int(total / step) + 1):
        x = round(_LABELS + index * step * scale, 1)
        yield tag("line", x1=x, x2=x, y1=0.0, y2=height - 20, class_="grid")
        yield tag("text", human_seconds(index * step), x=x, y=height - 5, class_="tick")


def _bar(bar: Bar, index: int, scale: float, *, figures: bool) -> Markup:
    x = round(_LABELS + bar.begun * scale, 1)
    y = index * _ROW
    width = round(max(bar.seconds * scale, 2), 1)
    figure = "reused" if bar.reused and not figures else human_seconds(bar.seconds)
    inner = "" if bar.name in OUTER else " inner"
    return tag(
        "g",
        tag("text", bar.name, x=_LABELS - 10, y=y + 19, class_="label"),
        tag(
            "rect",
            x=x,
            y=y + 5,
            width=width,
            height=_ROW - 10,
            rx=4.0,
            class_=f"bar{inner}{' reused' if bar.reused else ''}",
        ),
        tag("text", figure, x=x + width + 8, y=y + 19, class_="figure"),
    )
