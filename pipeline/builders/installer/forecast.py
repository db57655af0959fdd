"""How far an install is, told from the phases of the last one: installers give no percentage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Forecast:
    """The install before this one: at which second each phase began, the last one its end."""

    phases: tuple[tuple[float, str], ...] = ()

    @property
    def total(self) -> int | None:
        """Seconds it took; None when there was none."""
        return round(self.phases[-1][0]) if self.phases else None

    def position(self, phases: Sequence[tuple[float, str]], now: float) -> float:
        """Which second of that install corresponds to this one's second `now`.

        phases: this install's so far, with the seconds at which they began. A phase that the last
        install did not have adds nothing; nothing goes beyond the begin of the next phase.
        """
        begun = 0.0
        then = 0.0
        after = self.phases[0][0] if self.phases else 0.0
        for at, name in reversed(phases):
            place = next((i for i, (_, known) in enumerate(self.phases) if known == name), None)
            if place is not None:
                begun, then = at, self.phases[place][0]
                after = self.phases[min(place + 1, len(self.phases) - 1)][0]
                break
        pace = begun / then if begun and then else 1.0
        return min(then + (now - begun) / pace, after)


def read_forecast(report: Path, accelerator: str) -> Forecast:
    """From an install.json; nothing where it is missing, unreadable or of another accelerator."""
    try:
        facts = json.loads(report.read_text())
        if facts["accelerator"] != accelerator:
            return Forecast()
        return Forecast(tuple((float(p["second"]), str(p["phase"])) for p in facts["phases"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Forecast()
