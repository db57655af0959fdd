"""What was taken of a kickstart so far, and what was found wrong or left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.builders.installer.answer_text import Finding, Template
from pipeline.builders.installer.kickstart_syntax import Kickstart
from pipeline.builders.packages.settings import Script
from pipeline.core.environment import FromEnvironment
from pipeline.core.packages import (
    BackendName,
    PackageSystem,
)

_LEAST = {
    "distribution": "fedora",
    "release": "0",
    "repositories": ({"name": "r", "urls": ("https://r.invalid/",), "keys": (Path("k"),)},),
}
"""A system that has nothing wrong, for one field to be judged in."""


class Words:
    """What was taken so far, and what was found.

    real: the kickstart with its values; judged: with a placeholder for each that is secret.
    """

    def __init__(
        self,
        real: Kickstart,
        judged: Kickstart,
        template: Template,
        variables: Mapping[str, str | FromEnvironment],
        backend: BackendName,
    ) -> None:
        self.real, self.judged, self.template = real, judged, template
        self.variables, self.backend = variables, backend
        self.updates: dict[str, Any] = {}
        self.scripts: list[Script] = []
        self.command_line = self.fstype = self.label = ""
        self.findings: list[Finding] = []

    def leave_out(self, line: int, what: str, why: str = "") -> None:
        """Tell that something has no place in a system of packages."""
        self.findings.append(
            Finding(line, f"{what} is left out{': ' if why else ''}{why}", fatal=False)
        )

    def refuse(self, line: int, text: str) -> None:
        """Tell a fault."""
        self.findings.append(Finding(line, text))

    def line(self, *names: str) -> int:
        """The line of the last command of these names; 0 without one."""
        commands = self.real.named(*names)
        return commands[-1].line if commands else 0

    def field(self, line: int, name: str, value: Any) -> None:
        """Set one field; what `PackageSystem` would refuse is refused here, with its line."""
        try:
            PackageSystem.model_validate({**_LEAST, name: value})
        except ValidationError as error:
            self.refuse(line, "; ".join(f"{name}: {each['msg']}" for each in error.errors()))
            return
        self.updates[name] = value

    def made(self, line: int, make: Callable[..., BaseModel], **fields: Any) -> Any:
        """A record, or None after its faults were told."""
        try:
            return make(**fields)
        except ValidationError as error:
            for each in error.errors():
                place = ".".join(str(part) for part in each["loc"])
                self.refuse(line, f"{place}: {each['msg']}" if place else each["msg"])
            return None

    def at(self, text: str, instead: int) -> int:
        """The line that begins with a text."""
        for number, line in enumerate(self.real.lines, 1):
            if line.strip().startswith(text):
                return number
        return instead
