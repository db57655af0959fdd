"""The steps as bars over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.builds.manifest import StepRecord
from pipeline.core.steps import OUTER
from pipeline.core.text import human_seconds

_WIDTH, _ROW, _LABELS, _FIGURES = 1120.0, 30.0, 130.0, 90.0
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_TICKS = 8


@dataclass(frozen=True)
class Bar:
    """One step; begun and seconds in seconds after the build's start."""

    name: str
    begun: float
    seconds: float
    reused: bool


def bars(steps: Mapping[str, StepRecord]) -> list[Bar]:
    """The steps by their begin; one whose begin is not recorded follows the one before it."""
    found: list[Bar] = []
    end = 0.0
    for name, step in steps.items():
        begun = step.begun if step.begun is not None else end
        found.append(Bar(name, begun, step.seconds, step.reused))
        end = begun + step.seconds
    return sorted(found, key=lambda bar: (bar.begun, -bar.seconds))


def elapsed(steps: Mapping[str, StepRecord]) -> float:
    """Seconds from the build's start to the end of its last step."""
    return max((bar.begun + bar.seconds for bar in bars(steps)), default=0.0)


@dataclass(frozen=True)
class DrawnBar:
    """One step's row; places and lengths in the drawing's units. inner: part of another step."""

    name: str
    figure: str
    inner: bool
    reused: bool
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Tick:
    """A line of the grid and what stands below it."""

    x: float
    text: str


@dataclass(frozen=True)
class Chart:
    """The chart of all steps. label: the same in words. bar: a bar's height."""

    width: float
    height: float
    label: str
    ticks: tuple[Tick, ...]
    rows: tuple[DrawnBar, ...]
    labels_end: float = _LABELS - 10
    bar: float = _ROW - 10


def chart(steps: Mapping[str, StepRecord]) -> Chart | None:
    """The chart; None when no step ran."""
    rows = bars(steps)
    if not rows:
        return None
    total = elapsed(steps) or 1.0
    # A rerun that did nothing keeps the figures of the run that did the work.
    all_reused = all(bar.reused for bar in rows)
    scale = (_WIDTH - _LABELS - _FIGURES) / total
    return Chart(
        width=_WIDTH,
        height=_ROW * len(rows) + 24,
        label="Stages over time: "
        + ", ".join(f"{bar.name} {human_seconds(bar.seconds)}" for bar in rows),
        ticks=_ticks(total, scale),
        rows=tuple(
            DrawnBar(
                name=bar.name,
                figure="reused" if bar.reused and not all_reused else human_seconds(bar.seconds),
                inner=bar.name not in OUTER,
                reused=bar.reused,
                x=round(_LABELS + bar.begun * scale, 1),
                y=index * _ROW,
                width=round(max(bar.seconds * scale, 2), 1),
            )
            for index, bar in enumerate(rows)
        ),
    )


def _ticks(total: float, scale: float) -> tuple[Tick, ...]:
    step = next((s for s in _STEPS if total / s <= _TICKS), total / _TICKS)
    return tuple(
        Tick(round(_LABELS + index * step * scale, 1), human_seconds(index * step))
        for index in range(int(total / step) + 1)
    )
