"""Text answers of the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.core.steps import Action


def plan_lines(actions: Sequence[Action]) -> list[str]:
    """The actions numbered, each command below its action as a shell would take it."""
    lines = []
    for number, action in enumerate(actions, 1):
        lines.append(f"{number:2}. {action.what}")
        lines += [f"      $ {command}" for command in action.commands]
    return lines
