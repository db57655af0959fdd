"""One build at work: what was asked, where it is made, and what its steps share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.builds.workspace import Workspace
from pipeline.core import settings
from pipeline.core.image import Acceleration
from pipeline.core.request import BuildRequest
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.workflows.steps import Clock


@dataclass
class Job:
    """A request in its directory.

    workspace: the directory, its lock and its cache entries. tools: programs, progress and scratch
    space of this run.
    """

    request: BuildRequest
    workspace: Workspace
    tools: Tools
    clock: Clock = field(default_factory=Clock)

    @property
    def name(self) -> str:
        """The recipe's name, of which the files' names begin."""
        return self.request.recipe.name

    @property
    def directory(self) -> Path:
        """Where the build lies."""
        return self.workspace.directory

    @cached_property
    def acceleration(self) -> Acceleration:
        """Measured when first needed: a build that reuses everything starts no guest."""
        return hypervisor.acceleration(
            self.tools,
            force=self.request.accelerator,
            architecture=self.request.recipe.architecture,
        )

    @cached_property
    def appliance_acceleration(self) -> Acceleration:
        """For the editing appliance, which is of this host's architecture, not of the image's."""
        if self.request.recipe.architecture == hypervisor.native():
            return self.acceleration
        return hypervisor.acceleration(self.tools)

    @property
    def accelerator(self) -> str | None:
        """kvm or tcg; None while no guest was started."""
        known = self.__dict__.get("acceleration")
        return known.accelerator if isinstance(known, Acceleration) else None


def build_directory(request: BuildRequest) -> Path:
    """Where the build of a request lies."""
    return settings.build_dir() / request.recipe.name
