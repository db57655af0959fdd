"""What every stage is given besides its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.events import Progress
from pipeline.host.programs import Runner


@dataclass(frozen=True)
class Tools:
    """The outside world as a stage may see it.

    run: starts programs. progress: speaks to the user. scratch: an existing directory
    of this build's for unfinished files, deleted when the build ends.
    """

    run: Runner
    progress: Progress
    scratch: Path
